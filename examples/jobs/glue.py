#!/usr/bin/env python3
"""Runs the AWS Glue job GLUE_JOB, with the step's arguments as the job's `--name value`.

Glue's jobs retry by themselves if they are told to (MaxRetries); here each run counts, so use 0.
"""

import os

import aws
from job import Failed, text

glue = aws.client("glue")
JOB = os.environ["GLUE_JOB"]
# Runs have no name: the step's is one of the run's arguments.
NAME = "--callbackd-step"


def find(name):
    for page in glue.get_paginator("get_job_runs").paginate(JobName=JOB):
        for run in page["JobRuns"]:
            if run.get("Arguments", {}).get(NAME) == name:
                return run["Id"]
    return None


def submit(name, arguments):
    arguments = {f"--{key}": text(value) for key, value in arguments.items()}
    return glue.start_job_run(JobName=JOB, Arguments={**arguments, NAME: name})["JobRunId"]


def look(run_id):
    run = glue.get_job_run(JobName=JOB, RunId=run_id)["JobRun"]
    if run["JobRunState"] == "SUCCEEDED":
        return {"job_run_id": run_id, "seconds": run["ExecutionTime"]}
    if run["JobRunState"] in ("FAILED", "ERROR", "TIMEOUT", "STOPPED", "EXPIRED"):
        raise Failed(f"{JOB} {run['JobRunState']}: {run.get('ErrorMessage', run_id)}")
    return None


def cancel(run_id):
    for error in glue.batch_stop_job_run(JobName=JOB, JobRunIds=[run_id]).get("Errors", []):
        print(f"Glue did not stop {run_id}: {error['ErrorDetail']}")


aws.main(find, submit, look, cancel)
