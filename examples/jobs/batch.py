#!/usr/bin/env python3
"""Runs the AWS Batch job definition BATCH_DEFINITION in the queue BATCH_QUEUE, with the step's
arguments as the job's parameters (`Ref::name` in its command).
"""

import os

import aws
from job import Failed, text

batch = aws.client("batch")
QUEUE = os.environ["BATCH_QUEUE"]


def find(name):
    named = [{"name": "JOB_NAME", "values": [name]}]
    for page in batch.get_paginator("list_jobs").paginate(jobQueue=QUEUE, filters=named):
        for job in page["jobSummaryList"]:
            # The filter ignores case, and tokens may differ in nothing else.
            if job["jobName"] == name:
                return job["jobId"]
    return None


def submit(name, arguments):
    parameters = {key: text(value) for key, value in arguments.items()}
    definition = os.environ["BATCH_DEFINITION"]
    answer = batch.submit_job(
        jobName=name, jobQueue=QUEUE, jobDefinition=definition, parameters=parameters
    )
    return answer["jobId"]


def look(job_id):
    jobs = batch.describe_jobs(jobs=[job_id])["jobs"]
    if not jobs:
        raise Failed(f"Batch knows no job {job_id}: it forgets them days after their end")
    status, container = jobs[0]["status"], jobs[0].get("container", {})
    if status == "SUCCEEDED":
        return {"job_id": job_id, "log_stream": container.get("logStreamName", "")}
    if status == "FAILED":
        causes = [container.get("reason"), jobs[0].get("statusReason")]
        raise Failed("Batch job FAILED: " + (". ".join(filter(None, causes)) or job_id))
    return None


def cancel(job_id):
    batch.terminate_job(jobId=job_id, reason="the SageMaker pipeline step has ended")


aws.main(find, submit, look, cancel)
