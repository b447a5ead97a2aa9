"""What a SageMaker does with pipelines, apart from their callback steps: `python sagemaker.py URL` prints each observation."""

import json
import sys

from observing import fresh, members, print_all, refusal

OBSERVATIONS = []
ROLE = "arn:aws:iam::123456789012:role/pipelines"


def observe(observation):
    OBSERVATIONS.append(observation)
    return observation


class Bench:
    """A pipeline of one observation."""

    def __init__(self, endpoint, **more):
        self.sagemaker = endpoint.sagemaker
        self.name = fresh("p")
        queue = endpoint.sqs.create_queue(QueueName=fresh("sagemaker"))["QueueUrl"]
        step = {"Name": "approve", "Type": "Callback", "SqsQueueUrl": queue, "Arguments": {"n": 1}, "OutputParameters": []}
        self.definition = json.dumps({"Version": "2020-12-01", "Metadata": {}, "Parameters": [
            {"Name": "Rows", "Type": "String", "DefaultValue": "5"}], "Steps": [step]})
        self.created = self.create(**more)

    def create(self, **more):
        input = {"PipelineName": self.name, "PipelineDefinition": self.definition, "RoleArn": ROLE,
                 "ClientRequestToken": fresh("token"), **more}
        return self.sagemaker.create_pipeline(**input)

    def start(self, **more):
        input = {"PipelineName": self.name, "ClientRequestToken": fresh("token"), **more}
        return self.sagemaker.start_pipeline_execution(**input)["PipelineExecutionArn"]


@observe
def a_pipeline_is_made(endpoint):
    bench = Bench(endpoint)
    arn = f"arn:aws:sagemaker:us-east-1:123456789012:pipeline/{bench.name}"
    return {"members": members(bench.created), "arn": bench.created["PipelineArn"] == arn}


@observe
def a_pipeline_of_the_same_name_is_refused(endpoint):
    bench = Bench(endpoint)
    return refusal(bench.create)


@observe
def a_pipeline_that_cannot_be_is_refused(endpoint):
    bench = Bench(endpoint)
    other = {"PipelineName": fresh("p")}
    return {
        "a name": refusal(bench.create, PipelineName="a_b"),
        "a role": refusal(bench.create, **other, RoleArn="role"),
        "no JSON": refusal(bench.create, **other, PipelineDefinition="soon"),
        "a short token": refusal(bench.create, **other, ClientRequestToken="short"),
    }


@observe
def a_pipeline_is_described(endpoint):
    bench = Bench(endpoint)
    described = bench.sagemaker.describe_pipeline(PipelineName=bench.name)
    same = json.loads(described["PipelineDefinition"]) == json.loads(bench.definition)
    return {"members": members(described), "status": described["PipelineStatus"], "same": same,
            "role": described["RoleArn"] == ROLE}


@observe
def a_pipeline_that_is_not_there_is_refused(endpoint):
    sagemaker = endpoint.sagemaker
    name = {"PipelineName": fresh("nowhere")}
    token = {"ClientRequestToken": fresh("token")}
    return {
        "describe": refusal(sagemaker.describe_pipeline, **name),
        "update": refusal(sagemaker.update_pipeline, **name, PipelineDescription="d"),
        "delete": refusal(sagemaker.delete_pipeline, **name, **token),
        "start": refusal(sagemaker.start_pipeline_execution, **name, **token),
        "executions": refusal(sagemaker.list_pipeline_executions, **name),
    }


@observe
def a_pipeline_is_updated(endpoint):
    bench = Bench(endpoint)
    definition = bench.definition.replace("approve", "decide")
    updated = bench.sagemaker.update_pipeline(PipelineName=bench.name, PipelineDefinition=definition)
    described = bench.sagemaker.describe_pipeline(PipelineName=bench.name)
    return {"arn": updated["PipelineArn"] == bench.created["PipelineArn"],
            "definition": json.loads(described["PipelineDefinition"]) == json.loads(definition)}


@observe
def a_pipeline_is_deleted(endpoint):
    bench = Bench(endpoint)
    deleted = bench.sagemaker.delete_pipeline(PipelineName=bench.name, ClientRequestToken=fresh("token"))
    return {"arn": deleted["PipelineArn"] == bench.created["PipelineArn"],
            "then": refusal(bench.sagemaker.describe_pipeline, PipelineName=bench.name)}


@observe
def pipelines_are_listed(endpoint):
    bench = Bench(endpoint)
    [listed] = bench.sagemaker.list_pipelines(PipelineNamePrefix=bench.name)["PipelineSummaries"]
    return {"name": listed["PipelineName"] == bench.name, "arn": listed["PipelineArn"] == bench.created["PipelineArn"]}


@observe
def an_execution_is_started(endpoint):
    bench = Bench(endpoint)
    arn = bench.start()
    return arn.startswith(f"{bench.created['PipelineArn']}/execution/")


@observe
def an_execution_waits_for_its_callback(endpoint):
    bench = Bench(endpoint)
    described = bench.sagemaker.describe_pipeline_execution(PipelineExecutionArn=bench.start())
    return described["PipelineExecutionStatus"]


@observe
def an_execution_is_described(endpoint):
    bench = Bench(endpoint)
    arn = bench.start(PipelineExecutionDisplayName="today")
    described = bench.sagemaker.describe_pipeline_execution(PipelineExecutionArn=arn)
    return {"arns": [described["PipelineExecutionArn"] == arn, described["PipelineArn"] == bench.created["PipelineArn"]],
            "name": described["PipelineExecutionDisplayName"]}


@observe
def executions_are_listed(endpoint):
    bench = Bench(endpoint)
    arns = {bench.start(), bench.start()}
    listed = bench.sagemaker.list_pipeline_executions(PipelineName=bench.name)["PipelineExecutionSummaries"]
    return {one["PipelineExecutionArn"] for one in listed} == arns


@observe
def an_execution_shows_its_definition(endpoint):
    bench = Bench(endpoint)
    ask = bench.sagemaker.describe_pipeline_definition_for_execution
    shown = ask(PipelineExecutionArn=bench.start())
    return json.loads(shown["PipelineDefinition"]) == json.loads(bench.definition)


@observe
def an_execution_shows_the_parameters_that_it_was_given(endpoint):
    bench = Bench(endpoint)
    arn = bench.start(PipelineParameters=[{"Name": "Rows", "Value": "7"}])
    return bench.sagemaker.list_pipeline_parameters_for_execution(PipelineExecutionArn=arn)["PipelineParameters"]


@observe
def an_execution_that_is_not_there_is_refused(endpoint):
    bench = Bench(endpoint)
    arn = {"PipelineExecutionArn": f"{bench.created['PipelineArn']}/execution/nowhere12345"}
    return {
        "describe": refusal(bench.sagemaker.describe_pipeline_execution, **arn),
        "definition": refusal(bench.sagemaker.describe_pipeline_definition_for_execution, **arn),
        "parameters": refusal(bench.sagemaker.list_pipeline_parameters_for_execution, **arn),
    }


# Callback steps


@observe
def an_execution_lists_its_steps(endpoint):
    bench = Bench(endpoint)
    listed = bench.sagemaker.list_pipeline_execution_steps(PipelineExecutionArn=bench.start())
    return [[step["StepName"], step["StepStatus"]] for step in listed["PipelineExecutionSteps"]]


@observe
def an_execution_is_stopped(endpoint):
    bench = Bench(endpoint)
    arn = {"PipelineExecutionArn": bench.start()}
    bench.sagemaker.stop_pipeline_execution(**arn, ClientRequestToken=fresh("token"))
    return bench.sagemaker.describe_pipeline_execution(**arn)["PipelineExecutionStatus"]


@observe
def a_token_that_nobody_gave_cannot_be_answered(endpoint):
    answer = {"CallbackToken": "0123456789", "ClientRequestToken": fresh("token")}
    return {
        "success": refusal(endpoint.sagemaker.send_pipeline_execution_step_success, **answer),
        "failure": refusal(endpoint.sagemaker.send_pipeline_execution_step_failure, **answer),
    }


print_all(OBSERVATIONS, sys.argv[1])
