"""What boto3 sees of the local endpoint. Run by tests/interop.rs, which gives the address in LOCAL_ENDPOINT.

Every body that the endpoint answers is held against botocore's service model: no member that the model does not know, none
missing that it requires, each of its type.
"""

import json
import os
import threading
import time
import unittest
import urllib.error
import urllib.request
import uuid

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

URL = os.environ["LOCAL_ENDPOINT"]
ROLE = "arn:aws:iam::123456789012:role/pipelines"


def validated(client):
    """Holds each successful response's own body, not what botocore makes of it, against the model."""

    def check(http_response, model, **_):
        if http_response.status_code >= 300:
            return
        body = json.loads(http_response.content or b"{}")
        if model.output_shape is None:
            assert body == {}, f"{model.name} has no output, and got {body}"
            return
        report = ParamValidator().validate(body, model.output_shape)
        assert not report.has_errors(), f"{model.name}: {report.generate_report()}"

    client.meta.events.register("after-call", check)
    return client


def client(service):
    # A retry would hide an error that should not be.
    config = Config(retries={"total_max_attempts": 1}, read_timeout=30)
    session = boto3.Session("test", "test", region_name="us-east-1")
    return validated(session.client(service, endpoint_url=URL, config=config))


def control(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{URL}/_local/{path}", data=data, method=method)
    with urllib.request.urlopen(request) as response:
        return json.load(response)


class Case(unittest.TestCase):
    def setUp(self):
        self.sqs, self.sagemaker = client("sqs"), client("sagemaker")
        self.addCleanup(control, "DELETE", "faults")
        self.addCleanup(control, "PUT", "undocumented", {})
        self.name = f"q-{uuid.uuid4().hex}"
        self.queue = self.sqs.create_queue(QueueName=self.name)["QueueUrl"]

    def send(self, body="body", **more):
        return self.sqs.send_message(QueueUrl=self.queue, MessageBody=body, **more)

    def receive(self, **more):
        more.setdefault("MaxNumberOfMessages", 10)
        return self.sqs.receive_message(QueueUrl=self.queue, **more).get("Messages", [])

    def raises(self, code, message=""):
        return Raises(self, code, message)


class Raises:
    """An error by the code that users compare, and by a part of its message."""

    def __init__(self, case, code, message):
        self.case, self.code, self.message = case, code, message

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        self.case.assertIsInstance(error, ClientError, f"{self.code} was expected, not {error!r}")
        self.case.assertEqual(error.response["Error"]["Code"], self.code)
        self.case.assertIn(self.message, error.response["Error"]["Message"])
        self.error = error
        return True


class Queues(Case):
    def test_a_queue_is_found_by_name_and_in_the_list(self):
        self.assertTrue(self.queue.endswith(f"/123456789012/{self.name}"))
        self.assertEqual(self.sqs.get_queue_url(QueueName=self.name)["QueueUrl"], self.queue)
        self.assertEqual(self.sqs.list_queues(QueueNamePrefix=self.name)["QueueUrls"], [self.queue])

    def test_a_long_list_comes_in_pages(self):
        urls = {self.sqs.create_queue(QueueName=f"{self.name}-{n}")["QueueUrl"] for n in range(5)}
        pages = list(self.sqs.get_paginator("list_queues").paginate(
            QueueNamePrefix=f"{self.name}-", PaginationConfig={"PageSize": 2}))
        self.assertEqual([len(page["QueueUrls"]) for page in pages], [2, 2, 1])
        self.assertEqual({url for page in pages for url in page["QueueUrls"]}, urls)

    def test_a_queue_that_does_not_exist_is_the_modelled_exception(self):
        with self.assertRaises(self.sqs.exceptions.QueueDoesNotExist) as raised:
            self.sqs.get_queue_url(QueueName="nowhere")
        self.assertEqual(raised.exception.response["Error"]["Code"], "AWS.SimpleQueueService.NonExistentQueue")
        self.sqs.delete_queue(QueueUrl=self.queue)
        with self.assertRaises(self.sqs.exceptions.QueueDoesNotExist):
            self.send()

    def test_a_queue_made_twice_is_the_same_unless_its_attributes_differ(self):
        again = self.sqs.create_queue(QueueName=self.name, Attributes={"VisibilityTimeout": "30"})
        self.assertEqual(again["QueueUrl"], self.queue)
        with self.assertRaises(self.sqs.exceptions.QueueNameExists):
            self.sqs.create_queue(QueueName=self.name, Attributes={"VisibilityTimeout": "31"})

    def test_attributes_are_set_and_shown(self):
        changes = {"VisibilityTimeout": "77", "MessageRetentionPeriod": "3600"}
        self.sqs.set_queue_attributes(QueueUrl=self.queue, Attributes=changes)
        shown = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["All"])["Attributes"]
        self.assertEqual(shown["QueueArn"], f"arn:aws:sqs:us-east-1:123456789012:{self.name}")
        self.assertLessEqual(changes.items(), shown.items())
        with self.assertRaises(self.sqs.exceptions.InvalidAttributeName):
            self.sqs.set_queue_attributes(QueueUrl=self.queue, Attributes={"Nonsense": "1"})
        with self.assertRaises(self.sqs.exceptions.InvalidAttributeValue):
            self.sqs.set_queue_attributes(QueueUrl=self.queue, Attributes={"VisibilityTimeout": "43201"})

    def test_a_fifo_queue_is_refused(self):
        with self.assertRaises(self.sqs.exceptions.UnsupportedOperation):
            self.sqs.create_queue(QueueName="a.fifo", Attributes={"FifoQueue": "true"})

    def test_a_purge_empties_a_queue_and_has_to_wait_for_the_next(self):
        self.send()
        self.sqs.purge_queue(QueueUrl=self.queue)
        self.assertEqual(self.receive(), [])
        with self.assertRaises(self.sqs.exceptions.PurgeQueueInProgress):
            self.sqs.purge_queue(QueueUrl=self.queue)


class Messages(Case):
    def counts(self):
        names = ["", "NotVisible", "Delayed"]
        names = [f"ApproximateNumberOfMessages{name}" for name in names]
        shown = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)["Attributes"]
        return [int(shown[name]) for name in names]

    def test_a_message_is_received_once_counted_and_deleted(self):
        sent = self.send("grüße 🦀")
        self.assertEqual(self.counts(), [1, 0, 0])
        [message] = self.receive(MessageSystemAttributeNames=["All"])
        self.assertEqual((message["MessageId"], message["Body"]), (sent["MessageId"], "grüße 🦀"))
        self.assertEqual(message["MD5OfBody"], sent["MD5OfMessageBody"])
        self.assertEqual(message["Attributes"]["ApproximateReceiveCount"], "1")
        self.assertAlmostEqual(int(message["Attributes"]["SentTimestamp"]) / 1000, time.time(), delta=60)
        self.assertEqual((self.counts(), self.receive()), ([0, 1, 0], []))
        self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        self.assertEqual(self.counts(), [0, 0, 0])

    def test_attributes_come_only_when_asked_for(self):
        trace = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-5759e988-bd862e3fe1be46a994272793"}}
        own = {
            "a.text": {"DataType": "String", "StringValue": "x"},
            "b.bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
            "c": {"DataType": "Number.int", "StringValue": "5"},
        }
        sent = self.send(MessageAttributes=own, MessageSystemAttributes=trace)
        again = {"VisibilityTimeout": 0}
        [bare] = self.receive(**again)
        self.assertEqual(set(bare), {"MessageId", "ReceiptHandle", "MD5OfBody", "Body"})
        [some] = self.receive(MessageSystemAttributeNames=["AWSTraceHeader"], MessageAttributeNames=["a.*"], **again)
        self.assertEqual(some["Attributes"], {"AWSTraceHeader": trace["AWSTraceHeader"]["StringValue"]})
        self.assertEqual(some["MessageAttributes"], {"a.text": own["a.text"]})
        [every] = self.receive(AttributeNames=["All"], MessageAttributeNames=["All"], **again)
        self.assertEqual(every["MessageAttributes"], own)
        self.assertEqual(every["MD5OfMessageAttributes"], sent["MD5OfMessageAttributes"])

    def test_a_long_poll_wakes_at_once(self):
        polling = threading.Event()
        woken = []

        def poll():
            sqs = client("sqs")
            sqs.meta.events.register("before-send", lambda **_: polling.set())
            woken.extend(sqs.receive_message(QueueUrl=self.queue, WaitTimeSeconds=20).get("Messages", []))

        thread = threading.Thread(target=poll)
        thread.start()
        polling.wait()
        self.send()
        # Had it not woken, it would have slept for its 20 seconds.
        thread.join(timeout=15)
        self.assertFalse(thread.is_alive())
        self.assertEqual(len(woken), 1)

    def test_an_old_receipt_deletes_nothing_and_extends_nothing(self):
        self.send()
        [old] = self.receive(VisibilityTimeout=0)
        [new] = self.receive()
        self.assertNotEqual(old["ReceiptHandle"], new["ReceiptHandle"])
        self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=old["ReceiptHandle"])
        self.assertEqual(self.counts(), [0, 1, 0])
        with self.raises("InvalidParameterValue", "not available for visibility timeout change"):
            self.sqs.change_message_visibility(
                QueueUrl=self.queue, ReceiptHandle=old["ReceiptHandle"], VisibilityTimeout=10)
        with self.assertRaises(self.sqs.exceptions.ReceiptHandleIsInvalid):
            self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle="nonsense")

    def test_a_message_that_is_visible_is_not_in_flight(self):
        self.send()
        [message] = self.receive()
        hide = {"QueueUrl": self.queue, "ReceiptHandle": message["ReceiptHandle"]}
        self.sqs.change_message_visibility(VisibilityTimeout=0, **hide)
        self.assertEqual(self.counts(), [1, 0, 0])
        with self.assertRaises(self.sqs.exceptions.MessageNotInflight):
            self.sqs.change_message_visibility(VisibilityTimeout=10, **hide)

    def test_nothing_is_hidden_for_more_than_twelve_hours_from_its_receive(self):
        self.send()
        [message] = self.receive()
        hide = {"QueueUrl": self.queue, "ReceiptHandle": message["ReceiptHandle"]}
        # The endpoint counts in milliseconds: let one pass.
        time.sleep(0.002)
        with self.raises("InvalidParameterValue", "beyond the limit [43200 seconds]"):
            self.sqs.change_message_visibility(VisibilityTimeout=43200, **hide)
        self.sqs.change_message_visibility(VisibilityTimeout=43190, **hide)

    def test_a_number_out_of_its_range_is_refused(self):
        for wrong in [{"MaxNumberOfMessages": 11}, {"MaxNumberOfMessages": 0}, {"WaitTimeSeconds": 21},
                      {"VisibilityTimeout": 43201}]:
            with self.raises("InvalidParameterValue", "Must be between"):
                self.receive(**wrong)

    def test_a_body_that_cannot_be_is_refused(self):
        with self.assertRaises(self.sqs.exceptions.InvalidMessageContents):
            self.send("\x07")
        with self.raises("InvalidParameterValue", "shorter than 1048576 bytes"):
            self.send("x" * 1_048_577)

    def test_batches_answer_entry_by_entry(self):
        entries = [{"Id": str(n), "MessageBody": f"body {n}"} for n in range(3)]
        entries.append({"Id": "wrong", "MessageBody": "\x07"})
        sent = self.sqs.send_message_batch(QueueUrl=self.queue, Entries=entries)
        self.assertEqual([it["Id"] for it in sent["Successful"]], ["0", "1", "2"])
        self.assertEqual([(it["Id"], it["Code"], it["SenderFault"]) for it in sent["Failed"]],
                         [("wrong", "InvalidMessageContents", True)])
        handles = [message["ReceiptHandle"] for message in self.receive()]
        self.assertEqual(len(handles), 3)
        hidden = self.sqs.change_message_visibility_batch(QueueUrl=self.queue, Entries=[
            {"Id": "far", "ReceiptHandle": handles[0], "VisibilityTimeout": 100},
            {"Id": "now", "ReceiptHandle": handles[1], "VisibilityTimeout": 0},
            {"Id": "bad", "ReceiptHandle": "nonsense", "VisibilityTimeout": 10},
        ])
        self.assertEqual([it["Id"] for it in hidden["Successful"]], ["far", "now"])
        self.assertEqual([it["Code"] for it in hidden["Failed"]], ["ReceiptHandleIsInvalid"])
        self.assertEqual(self.counts(), [1, 2, 0])
        deleted = self.sqs.delete_message_batch(QueueUrl=self.queue, Entries=[
            {"Id": str(n), "ReceiptHandle": handle} for n, handle in enumerate(handles)])
        self.assertEqual([it["Id"] for it in deleted["Successful"]], ["0", "1", "2"])
        self.assertEqual(self.counts(), [0, 0, 0])

    def test_a_batch_that_cannot_be_is_refused_as_a_whole(self):
        exceptions = self.sqs.exceptions
        entry = {"Id": "a", "MessageBody": "body"}
        for entries, exception in [
            ([], exceptions.EmptyBatchRequest),
            ([{**entry, "Id": str(n)} for n in range(11)], exceptions.TooManyEntriesInBatchRequest),
            ([entry, entry], exceptions.BatchEntryIdsNotDistinct),
            ([{**entry, "Id": "a b"}], exceptions.InvalidBatchEntryId),
            ([{"Id": str(n), "MessageBody": "x" * 600_000} for n in range(2)], exceptions.BatchRequestTooLong),
        ]:
            with self.assertRaises(exception):
                self.sqs.send_message_batch(QueueUrl=self.queue, Entries=entries)
        self.assertEqual(self.counts(), [0, 0, 0])

    def test_a_message_received_too_often_moves_to_the_dead_letter_queue(self):
        dead = self.sqs.create_queue(QueueName=f"{self.name}-dead")["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})
        self.sqs.set_queue_attributes(QueueUrl=self.queue, Attributes={"RedrivePolicy": policy})
        sent = self.send()
        for _ in range(2):
            self.assertEqual(len(self.receive(VisibilityTimeout=0)), 1)
        self.assertEqual(self.receive(), [])
        [letter] = self.sqs.receive_message(QueueUrl=dead, AttributeNames=["All"])["Messages"]
        self.assertEqual(letter["MessageId"], sent["MessageId"])
        self.assertTrue(letter["Attributes"]["DeadLetterQueueSourceArn"].endswith(self.name))

    def test_a_dead_letter_queue_has_to_exist(self):
        policy = json.dumps({"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:nowhere", "maxReceiveCount": 2})
        with self.raises("InvalidParameterValue", "Dead letter target does not exist"):
            self.sqs.set_queue_attributes(QueueUrl=self.queue, Attributes={"RedrivePolicy": policy})


class Pipelines(Case):
    def setUp(self):
        super().setUp()
        self.pipeline = f"p-{uuid.uuid4().hex}"

    def step(self, name, arguments=None, outputs=(), **more):
        outputs = [{"OutputName": output, "OutputType": kind} for output, kind in outputs]
        return {"Name": name, "Type": "Callback", "SqsQueueUrl": self.queue, "Arguments": arguments or {},
                "OutputParameters": outputs, **more}

    def create(self, *steps, parameters=()):
        definition = {"Version": "2020-12-01", "Metadata": {}, "Parameters": list(parameters), "Steps": list(steps)}
        return self.sagemaker.create_pipeline(
            PipelineName=self.pipeline, PipelineDefinition=json.dumps(definition), RoleArn=ROLE)["PipelineArn"]

    def start(self, *steps, parameters=(), **more):
        self.create(*steps, parameters=parameters)
        return self.sagemaker.start_pipeline_execution(PipelineName=self.pipeline, **more)["PipelineExecutionArn"]

    def message(self, **more):
        [message] = self.receive(WaitTimeSeconds=5, **more)
        self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return json.loads(message["Body"])

    def succeed(self, token, outputs=None, **more):
        outputs = [{"Name": name, "Value": value} for name, value in (outputs or {}).items()]
        return self.sagemaker.send_pipeline_execution_step_success(
            CallbackToken=token, OutputParameters=outputs, **more)

    def status(self, arn):
        return self.sagemaker.describe_pipeline_execution(PipelineExecutionArn=arn)["PipelineExecutionStatus"]

    def steps(self, arn):
        listed = self.sagemaker.list_pipeline_execution_steps(PipelineExecutionArn=arn)["PipelineExecutionSteps"]
        return {step["StepName"]: step for step in listed}


class Definitions(Pipelines):
    def test_a_pipeline_is_created_described_updated_listed_and_deleted(self):
        arn = self.create(self.step("a"))
        described = self.sagemaker.describe_pipeline(PipelineName=self.pipeline)
        self.assertEqual((described["PipelineArn"], described["PipelineStatus"]), (arn, "Active"))
        self.assertAlmostEqual(described["CreationTime"].timestamp(), time.time(), delta=60)
        self.assertEqual(self.sagemaker.describe_pipeline(PipelineName=arn)["PipelineName"], self.pipeline)
        definition = json.dumps({"Version": "2020-12-01", "Steps": [self.step("b")]})
        self.sagemaker.update_pipeline(PipelineName=self.pipeline, PipelineDefinition=definition)
        self.assertEqual(self.sagemaker.describe_pipeline(PipelineName=self.pipeline)["PipelineDefinition"], definition)
        listed = self.sagemaker.list_pipelines(PipelineNamePrefix=self.pipeline)["PipelineSummaries"]
        self.assertEqual([it["PipelineArn"] for it in listed], [arn])
        self.sagemaker.delete_pipeline(PipelineName=self.pipeline)
        with self.assertRaises(self.sagemaker.exceptions.ResourceNotFound):
            self.sagemaker.describe_pipeline(PipelineName=self.pipeline)

    def test_a_name_that_is_taken_is_refused_in_the_words_that_the_sagemaker_sdk_looks_for(self):
        self.create(self.step("a"))
        with self.raises("ValidationException", "Pipeline names must be unique within"):
            self.create(self.step("a"))

    def test_a_definition_that_cannot_be_run_here_is_refused_by_step_and_type(self):
        with self.raises("ValidationException", "step train is of type Training"):
            self.create({"Name": "train", "Type": "Training"})

    def test_a_pipeline_that_runs_is_not_deleted(self):
        self.start(self.step("a"))
        with self.assertRaises(self.sagemaker.exceptions.ConflictException):
            self.sagemaker.delete_pipeline(PipelineName=self.pipeline)

    def test_a_pipeline_that_does_not_exist_cannot_be_started(self):
        with self.assertRaises(self.sagemaker.exceptions.ResourceNotFound):
            self.sagemaker.start_pipeline_execution(PipelineName="nowhere")


class Executions(Pipelines):
    def test_a_pipeline_of_dependent_steps_runs_to_its_end(self):
        parameters = [{"Name": "size", "Type": "Integer", "DefaultValue": 3}, {"Name": "bucket", "Type": "String"}]
        path = {"Std:Join": {"On": "/", "Values": ["s3:/", {"Get": "Parameters.bucket"},
                                                     {"Get": "Execution.PipelineName"}]}}
        arn = self.start(
            self.step("last", {"accuracy": {"Get": "Steps.first.OutputParameters['accuracy']"}}),
            self.step("first", {"size": {"Get": "Parameters.size"}, "path": path}, [("accuracy", "Float")]),
            parameters=parameters,
            PipelineParameters=[{"Name": "bucket", "Value": "b"}],
        )
        first = self.message()
        self.assertEqual(set(first), {"token", "pipelineExecutionArn", "arguments", "status"})
        self.assertRegex(first["token"], "^[a-zA-Z0-9]{10}$")
        self.assertEqual((first["pipelineExecutionArn"], first["status"]), (arn, "Executing"))
        self.assertEqual(first["arguments"], {"size": 3, "path": f"s3://b/{self.pipeline}"})
        self.assertEqual(self.receive(), [])
        waiting = self.steps(arn)["first"]
        self.assertEqual((waiting["StepStatus"], waiting["Metadata"]["Callback"]["CallbackToken"]),
                         ("Executing", first["token"]))
        self.assertEqual(waiting["Metadata"]["Callback"]["SqsQueueUrl"], self.queue)
        self.assertEqual(self.succeed(first["token"], {"accuracy": "0.92"})["PipelineExecutionArn"], arn)
        last = self.message()
        self.assertEqual(last["arguments"], {"accuracy": 0.92})
        self.assertEqual(self.status(arn), "Executing")
        self.succeed(last["token"])
        self.assertEqual(self.status(arn), "Succeeded")
        ended = self.steps(arn)["first"]
        self.assertEqual(ended["Metadata"]["Callback"]["OutputParameters"], [{"Name": "accuracy", "Value": "0.92"}])
        [summary] = self.sagemaker.list_pipeline_executions(PipelineName=self.pipeline)["PipelineExecutionSummaries"]
        self.assertEqual((summary["PipelineExecutionArn"], summary["PipelineExecutionStatus"]), (arn, "Succeeded"))

    def test_a_failed_step_fails_the_execution(self):
        arn = self.start(self.step("a"), self.step("b", DependsOn=["a"]))
        self.sagemaker.send_pipeline_execution_step_failure(
            CallbackToken=self.message()["token"], FailureReason="no space left")
        self.assertEqual(self.status(arn), "Failed")
        steps = self.steps(arn)
        self.assertEqual((list(steps), steps["a"]["StepStatus"]), (["a"], "Failed"))
        self.assertEqual(steps["a"]["FailureReason"], "no space left")

    def test_a_stop_is_announced_and_ends_with_the_answer(self):
        arn = self.start(self.step("a", {"n": 1}))
        executing = self.message()
        self.sagemaker.stop_pipeline_execution(PipelineExecutionArn=arn)
        stopping = self.message()
        self.assertEqual(stopping, {**executing, "status": "Stopping"})
        self.assertEqual((self.status(arn), self.steps(arn)["a"]["StepStatus"]), ("Stopping", "Stopping"))
        self.sagemaker.send_pipeline_execution_step_failure(CallbackToken=stopping["token"], FailureReason="stopped")
        self.assertEqual(self.status(arn), "Stopped")
        with self.assertRaises(self.sagemaker.exceptions.ConflictException):
            self.sagemaker.stop_pipeline_execution(PipelineExecutionArn=arn)

    def test_a_failed_execution_is_retried_with_its_own_arn_and_another_token(self):
        arn = self.start(self.step("a"))
        first = self.message()["token"]
        token = str(uuid.uuid4())
        with self.assertRaises(self.sagemaker.exceptions.ConflictException):
            self.sagemaker.retry_pipeline_execution(PipelineExecutionArn=arn, ClientRequestToken=token)
        self.sagemaker.send_pipeline_execution_step_failure(CallbackToken=first, FailureReason="broken")
        retried = self.sagemaker.retry_pipeline_execution(PipelineExecutionArn=arn, ClientRequestToken=token)
        self.assertEqual(retried["PipelineExecutionArn"], arn)
        second = self.message()["token"]
        self.assertNotEqual(first, second)
        self.succeed(second)
        self.assertEqual(self.status(arn), "Succeeded")

    def test_the_same_start_again_starts_nothing(self):
        token = uuid.uuid4().hex
        arn = self.start(self.step("a"), ClientRequestToken=token)
        again = self.sagemaker.start_pipeline_execution(PipelineName=self.pipeline, ClientRequestToken=token)
        self.assertEqual(again["PipelineExecutionArn"], arn)
        another = self.sagemaker.start_pipeline_execution(PipelineName=self.pipeline)
        self.assertNotEqual(another["PipelineExecutionArn"], arn)

    def test_a_parameter_that_is_missing_or_unknown_is_refused(self):
        self.create(self.step("a"), parameters=[{"Name": "p", "Type": "Integer"}])
        for given in [[], [{"Name": "p", "Value": "x"}], [{"Name": "p", "Value": "1"}, {"Name": "q", "Value": "1"}]]:
            with self.raises("ValidationException"):
                self.sagemaker.start_pipeline_execution(PipelineName=self.pipeline, PipelineParameters=given)

    def test_many_steps_and_executions_come_in_pages(self):
        arn = self.start(*[self.step(f"s{n}") for n in range(5)])
        for _ in range(4):
            self.sagemaker.start_pipeline_execution(PipelineName=self.pipeline)
        for operation, key, ask in [
            ("list_pipeline_execution_steps", "PipelineExecutionSteps", {"PipelineExecutionArn": arn}),
            ("list_pipeline_executions", "PipelineExecutionSummaries", {"PipelineName": self.pipeline}),
        ]:
            pages = self.sagemaker.get_paginator(operation).paginate(PaginationConfig={"PageSize": 2}, **ask)
            self.assertEqual([len(page[key]) for page in pages], [2, 2, 1])


class Answers(Pipelines):
    def setUp(self):
        super().setUp()
        self.arn = self.start(self.step("a"))
        self.token = self.message()["token"]

    def test_the_same_answer_again_is_accepted_and_another_refused(self):
        request = uuid.uuid4().hex
        self.succeed(self.token, {"x": "1"}, ClientRequestToken=request)
        self.succeed(self.token, {"x": "1"}, ClientRequestToken=request)
        with self.raises("ConflictException", "used before, with other parameters"):
            self.succeed(self.token, {"x": "2"}, ClientRequestToken=request)
        with self.assertRaises(self.sagemaker.exceptions.ConflictException) as raised:
            self.succeed(self.token)
        self.assertEqual(raised.exception.response["Error"]["Message"], "Step a is already in a terminal status")

    def test_a_token_that_was_never_given_out_is_refused(self):
        with self.assertRaises(self.sagemaker.exceptions.ResourceNotFound):
            self.succeed("abcdefghij")

    def test_what_aws_leaves_open_is_a_switch(self):
        control("PUT", "undocumented", {"already_terminal": "validation", "unknown_token": "validation",
                                        "reused_request_token": "replayed"})
        request = uuid.uuid4().hex
        self.succeed(self.token, ClientRequestToken=request)
        self.succeed(self.token, {"x": "1"}, ClientRequestToken=request)
        with self.raises("ValidationException", "already in a terminal status"):
            self.succeed(self.token)
        with self.raises("ValidationException"):
            self.succeed("abcdefghij")

    def test_the_models_constraints_are_enforced(self):
        sagemaker = boto3.Session("test", "test", region_name="us-east-1").client(
            "sagemaker", endpoint_url=URL, config=Config(parameter_validation=False))
        send = sagemaker.send_pipeline_execution_step_success
        detected = "1 validation error detected: Value "
        with self.raises("ValidationException", f"{detected}'short' at 'callbackToken'"):
            send(CallbackToken="short")
        with self.raises("ValidationException", "regular expression pattern: [a-zA-Z0-9]+"):
            send(CallbackToken="abcdefghi-")
        with self.raises("ValidationException", f"{detected}null at 'callbackToken'"):
            send()
        with self.raises("ValidationException", "at 'outputParameters'"):
            send(CallbackToken=self.token, OutputParameters=[{"Name": str(n), "Value": ""} for n in range(51)])
        with self.raises("ValidationException", "at 'outputParameters.1.member.value'"):
            send(CallbackToken=self.token, OutputParameters=[{"Name": "x", "Value": "x" * 1025}])
        with self.raises("ValidationException", "at 'failureReason'"):
            sagemaker.send_pipeline_execution_step_failure(CallbackToken=self.token, FailureReason="x" * 257)
        with self.raises("ValidationException", "at 'clientRequestToken'"):
            send(CallbackToken=self.token, ClientRequestToken="short")
        with self.raises("ValidationException", "at 'pipelineExecutionArn'"):
            sagemaker.describe_pipeline_execution(PipelineExecutionArn="nonsense")
        with self.raises("ValidationException", "at 'maxResults'"):
            sagemaker.list_pipeline_execution_steps(PipelineExecutionArn=self.arn, MaxResults=101)
        self.assertEqual(self.status(self.arn), "Executing")

    def test_an_operation_that_is_not_served_says_so(self):
        with self.raises("UnknownOperationException", "ListTrainingJobs"):
            self.sagemaker.list_training_jobs()


class Faults(Pipelines):
    def fail(self, operation, **fault):
        rules = [{"operation": operation, "count": 1, "fault": fault}]
        self.assertEqual(control("PUT", "faults", {"rules": rules})["rules"][0]["struck"], 0)

    def test_an_error_comes_before_the_call_acts_or_after(self):
        self.fail("SendMessage", kind="error", status=503, code="ServiceUnavailable", message="later")
        with self.raises("ServiceUnavailable", "later"):
            self.send()
        self.assertEqual(self.receive(), [])
        self.fail("SendMessage", kind="error", acted=True)
        with self.raises("InternalFailure"):
            self.send()
        self.assertEqual(len(self.receive()), 1)
        self.assertEqual(control("GET", "faults")["rules"][0]["struck"], 1)

    def test_a_dropped_connection_is_retried_and_an_answer_that_was_processed_is_accepted_again(self):
        arn = self.start(self.step("a"))
        token = self.message()["token"]
        retrying = boto3.Session("test", "test", region_name="us-east-1").client(
            "sagemaker", endpoint_url=URL, config=Config(retries={"total_max_attempts": 2, "mode": "standard"}))
        for reset in [False, True]:
            self.fail("SendPipelineExecutionStepSuccess", kind="disconnect", acted=True, reset=reset)
            retrying.send_pipeline_execution_step_success(CallbackToken=token, ClientRequestToken="0" * 32)
        self.assertEqual(self.status(arn), "Succeeded")

    def test_a_rule_that_cannot_be_is_refused_with_the_reason(self):
        with self.assertRaises(urllib.error.HTTPError) as raised:
            self.fail("DeleteMessage", kind="reorder")
        with raised.exception as error:
            self.assertIn("reorder cannot happen to DeleteMessage", json.load(error)["error"])


if __name__ == "__main__":
    unittest.main()
