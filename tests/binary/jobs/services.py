"""moto's Glue, EMR, Batch, Step Functions and ECS on a free port, which it prints; it ends with its
standard input.

moto has the APIs and keeps the jobs. Ours is: when a job ends and how, which a test says; what moto
lacks of stopping jobs, of their messages and of ECS's client tokens; and submits whose answer is
lost. A test asks for these with a POST to `/` that is not signed.
"""

import json
import logging
import os
import socket
import sys
import threading

import boto3
from moto.batch.models import BatchBackend, batch_backends
from moto.batch_simple.models import BatchSimpleBackend
from moto.core.config import default_user_config
from moto.core.responses import ActionResult
from moto.ecs.models import EC2ContainerServiceBackend, ecs_backends
from moto.ecs.responses import EC2ContainerServiceResponse
from moto.emr.models import Step, emr_backends
from moto.emr.responses import ElasticMapReduceResponse
from moto.glue.models import FakeJobRun, glue_backends
from moto.glue.responses import GlueResponse
from moto.moto_api import state_manager
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.stepfunctions.models import stepfunctions_backends
from werkzeug.serving import make_server

REGION = "us-east-1"
SUBMITS = ["StartJobRun", "AddJobFlowSteps", "submitjob", "StartExecution", "RunTask"]


def of(backends):
    return backends["123456789012"][REGION]


def client(service):
    url = f"http://127.0.0.1:{server.server_port}"
    return boto3.client(service, region_name=REGION, endpoint_url=url)


class Glue:
    """Without moto: stops of runs, and their messages."""

    def create(self, name):
        command = {"Name": "glueetl", "ScriptLocation": "s3://bucket/job.py"}
        runs = {"MaxConcurrentRuns": 10}
        client("glue").create_job(Name=name, Role="any", Command=command, ExecutionProperty=runs)
        return {"GLUE_JOB": name}

    def submit(self, name, job):
        return client("glue").start_job_run(JobName=name, Arguments={"--name": job})["JobRunId"]

    def jobs(self, name):
        return {run.job_run_id: run for run in of(glue_backends).jobs[name].job_runs}

    def show(self, run):
        return run.status, run.arguments

    def end(self, run, message):
        run.status = "FAILED" if message else "SUCCEEDED"
        run.message = message

    def batch_stop_job_run(response):
        runs = glue.jobs(response._get_param("JobName"))
        for run_id in response._get_param("JobRunIds"):
            runs[run_id].status = "STOPPED"
        return ActionResult({"SuccessfulSubmissions": [], "Errors": []})

    def as_dict(run, shown=FakeJobRun.as_dict):
        message = getattr(run, "message", None)
        return shown(run) | ({"ErrorMessage": message} if message else {})


class Emr:
    """Without moto: stops of steps, and why they fail."""

    clusters = {}

    def create(self, name):
        instances = {"KeepJobFlowAliveWhenNoSteps": True}
        cluster = client("emr").run_job_flow(Name=name, Instances=instances)["JobFlowId"]
        self.clusters[name] = cluster
        return {"EMR_CLUSTER": cluster, "EMR_COMMAND": "spark-submit 's3://bucket/a job.py'"}

    def jobs(self, name):
        return {step.id: step for step in of(emr_backends).clusters[self.clusters[name]].steps}

    def show(self, step):
        return step.state, step.args

    def end(self, step, message):
        step.state = "FAILED" if message else "COMPLETED"
        step.message = message

    def cancel_steps(response):
        for step in of(emr_backends).clusters[response._get_param("ClusterId")].steps:
            if step.id in response._get_param("StepIds"):
                step.state = "CANCELLED"
        return ActionResult({"CancelStepsInfoList": []})

    def status(step, shown=Step.status.fget):
        message = getattr(step, "message", None)
        return shown(step) | ({"FailureDetails": {"Message": message}} if message else {})


class Batch:
    """Without moto: running jobs, as there is no Docker."""

    def create(self, name):
        iam, batch = client("iam"), client("batch")
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        batch.create_compute_environment(
            computeEnvironmentName=name, type="UNMANAGED", serviceRole=role
        )
        order = [{"order": 1, "computeEnvironment": name}]
        batch.create_job_queue(
            jobQueueName=name, state="ENABLED", priority=1, computeEnvironmentOrder=order
        )
        container = {"image": "any", "vcpus": 1, "memory": 128, "command": ["run", "Ref::day"]}
        batch.register_job_definition(
            jobDefinitionName=name, type="container", containerProperties=container
        )
        return {"BATCH_QUEUE": name, "BATCH_DEFINITION": name}

    def submit(self, name, job):
        answer = client("batch").submit_job(jobName=job, jobQueue=name, jobDefinition=name)
        return answer["jobId"]

    def jobs(self, name):
        return {job.job_id: job for job in of(batch_backends).get_job_queue(name).jobs}

    def show(self, job):
        return job.status, job.parameters

    def end(self, job, message):
        job.job_stopped_reason = message
        job._mark_stopped(success=not message)

    def submitted(backend, include_start_attempt, job):
        of(batch_backends)._jobs[job.job_id] = job
        job.log_stream_name = job._stream_name
        job._start_attempt()
        job.status = "RUNNING"

    def terminate_job(backend, job_id, reason):
        batch.end(of(batch_backends).get_job_by_id(job_id), reason)


class StepFunctions:
    def create(self, name):
        definition = {"StartAt": "only", "States": {"only": {"Type": "Pass", "End": True}}}
        answer = client("stepfunctions").create_state_machine(
            name=name,
            definition=json.dumps(definition),
            roleArn="arn:aws:iam::123456789012:role/any",
        )
        return {"STATE_MACHINE_ARN": answer["stateMachineArn"]}

    def jobs(self, name):
        arn = f"arn:aws:states:{REGION}:123456789012:stateMachine:{name}"
        machine = of(stepfunctions_backends).describe_state_machine(arn)
        return {execution.execution_arn: execution for execution in machine.executions}

    def show(self, execution):
        return execution.status, json.loads(execution.execution_input)

    def end(self, execution, message):
        execution.status = "FAILED" if message else "SUCCEEDED"
        execution.error, execution.cause = ("TheJob.Failed", message) if message else (None, None)
        execution.output = json.dumps({"rows": 7, "tables": ["a"]})


class Ecs:
    """Without moto: client tokens, which tasks are listed by default, how containers end."""

    tokens = {}

    def create(self, name):
        ecs = client("ecs")
        ecs.create_cluster(clusterName=name)
        container = {"name": "main", "image": "any", "memory": 128}
        ecs.register_task_definition(family=name, containerDefinitions=[container])
        return {
            "ECS_CLUSTER": name,
            "ECS_TASK_DEFINITION": name,
            "ECS_CONTAINER": "main",
            "ECS_SUBNETS": "subnet-1,subnet-2",
        }

    def jobs(self, name):
        return of(ecs_backends).tasks.get(name, {})

    def show(self, task):
        return task.status, task.overrides["containerOverrides"][0]["environment"]

    def end(self, task, message):
        task.status = task.desired_status = "STOPPED"
        task.stopped_reason = message or "Essential container in task exited"
        task.containers[0].exitCode = 1 if message else 0

    def run_task(response, runs=EC2ContainerServiceResponse.run_task):
        token = response._get_param("cluster"), response._get_param("clientToken")
        if token not in ecs.tokens:
            ecs.tokens[token] = runs(response)
        return ecs.tokens[token]

    def list_tasks(backend, *arguments, lists=EC2ContainerServiceBackend.list_tasks):
        *filters, desired_status = arguments
        return lists(backend, *filters, desired_status or "RUNNING")


glue, emr, batch, ecs = Glue(), Emr(), Batch(), Ecs()
SERVICES = {"glue": glue, "emr": emr, "batch": batch, "step_functions": StepFunctions(), "ecs": ecs}
for name in ["glue::job_run", "ecs::task", "batch::job"]:
    # Only a test ends a job.
    state_manager.set_transition(name, {"progression": "manual", "times": 10**9})
GlueResponse.batch_stop_job_run = Glue.batch_stop_job_run
FakeJobRun.as_dict = Glue.as_dict
ElasticMapReduceResponse.cancel_steps = Emr.cancel_steps
Step.status = property(Emr.status)
default_user_config["batch"] = {"use_docker": False}
BatchSimpleBackend._mark_job_as_finished = Batch.submitted
BatchBackend.terminate_job = Batch.terminate_job
EC2ContainerServiceResponse.run_task = Ecs.run_task
EC2ContainerServiceBackend.list_tasks = Ecs.list_tasks


class Application:
    """moto's, with a door for tests."""

    def __init__(self, application):
        self.application = application
        # What happens to the submits of a test, by its access key.
        self.lost = {}
        self.answered = threading.Condition()
        # All operations that were asked for, by the access key.
        self.calls = {}

    def __call__(self, environ, start_response):
        credential = environ.get("HTTP_AUTHORIZATION", "")
        if not credential:
            length = int(environ.get("CONTENT_LENGTH") or 0)
            answer = self.command(**json.loads(environ["wsgi.input"].read(length)))
            return say("200 OK", answer, start_response)
        key = credential.partition("Credential=")[2].partition("/")[0]
        operation = environ.get("HTTP_X_AMZ_TARGET", environ["PATH_INFO"])
        operation = operation.replace("/", ".").split(".")[-1]
        self.calls.setdefault(key, []).append(operation)
        how = self.lost.get(key)
        if how == "refused":
            body = {"__type": "ThrottlingException", "message": "Rate exceeded"}
            return say("400 Bad Request", body, start_response)
        answer = self.application(environ, start_response)
        if operation in SUBMITS and how:
            if how == "reset":
                del self.lost[key]
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            with self.answered:
                self.answered.wait_for(lambda: self.lost.get(key) != "withheld")
        return answer

    def command(self, do, service, name, **more):
        service = SERVICES[service]
        if do == "create":
            return service.create(name)
        if do == "calls":
            return self.calls.get(name, [])
        if do == "submit":
            return service.submit(name, more["job"])
        if do == "jobs":
            shown = [(job_id, *service.show(job)) for job_id, job in service.jobs(name).items()]
            return [dict(zip(("id", "state", "given"), one)) for one in shown]
        if do == "end":
            return service.end(service.jobs(name)[more["id"]], more["message"])
        with self.answered:
            self.lost[name] = more["how"]
            self.answered.notify_all()


def say(status, body, start_response):
    body = json.dumps(body).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(status, headers)
    return [body]


def end_with_stdin():
    sys.stdin.buffer.read()
    os._exit(0)


threading.Thread(target=end_with_stdin, daemon=True).start()
logging.getLogger("werkzeug").setLevel(logging.ERROR)
os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
# So an execution runs until it is ended.
os.environ["SF_EXECUTION_HISTORY_TYPE"] = "SUCCESS"
application = Application(DomainDispatcherApplication(create_backend_app))
server = make_server("127.0.0.1", 0, application, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
