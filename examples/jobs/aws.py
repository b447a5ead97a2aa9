"""What the jobs at AWS share: a client, and which of its errors are final."""

import os
import re

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

import job

# Refusals that may be over soon: too many calls or jobs, and credentials that are being renewed.
PASSING = re.compile("Throttl|TooMany|Exceeded|Expired")


def client(service):
    """A client that sends each request once.

    Most services take a repeated submit for a second job. If an answer is lost, the next run finds
    the job by its name.
    """
    config = Config(connect_timeout=5, read_timeout=15, retries={"total_max_attempts": 1})
    return boto3.client(service, region_name=os.environ.get("AWS_REGION"), config=config)


def main(find, submit, look, cancel):
    """`job.main`. A submit or a cancel that AWS refuses for good is not tried again.

    Any error of a poll is: it says nothing about the job, which would go on by itself if the step
    failed. The step's `time_limit` ends that, and cancels the job.
    """
    unclear = (BotoCoreError, ClientError)
    job.main(find, or_fail(submit), look, or_fail(cancel), unclear)


def or_fail(call):
    """The same function, with Failed in place of errors that are final."""

    def calling(*arguments):
        try:
            return call(*arguments)
        except ParamValidationError as error:
            raise job.Failed(str(error)) from error
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status >= 500 or PASSING.search(error.response["Error"]["Code"]):
                raise
            raise job.Failed(str(error)) from error

    return calling
