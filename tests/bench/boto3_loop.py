"""What people write today: receive ten, answer each, delete ten; with a program, each step runs it first.

Arguments: the endpoint, the queue's URL, the concurrency, and a program or nothing.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

endpoint, queue, concurrency, *program = sys.argv[1:]
config = Config(max_pool_connections=int(concurrency) + 2)
sqs = boto3.client("sqs", endpoint_url=endpoint, config=config)
sagemaker = boto3.client("sagemaker", endpoint_url=endpoint, config=config)


def answer(message):
    body = json.loads(message["Body"])
    if program:
        subprocess.run(program, input=message["Body"].encode(), capture_output=True, check=True)
    sagemaker.send_pipeline_execution_step_success(
        CallbackToken=body["token"], ClientRequestToken=body["token"].rjust(32, "0")
    )
    return message["ReceiptHandle"]


with ThreadPoolExecutor(int(concurrency)) as threads:
    while True:
        received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=20)
        handles = list(threads.map(answer, received.get("Messages", [])))
        if handles:
            entries = [{"Id": str(at), "ReceiptHandle": handle} for at, handle in enumerate(handles)]
            sqs.delete_message_batch(QueueUrl=queue, Entries=entries)
