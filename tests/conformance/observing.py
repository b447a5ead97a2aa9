"""How an endpoint is observed: clients that hide nothing, answers in a form that two endpoints can be compared by.

Nothing here knows which endpoint it talks to. Ids, handles, times and texts of errors are each endpoint's own and are left out; an
answer's members, codes, HTTP statuses and numbers are not.
"""

import json
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator


class Endpoint:
    """Clients of one endpoint, and what in its answers the service's model does not allow."""

    def __init__(self, url):
        self.url = url
        self.beside_the_model = set()
        self.sqs, self.sagemaker = self.client("sqs"), self.client("sagemaker")

    def client(self, service):
        # What botocore would refuse itself is for the service to refuse; a retry would hide an error.
        config = Config(parameter_validation=False, retries={"total_max_attempts": 1}, read_timeout=40,
                        max_pool_connections=20)
        session = boto3.Session("test", "test", region_name="us-east-1")
        client = session.client(service, endpoint_url=self.url, config=config)
        client.meta.events.register("after-call", self._hold_to_the_model)
        return client

    def _hold_to_the_model(self, http_response, model, **_):
        if http_response.status_code >= 300:
            return
        body = json.loads(http_response.content or b"{}")
        if model.output_shape is None:
            if body:
                self.beside_the_model.add(f"{model.name} has no output")
            return
        report = ParamValidator().validate(body, model.output_shape)
        for error, place, _ in report._errors:
            self.beside_the_model.add(f"{model.name}{place}: {error}")


def fresh(prefix="q"):
    return f"{prefix}-{uuid.uuid4().hex}"


def refused(error):
    """A refusal as the code that users compare, and the HTTP status."""
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    code = error.response["Error"]["Code"]
    # What is no answer of a service's protocol has its status for a code.
    return f"HTTP {status}" if code == str(status) else f"{code}, HTTP {status}"


def refusal(call, **input):
    """How a call is refused, or that it is not."""
    try:
        call(**input)
    except ClientError as error:
        return refused(error)
    return "accepted"


def members(answer):
    """The names of an answer's members."""
    return sorted(name for name in answer if name != "ResponseMetadata")


def entries(answer):
    """What came of each entry of a batch."""
    return {
        "successful": [entry["Id"] for entry in answer.get("Successful", [])],
        "failed": [{name: entry[name] for name in ("Id", "Code", "SenderFault")} for entry in answer.get("Failed", [])],
    }


def print_all(observations, url):
    """Makes every observation and prints their results as one JSON object."""
    endpoint = Endpoint(url)

    def result(observation):
        try:
            return observation(endpoint)
        except ClientError as error:
            return refused(error)
        except Exception as error:
            error.add_note(f"in {observation.__name__}")
            raise

    with ThreadPoolExecutor(8) as pool:
        results = dict(zip([one.__name__ for one in observations], pool.map(result, observations)))
    results["answers_beside_the_service_model"] = sorted(endpoint.beside_the_model)
    json.dump(results, sys.stdout, indent=1)
