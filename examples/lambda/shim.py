#!/usr/bin/env python3
"""Runs the handler of a Python Lambda, unmodified, for one step: `shim.py app.lambda_handler`.

The handler gets the event that Lambda would make of the step's message. What it reports about the
step with boto3 is the step's outcome, and is not sent to SageMaker: callbackd sends it. If it
raises, it is called again, as Lambda's queue would.

With LAMBDA_ANSWERS=handler all its calls go to SageMaker, and callbackd waits until the step is
closed: the configuration has `answers = "handler"` then.
"""

import contextlib
import importlib
import json
import logging
import os
import sys
import time
import traceback

import botocore.session
from botocore.awsrequest import AWSResponse

SUCCESS, FAILURE = "SendPipelineExecutionStepSuccess", "SendPipelineExecutionStepFailure"
AGAIN = 75


def main():
    step = json.load(sys.stdin)
    region = step["pipelineExecutionArn"].split(":")[3]
    os.environ.setdefault("AWS_REGION", region)
    os.environ.setdefault("AWS_DEFAULT_REGION", os.environ["AWS_REGION"])
    sends = os.environ.get("LAMBDA_ANSWERS") == "handler"
    answers = [] if sends else capture_answers(step["token"])
    # On stderr is only the reason of a failure.
    logging.basicConfig(stream=sys.stdout)
    sys.path.insert(0, os.environ.get("LAMBDA_TASK_ROOT", os.getcwd()))
    event = event_of(step, region, "Stopping" if "cleanup" in sys.argv[2:] else "Executing")
    try:
        module, _, function = sys.argv[1].rpartition(".")
        handler = getattr(importlib.import_module(module.replace("/", ".")), function)
        with contextlib.redirect_stderr(sys.stdout):
            returned = handler(event, Context(region))
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        if not answers:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            sys.exit(AGAIN)
        returned = None
    if answers:
        conclude(*answers[0])
    elif isinstance(returned, dict) and returned.get("batchItemFailures"):
        print("the handler returned the message to the queue", file=sys.stderr)
        sys.exit(AGAIN)
    elif not sends and "cleanup" not in sys.argv[2:]:
        fail("the handler returned without an answer to the step")


def capture_answers(token):
    """The list to which the answers of any client of SageMaker will be added."""
    answers = []

    def capture(model, params, **_):
        body = json.loads(params["body"])
        # Answers to other steps go to SageMaker.
        if body["CallbackToken"] != token:
            return None
        answers.append((model.name, body))
        return AWSResponse(None, 200, {}, None), {}

    create = botocore.session.Session.create_client

    def create_client(session, service_name, *arguments, **options):
        client = create(session, service_name, *arguments, **options)
        if service_name == "sagemaker":
            for operation in (SUCCESS, FAILURE):
                client.meta.events.register(f"before-call.sagemaker.{operation}", capture)
        return client

    botocore.session.Session.create_client = create_client
    return answers


def event_of(step, region, status):
    """The event of a queue with one message. Each attempt is a receive."""
    body = {name: step[name] for name in ("token", "pipelineExecutionArn", "arguments")}
    account, queue = step["queueUrl"].split("/")[-2:]
    record = {
        "messageId": step["token"],
        "receiptHandle": step["token"],
        "body": json.dumps(body | {"status": status}),
        "attributes": {"ApproximateReceiveCount": str(step["attempt"])},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:{region}:{account}:{queue}",
        "awsRegion": region,
    }
    return {"Records": [record]}


class Context:
    """What handlers use of Lambda's context."""

    def __init__(self, region):
        self.aws_request_id = os.environ["STEP_TOKEN"]
        self.function_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "callbackd")
        self.function_version = "$LATEST"
        self.memory_limit_in_mb = "128"
        self.invoked_function_arn = f"arn:aws:lambda:{region}:000000000000:function:callbackd"
        self.log_group_name = self.log_stream_name = "callbackd"
        self.ends = time.monotonic() + float(os.environ.get("LAMBDA_TIMEOUT", 900))

    def get_remaining_time_in_millis(self):
        return max(0, int((self.ends - time.monotonic()) * 1000))


def conclude(operation, body):
    """Ends as the handler has answered."""
    if operation == FAILURE:
        fail(body.get("FailureReason", "the handler reported a failure without a reason"))
    outputs = {one["Name"]: one["Value"] for one in body.get("OutputParameters", [])}
    with open(os.environ["STEP_OUTPUT"], "w") as file:
        json.dump(outputs, file)


def fail(reason):
    if path := os.environ.get("STEP_REASON"):
        with open(path, "w") as file:
            file.write(reason)
    sys.exit(reason)


main()
