#!/usr/bin/env python3
"""Starts an execution of the standard state machine STATE_MACHINE_ARN (without version or alias),
with the step's arguments as its input; what it returns at its top level are the step's outputs.
"""

import json
import os

import aws
from job import Failed, text

states = aws.client("stepfunctions")
MACHINE = os.environ["STATE_MACHINE_ARN"]


def arn_of(name):
    return MACHINE.replace(":stateMachine:", ":execution:") + ":" + name


def find(name):
    try:
        return states.describe_execution(executionArn=arn_of(name))["executionArn"]
    except states.exceptions.ExecutionDoesNotExist:
        return None


def submit(name, arguments):
    # A second start under the name starts nothing, and is refused once the first has ended.
    try:
        states.start_execution(stateMachineArn=MACHINE, name=name, input=json.dumps(arguments))
    except states.exceptions.ExecutionAlreadyExists:
        pass
    return arn_of(name)


def look(arn):
    execution = states.describe_execution(executionArn=arn)
    if execution["status"] == "SUCCEEDED":
        result = json.loads(execution.get("output", "{}"))
        result = result if isinstance(result, dict) else {"output": result}
        return {"execution_arn": arn} | {key: text(value) for key, value in result.items()}
    if execution["status"] in ("FAILED", "TIMED_OUT", "ABORTED"):
        causes = [execution["status"], execution.get("error"), execution.get("cause")]
        raise Failed("execution " + ": ".join(filter(None, causes)))
    return None


def cancel(arn):
    states.stop_execution(executionArn=arn, cause="the SageMaker pipeline step has ended")


aws.main(find, submit, look, cancel)
