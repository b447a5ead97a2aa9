"""Holds what deploy/ ships against botocore's models of the services.

    check.py input SERVICE OPERATION FILE   whether FILE is a valid input of the operation: required members, unknown ones, types, limits, enums
    check.py actions FILE...                whether every action that the policies allow exists
    check.py operations SERVICE...          prints each operation as `service:Name method_name`

Prints one line for each mistake, and exits 1 where there is any.
"""

import json
import sys

import botocore.session
from botocore import xform_name
from botocore.validate import ParamValidator

# Permissions that no API operation bears the name of.
WITHOUT_OPERATION = {
    "elasticfilesystem:ClientMount",
    "elasticfilesystem:ClientWrite",
    "iam:PassRole",
}
# Where the prefix in a policy is not the name of botocore's model.
MODELS = {"elasticfilesystem": "efs"}

session = botocore.session.get_session()


def operations(prefix):
    return session.get_service_model(MODELS.get(prefix, prefix)).operation_names


def enum_mistakes(value, shape, path):
    """botocore's validator leaves enums to the service."""
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            if name in value:
                yield from enum_mistakes(value[name], member, f"{path}.{name}")
    elif shape.type_name == "list":
        for index, item in enumerate(value):
            yield from enum_mistakes(item, shape.member, f"{path}[{index}]")
    elif shape.type_name == "string" and shape.enum and value not in shape.enum:
        yield f"{path}: {value!r} is none of {', '.join(shape.enum)}"


def input_mistakes(service, operation, path):
    with open(path) as file:
        value = json.load(file)
    shape = session.get_service_model(service).operation_model(operation).input_shape
    report = ParamValidator().validate(value, shape)
    if report.has_errors():
        yield from report.generate_report().splitlines()
    else:
        yield from enum_mistakes(value, shape, operation)


def action_mistakes(path):
    with open(path) as file:
        policy = json.load(file)
    for statement in policy["Statement"]:
        actions = statement["Action"]
        for action in [actions] if isinstance(actions, str) else actions:
            prefix, name = action.split(":")
            if name not in operations(prefix) and action not in WITHOUT_OPERATION:
                yield f"{path}: there is no action {action}"


def main(command, *arguments):
    if command == "operations":
        for prefix in arguments:
            for name in operations(prefix):
                print(f"{prefix}:{name} {xform_name(name)}")
        return 0
    if command == "input":
        mistakes = list(input_mistakes(*arguments))
    else:
        mistakes = [mistake for path in arguments for mistake in action_mistakes(path)]
    print("\n".join(mistakes))
    return 1 if mistakes else 0


sys.exit(main(*sys.argv[1:]))
