"""Holds the CloudFormation template against the files beside it, and against what a fleet needs.

    template.py FILE DEPLOY NEEDED ATTEMPTS

DEPLOY is the folder with the policies, the table and the task definition; NEEDED is how many
seconds `stop_grace` and the last reports take, ATTEMPTS is `max_attempts`. Intrinsic functions are
resolved with the examples of those files. Prints one line for each mistake, and exits 1 if there is
any. The syntax and the properties of resources are left to cfn-lint.
"""

import json
import re
import sys
from pathlib import Path

import botocore.session
from botocore.validate import ParamValidator
from cfnlint.decode import decode

ACCOUNT, REGION = "123456789012", "us-east-1"
FOURTEEN_DAYS = 14 * 24 * 3600
# A worker replaces a message that was received three times, before the queue gives it up.
REPLACED_AFTER = 3
NO_VALUE = object()

# Of parameters without a default, and of optional ones: each condition then holds.
GIVEN = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Region": REGION,
    "AWS::Partition": "aws",
    "AWS::StackName": "callbackd",
    "AWS::NoValue": NO_VALUE,
    "VpcId": "vpc-0123456789abcdef0",
    "SubnetIds": ["subnet-0123456789abcdef0"],
    "Image": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/callbackd-handlers:1",
    "PipelineExecutions": [
        f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:pipeline/my-pipeline/execution/*"
    ],
    "PipelineRoles": ["my-pipelines"],
    "AlarmTopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT}:pager",
}
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/01234567-89ab-cdef-0123-456789abcdef"
REFERENCES = {"Cluster": "my-cluster", "LogGroup": "/callbackd", "TaskDefinition": "callbackd"}
ATTRIBUTES = {
    "Key.Arn": KEY,
    "ExecutionRole.Arn": f"arn:aws:iam::{ACCOUNT}:role/callbackd-execution",
    "TaskRole.Arn": f"arn:aws:iam::{ACCOUNT}:role/callbackd-worker",
    "SecurityGroup.GroupId": "sg-0123456789abcdef0",
    "Service.Name": "callbackd",
}
# Which file each document of the template is; one policy may be several files.
POLICIES = {
    "TaskRole": ["worker-policy", "worker-kms-policy", "ledger-policy", "task-protection-policy"],
    "PipelinePolicy": ["pipeline-role-policy", "pipeline-role-kms-policy"],
}
# What a fleet with a table sets otherwise than a single worker with a file.
OWN_VARIABLES = {
    "CALLBACKD_LEDGER__TYPE",
    "CALLBACKD_LEDGER__TABLE",
    "CALLBACKD_LEDGER__PATH",
    "CALLBACKD_QUEUES__0__URL",
    "CALLBACKD_QUEUES__0__CONCURRENCY",
}


class Template:
    """A template whose intrinsic functions are resolved."""

    def __init__(self, path):
        raw, mistakes = decode(path)
        if mistakes:
            raise SystemExit("\n".join(f"{path}: {mistake.message}" for mistake in mistakes))
        self.parameters = raw["Parameters"]
        self.rules = raw.get("Rules", {})
        self.raw = raw["Resources"]

    def of(self, name):
        """The resolved properties of a resource; none if it is missing."""
        return self.resolved(self.raw.get(name, {}).get("Properties", {}))

    def named(self, kind):
        return [name for name, it in self.raw.items() if it["Type"] == kind]

    def resolved(self, value):
        if isinstance(value, list):
            items = [self.resolved(item) for item in value]
            return [item for item in items if item is not NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (function, argument), = value.items()
            if function in ("Ref", "Fn::GetAtt", "Fn::Sub", "Fn::If"):
                return self.called(function, argument)
        members = {name: self.resolved(member) for name, member in value.items()}
        return {name: member for name, member in members.items() if member is not NO_VALUE}

    def called(self, function, argument):
        if function == "Ref":
            return self.reference(argument)
        if function == "Fn::GetAtt":
            return self.attribute(argument if isinstance(argument, str) else ".".join(argument))
        if function == "Fn::If":
            return self.resolved(argument[1])
        filled = lambda match: str(self.meant(match[1]))
        return re.sub(r"\$\{([^}]+)\}", filled, argument)

    def meant(self, name):
        return self.attribute(name) if "." in name else self.reference(name)

    def reference(self, name):
        if name in GIVEN:
            return GIVEN[name]
        if name in self.parameters:
            return self.parameters[name]["Default"]
        kind = self.raw[name]["Type"]
        if kind == "AWS::SQS::Queue":
            return f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{self.of(name)['QueueName']}"
        if kind == "AWS::DynamoDB::Table":
            return self.of(name)["TableName"]
        return REFERENCES.get(name, name)

    def attribute(self, path):
        name, attribute = path.split(".", 1)
        kind = self.raw[name]["Type"]
        if kind == "AWS::SQS::Queue":
            queue = self.of(name)["QueueName"]
            return queue if attribute == "QueueName" else f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}"
        if kind == "AWS::DynamoDB::Table":
            return f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{self.of(name)['TableName']}"
        return ATTRIBUTES[path]


def as_api(value):
    """CloudFormation writes the members of the ECS API with a capital."""
    if isinstance(value, list):
        return [as_api(item) for item in value]
    if isinstance(value, dict):
        return {name[0].lower() + name[1:]: as_api(member) for name, member in value.items()}
    return value


def plain(statements):
    """IAM lets one stand for a list of one."""
    many = lambda value: value if isinstance(value, list) else [value]
    return [
        {**it, "Action": many(it["Action"]), "Resource": many(it["Resource"])} for it in statements
    ]


def differences(path, ours, theirs):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(ours.keys() | theirs.keys()):
            yield from differences(f"{path}.{name}", ours.get(name), theirs.get(name))
    elif ours != theirs:
        yield f"{path} is {json.dumps(ours)}, in its file {json.dumps(theirs)}"


def read(path):
    return json.loads(path.read_text())


def policies(template, deploy):
    role = {it["PolicyName"]: it["PolicyDocument"] for it in template.of("TaskRole")["Policies"]}
    for name in role.keys() - set(POLICIES["TaskRole"]):
        yield f"TaskRole: {name} is no policy of a worker with a table"
    for name in POLICIES["TaskRole"]:
        if name not in role:
            yield f"TaskRole: {name} is missing"
            continue
        if plain(role[name]["Statement"]) != plain(read(deploy / f"iam/{name}.json")["Statement"]):
            yield f"TaskRole: {name} is not iam/{name}.json"
    files = [read(deploy / f"iam/{name}.json") for name in POLICIES["PipelinePolicy"]]
    statements = template.of("PipelinePolicy")["PolicyDocument"]["Statement"]
    if plain(statements) != plain([it for file in files for it in file["Statement"]]):
        yield f"PipelinePolicy is not {' and '.join(POLICIES['PipelinePolicy'])}"


def table(template, deploy):
    ours = template.of("Table")
    if ours.pop("DeletionProtectionEnabled", False) is not True:
        yield "Table can be deleted by mistake"
    expiry = read(deploy / "dynamodb/time-to-live.json")["TimeToLiveSpecification"]
    theirs = {**read(deploy / "dynamodb/table.json"), "TimeToLiveSpecification": expiry}
    yield from differences("Table", ours, theirs)


def variables(container):
    return {it["name"]: str(it["value"]) for it in container.pop("environment", [])}


def task(template, deploy, needed):
    ours = as_api(template.of("TaskDefinition"))
    for it in ours["containerDefinitions"][0]["environment"]:
        it["value"] = str(it["value"])
    yield from invalid("RegisterTaskDefinition", ours)
    theirs = read(deploy / "ecs/task-definition.json")
    volumes = [volume["name"] for volume in ours.pop("volumes")]
    theirs.pop("volumes")
    (container,), (other,) = ours["containerDefinitions"], theirs["containerDefinitions"]
    for mount in container["mountPoints"]:
        if mount.pop("sourceVolume") not in volumes:
            yield f"TaskDefinition: no volume is mounted at {mount['containerPath']}"
    for mount in other["mountPoints"]:
        mount.pop("sourceVolume")
    set_here, set_there = variables(container), variables(other)
    drain = set_here["CALLBACKD_WORKER__DRAIN_TIMEOUT"]
    if int(drain.removesuffix("s")) + needed > container["stopTimeout"]:
        yield f"TaskDefinition: a drain of {drain} and {needed} s do not fit into stopTimeout"
    shared = lambda variables: {k: v for k, v in variables.items() if k not in OWN_VARIABLES}
    yield from differences("environment", shared(set_here), shared(set_there))
    for name, value in {"TYPE": "dynamodb", "TABLE": template.of("Table")["TableName"]}.items():
        if set_here.get(f"CALLBACKD_LEDGER__{name}") != value:
            yield f"TaskDefinition: the ledger is not the table: CALLBACKD_LEDGER__{name}"
    if set_here.get("CALLBACKD_QUEUES__0__URL") != template.reference("Queue"):
        yield "TaskDefinition: CALLBACKD_QUEUES__0__URL is not the queue's"
    ours["containerDefinitions"], theirs["containerDefinitions"] = container, other
    yield from differences("TaskDefinition", ours, theirs)


def invalid(operation, value):
    shape = botocore.session.get_session().get_service_model("ecs").operation_model(operation)
    report = ParamValidator().validate(value, shape.input_shape)
    if report.has_errors():
        yield from report.generate_report().splitlines()


def queues(template, attempts):
    queue, dead = template.of("Queue"), template.of("DeadLetterQueue")
    redrive, accepts = queue.get("RedrivePolicy", {}), dead.get("RedriveAllowPolicy", {})
    if redrive.get("deadLetterTargetArn") != template.attribute("DeadLetterQueue.Arn"):
        yield "Queue: its redrive policy does not name DeadLetterQueue"
    if accepts.get("redrivePermission") not in (None, "allowAll") and (
        template.attribute("Queue.Arn") not in accepts.get("sourceQueueArns", [])
    ):
        yield "DeadLetterQueue does not accept messages of Queue"
    if redrive.get("maxReceiveCount", 0) <= max(attempts, REPLACED_AFTER):
        yield "Queue: maxReceiveCount is not above max_attempts and the receives before a copy"
    for name, it in ("Queue", queue), ("DeadLetterQueue", dead):
        if it.get("MessageRetentionPeriod") != FOURTEEN_DAYS:
            yield f"{name} does not keep messages for 14 days"
        if it.get("KmsMasterKeyId") != KEY:
            yield f"{name} is not encrypted with Key"
        if it.get("FifoQueue"):
            yield f"{name} is a FIFO queue"
    if template.of("Key").get("EnableKeyRotation") is not True:
        yield "Key is not rotated"


def kept(template):
    for name in ("Queue", "DeadLetterQueue", "Table", "Key"):
        for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
            if template.raw[name].get(policy) != "Retain":
                yield f"{name} is lost with the stack, or with its replacement: {policy}"


def service(template):
    ours = template.of("Service")
    yield from invalid("CreateService", {"serviceName": "callbackd", **as_api(ours)})
    deployment = ours["DeploymentConfiguration"]
    breaker = deployment.get("DeploymentCircuitBreaker", {})
    if not (breaker.get("Enable") is True and breaker.get("Rollback") is True):
        yield "Service: a broken image is not rolled back"
    if deployment["MinimumHealthyPercent"] < 100:
        yield "Service: a deployment leaves the queue without workers"
    if "DesiredCount" in ours:
        yield "Service: updates of the stack reset DesiredCount"
    if ours["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] != "DISABLED":
        yield "Service: workers have public addresses"
    if template.of("SecurityGroup").get("SecurityGroupIngress"):
        yield "SecurityGroup lets connections in, and workers need none"


def holds(condition, given):
    """Whether a condition of a rule holds for these parameters."""
    (function, argument), = condition.items()
    if function == "Fn::Not":
        return not holds(argument[0], given)
    if function == "Fn::And":
        return all(holds(it, given) for it in argument)
    one, other = (str(given[it["Ref"]]) if isinstance(it, dict) else str(it) for it in argument)
    return one == other


def shares(template):
    asserted = [it["Assert"] for rule in template.rules.values() for it in rule["Assertions"]]
    for on_demand, spot in (0, 0), (0, 1), (1, 0):
        given = {"OnDemandWeight": on_demand, "SpotWeight": spot}
        accepted = all(holds(it, given) for it in asserted)
        if accepted != bool(on_demand or spot):
            what = "accepted" if accepted else "refused"
            yield f"Rules: OnDemandWeight={on_demand} with SpotWeight={spot} is {what}"


def scaling(template):
    target = template.of("ScalableTarget")
    if target["ResourceId"] != "service/my-cluster/callbackd":
        yield "ScalableTarget is not the service"
    tracking = template.of("ScalingPolicy")["TargetTrackingScalingPolicyConfiguration"]
    metrics = tracking["CustomizedMetricSpecification"]["Metrics"]
    queue = template.attribute("Queue.QueueName")
    counted = {
        it["MetricStat"]["Metric"]["MetricName"]: it["Id"]
        for it in metrics
        if {"Name": "QueueName", "Value": queue} in
        it.get("MetricStat", {}).get("Metric", {}).get("Dimensions", [])
    }
    (result,) = (it["Expression"] for it in metrics if it["ReturnData"])
    for metric in ("ApproximateNumberOfMessagesVisible", "ApproximateNumberOfMessagesNotVisible"):
        if not re.search(rf"\b{counted.get(metric, 'missing')}\b", result):
            yield f"ScalingPolicy does not count {metric} of Queue"
    if tracking["TargetValue"] >= template.reference("Concurrency"):
        yield "ScalingPolicy: steps wait for a slot before a worker is added"
    if target["MinCapacity"] < 1:
        yield "ScalableTarget: no worker is left that notices stops"


def alarms(template, deploy):
    runbook = (deploy / "README.md").read_text()
    watched = set()
    for name in template.named("AWS::CloudWatch::Alarm"):
        it = template.of(name)
        for actions in ("AlarmActions", "OKActions"):
            if it.get(actions) != [GIVEN["AlarmTopicArn"]]:
                yield f"{name}: {actions} are not sent to the topic"
        if f"`{name}`" not in runbook:
            yield f"{name} is not in the runbook"
        metrics = [metric.get("MetricStat", {}).get("Metric") for metric in it.get("Metrics", [it])]
        for metric in filter(None, [*metrics, it if "MetricName" in it else None]):
            dimensions = [dimension["Value"] for dimension in metric.get("Dimensions", [])]
            watched.add((metric["MetricName"], *dimensions))
    own = template.of("ErrorLines")["MetricTransformations"][0]["MetricName"]
    for what in (
        ("ApproximateNumberOfMessagesVisible", template.attribute("DeadLetterQueue.QueueName")),
        ("NumberOfEmptyReceives", template.attribute("Queue.QueueName")),
        ("CPUUtilization", "my-cluster", "callbackd"),
        ("WriteThrottleEvents", template.of("Table")["TableName"]),
        (own,),
    ):
        if what not in watched:
            yield f"no alarm watches {' of '.join(what)}"


def main(path, deploy, needed, attempts):
    template, deploy = Template(path), Path(deploy)
    mistakes = [
        *policies(template, deploy),
        *table(template, deploy),
        *task(template, deploy, int(needed)),
        *queues(template, int(attempts)),
        *kept(template),
        *service(template),
        *shares(template),
        *scaling(template),
        *alarms(template, deploy),
    ]
    print("\n".join(mistakes))
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
