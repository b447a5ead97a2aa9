"""Assembles the image's root by the Dockerfile's own steps, and boots it without an engine.

    image.py BINARY [BASE]

BINARY is callbackd with the local endpoint; BASE a Debian root made by debootstrap, which is copied
(made anew if missing). Needs root, debootstrap and boto3. The root is read-only, its user has no
capabilities, and a step is run in it, as a task on ECS would. Exits 0 if all holds.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import boto3

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 60
CONFIG = """
[[queues]]
handler = "look"
[handlers.look]
type = "exec"
[handlers.look.settings]
command = ["/opt/handlers/look"]
"""
# Reports what it is allowed; the image promises a shell and the usual tools.
HANDLER = """#!/bin/sh
echo "user=$(id -u):$(id -g)" >> "$STEP_OUTPUT"
echo "capabilities=$(sed -n 's/^CapEff:[^0-9a-f]*//p' /proc/self/status)" >> "$STEP_OUTPUT"
touch /opt/handlers/x 2>/dev/null && echo root=writable >> "$STEP_OUTPUT"
touch /tmp/x && echo "tmp=writable" >> "$STEP_OUTPUT"
"""
# Docker gives a volume the owner and the mode of the directory that it covers.
BOOT = """
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755 dev "$root/dev"
for name in null zero random urandom; do
    touch "$root/dev/$name"; mount --bind "/dev/$name" "$root/dev/$name"
done
while [ "$1" != -- ]; do
    options=$(stat -c 'mode=%a,uid=%u,gid=%g' "$root$1")
    mount -t tmpfs -o "$options" volume "$root$1"; shift
done
shift
mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
"""


class Dockerfile:
    """The instructions of the last stage."""

    def __init__(self, path):
        text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
        stage = text[text.rindex("\nFROM ") + 1:]
        self.steps = [tuple(line.split(None, 1)) for line in stage.splitlines() if line.strip()]

    def one(self, name):
        (value,) = (value for step, value in self.steps if step == name)
        return value


def assemble(root, dockerfile, binary):
    """Executes RUN and COPY; what BINARY is built by, another stage, is left out."""
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    for step, value in dockerfile.steps:
        if step == "RUN":
            subprocess.run(["chroot", root, "sh", "-ec", value], check=True)
        elif step == "COPY":
            *_, source, target = value.split()
            source = binary if "--from=build" in value else REPOSITORY / source
            target = root / target.lstrip("/")
            target.mkdir(parents=True, exist_ok=True)
            name = "callbackd" if "--from=build" in value else source.name
            shutil.copy(source, target / name)


def layer(root):
    """What a user's own image adds."""
    (root / "etc/callbackd/callbackd.toml").write_text(CONFIG)
    (root / "opt/handlers").mkdir(parents=True)
    (root / "opt/handlers/look").write_text(HANDLER)
    (root / "opt/handlers/look").chmod(0o755)


def entered(root, dockerfile, arguments):
    user, group = dockerfile.one("USER").split(":")
    return [
        *("unshare", "--mount", "--pid", "--fork", "sh", "-ec", BOOT, "boot", str(root)),
        *json.loads(dockerfile.one("VOLUME")), "--",
        *("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"),
        *("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"),
        *arguments,
    ]


def until(what, holds):
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        if time.monotonic() > end:
            raise SystemExit(f"after {PATIENCE} s: {what}")
        time.sleep(0.2)
    return found


@contextmanager
def endpoint(binary):
    """The local endpoint's address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    command = [binary, "local", "--listen", address]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with subprocess.Popen(command, **quiet) as process:
        try:
            until("the local endpoint does not listen", lambda: listens(address))
            yield f"http://{address}"
        finally:
            process.kill()


def listens(address):
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def client(service, url):
    given = dict(aws_access_key_id="local", aws_secret_access_key="local", region_name="us-east-1")
    return boto3.client(service, endpoint_url=url, **given)


def one_step(sagemaker, queue):
    """The outputs of a step, once its execution has succeeded."""
    names = ["user", "capabilities", "tmp"]
    outputs = [{"OutputName": name, "OutputType": "String"} for name in names]
    step = {"Name": "look", "Type": "Callback", "Arguments": {}, "SqsQueueUrl": queue}
    definition = {"Version": "2020-12-01", "Steps": [{**step, "OutputParameters": outputs}]}
    sagemaker.create_pipeline(
        PipelineName="look", ClientRequestToken="c" * 32, PipelineDefinition=json.dumps(definition),
        RoleArn="arn:aws:iam::123456789012:role/any",
    )
    arn = sagemaker.start_pipeline_execution(
        PipelineName="look", ClientRequestToken="s" * 32
    )["PipelineExecutionArn"]

    def ended():
        steps = sagemaker.list_pipeline_execution_steps(PipelineExecutionArn=arn)
        (step,) = steps["PipelineExecutionSteps"] or [{"StepStatus": "Starting"}]
        return step if step["StepStatus"] in ("Succeeded", "Failed") else None

    step = until("the step has not ended", ended)
    if step["StepStatus"] != "Succeeded":
        raise SystemExit(f"the step failed: {step.get('FailureReason')}")
    return {it["Name"]: it["Value"] for it in step["Metadata"]["Callback"]["OutputParameters"]}


def boot(root, dockerfile, binary):
    with endpoint(binary) as url:
        queue = client("sqs", url).create_queue(QueueName="sagemaker-callbacks")["QueueUrl"]
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local",
            "CALLBACKD_QUEUES__0__URL": queue, "CALLBACKD_LOG__FORMAT": "json",
            "CALLBACKD_HTTP__LISTEN": "127.0.0.1:19464",
            "CALLBACKD_LEDGER__PATH": "/var/lib/callbackd/ledger.db",
        }
        command = json.loads(dockerfile.one("ENTRYPOINT")) + json.loads(dockerfile.one("CMD"))
        health = json.loads(dockerfile.one("HEALTHCHECK").split("CMD ", 1)[1])
        daemon = subprocess.Popen(entered(root, dockerfile, command), env=environment)
        try:
            asks = lambda: subprocess.run(
                entered(root, dockerfile, health), env=environment, stderr=subprocess.DEVNULL
            ).returncode == 0
            until("the health check fails", asks)
            seen = one_step(client("sagemaker", url), queue)
            (first,) = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
            os.kill(int(first), signal.SIGTERM)
            code = daemon.wait(PATIENCE)
        finally:
            daemon.kill()
    expected = {"user": dockerfile.one("USER"), "capabilities": "0" * 16, "tmp": "writable"}
    if seen != expected:
        raise SystemExit(f"the step was run with {seen}, not {expected}")
    if code != 0:
        raise SystemExit(f"after SIGTERM the daemon exits with {code}")


def main(binary, base=None):
    dockerfile = Dockerfile(REPOSITORY / "deploy/container/Dockerfile")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        if base:
            subprocess.run(["cp", "-a", base, root], check=True)
        else:
            suite = re.match(r"debian:(\w+)", dockerfile.one("FROM"))[1]
            subprocess.run(["debootstrap", "--variant=minbase", suite, root], check=True)
        assemble(root, dockerfile, Path(binary))
        if not (root / "etc/ssl/certs/ca-certificates.crt").stat().st_size:
            raise SystemExit("the image has no CA roots")
        layer(root)
        boot(root, dockerfile, Path(binary).resolve())
    print("the image's root boots, runs a step and drains")


main(*sys.argv[1:])
