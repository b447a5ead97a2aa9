"""A Lambda as teams write it that polls: it raises while the job runs, and its message returns."""

import json
import logging
import os

import boto3

logger = logging.getLogger()
logger.setLevel(logging.INFO)
sagemaker_client = boto3.client("sagemaker")
glue_client = boto3.client("glue")
job_name = os.environ["GLUE_JOB"]


def lambda_handler(event, context):
    for record in event["Records"]:
        payload = json.loads(record["body"])
        token = payload["token"]
        run_id = payload["arguments"]["job_run_id"]
        if payload["status"] == "Stopping":
            logger.info("stopping %s", run_id)
            glue_client.batch_stop_job_run(JobName=job_name, JobRunIds=[run_id])
            sagemaker_client.send_pipeline_execution_step_failure(
                CallbackToken=token, FailureReason="stopped"
            )
            return
        run = glue_client.get_job_run(JobName=job_name, RunId=run_id)["JobRun"]
        receives = record["attributes"]["ApproximateReceiveCount"]
        logger.info("receive %s: %s", receives, run["JobRunState"])
        if run["JobRunState"] == "SUCCEEDED":
            sagemaker_client.send_pipeline_execution_step_success(
                CallbackToken=token,
                OutputParameters=[{"Name": "status", "Value": run["JobRunState"]}],
            )
        elif run["JobRunState"] == "FAILED":
            sagemaker_client.send_pipeline_execution_step_failure(
                CallbackToken=token, FailureReason=run["ErrorMessage"]
            )
        else:
            raise ValueError("the job has not finished yet, trying again later")
