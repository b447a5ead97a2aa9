#!/usr/bin/env python3
"""Runs the command EMR_COMMAND (`spark-submit s3://…`) as a step on the cluster EMR_CLUSTER; the
pipeline step's arguments follow it as `--name value`.
"""

import os
import shlex

import aws
from job import Failed, text

emr = aws.client("emr")
CLUSTER = os.environ["EMR_CLUSTER"]
COMMAND = shlex.split(os.environ["EMR_COMMAND"])


def find(name):
    for page in emr.get_paginator("list_steps").paginate(ClusterId=CLUSTER):
        for step in page["Steps"]:
            if step["Name"] == name:
                return step["Id"]
    return None


def submit(name, arguments):
    options = [part for key, value in arguments.items() for part in (f"--{key}", text(value))]
    jar = {"Jar": "command-runner.jar", "Args": COMMAND + options}
    step = {"Name": name, "ActionOnFailure": "CONTINUE", "HadoopJarStep": jar}
    return emr.add_job_flow_steps(JobFlowId=CLUSTER, Steps=[step])["StepIds"][0]


def look(step_id):
    status = emr.describe_step(ClusterId=CLUSTER, StepId=step_id)["Step"]["Status"]
    if status["State"] == "COMPLETED":
        return {"step_id": step_id}
    if status["State"] in ("FAILED", "CANCELLED", "INTERRUPTED"):
        details = status.get("FailureDetails", {})
        message = details.get("Message") or details.get("Reason") or step_id
        raise Failed(f"EMR step {status['State']}: {message}")
    return None


def cancel(step_id):
    # Without the option, a running step only gets an interrupt, which it may ignore.
    option = "TERMINATE_PROCESS"
    emr.cancel_steps(ClusterId=CLUSTER, StepIds=[step_id], StepCancellationOption=option)


aws.main(find, submit, look, cancel)
