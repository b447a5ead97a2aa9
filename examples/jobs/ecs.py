#!/usr/bin/env python3
"""Runs a task of ECS_TASK_DEFINITION on Fargate in the cluster ECS_CLUSTER and the subnets
ECS_SUBNETS (with commas between). Its container ECS_CONTAINER gets the step's arguments as JSON in
STEP_ARGUMENTS.
"""

import json
import os

import aws
from job import Failed

ecs = aws.client("ecs")
CLUSTER = os.environ["ECS_CLUSTER"]


def find(name):
    # Only tasks that run. For one that has ended within the hour, `clientToken` does the same.
    tasks = ecs.list_tasks(cluster=CLUSTER, startedBy=name)["taskArns"]
    return tasks[0] if tasks else None


def submit(name, arguments):
    environment = [{"name": "STEP_ARGUMENTS", "value": json.dumps(arguments)}]
    container = {"name": os.environ["ECS_CONTAINER"], "environment": environment}
    answer = ecs.run_task(
        cluster=CLUSTER,
        taskDefinition=os.environ["ECS_TASK_DEFINITION"],
        launchType="FARGATE",
        networkConfiguration={
            "awsvpcConfiguration": {"subnets": os.environ["ECS_SUBNETS"].split(",")}
        },
        overrides={"containerOverrides": [container]},
        startedBy=name,
        clientToken=name,
    )
    if answer["failures"]:
        raise Failed(f"ECS did not start the task: {answer['failures'][0]['reason']}")
    return answer["tasks"][0]["taskArn"]


def look(arn):
    tasks = ecs.describe_tasks(cluster=CLUSTER, tasks=[arn])["tasks"]
    if not tasks:
        raise Failed(f"ECS knows no task {arn}: it forgets them an hour after their end")
    if tasks[0]["lastStatus"] != "STOPPED":
        return None
    container = next(
        one for one in tasks[0]["containers"] if one["name"] == os.environ["ECS_CONTAINER"]
    )
    if container.get("exitCode") == 0:
        return {"task_arn": arn}
    causes = [container.get("reason"), tasks[0].get("stoppedReason")]
    exit_code = container.get("exitCode", "no code")
    raise Failed(f"the task ended with {exit_code}: " + ". ".join(filter(None, causes)))


def cancel(arn):
    tasks = ecs.describe_tasks(cluster=CLUSTER, tasks=[arn])["tasks"]
    if tasks and tasks[0]["lastStatus"] != "STOPPED":
        ecs.stop_task(cluster=CLUSTER, task=arn, reason="the SageMaker pipeline step has ended")


aws.main(find, submit, look, cancel)
