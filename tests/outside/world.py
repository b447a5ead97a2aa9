"""The world outside the worker: moto's SQS behind a proxy that can fail, a scripted SageMaker, and the built binary."""

import http.server
import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import urllib.request
from pathlib import Path

import boto3

BINARY = os.environ["CALLBACKD_BINARY"]
ACCOUNT = "123456789012"
PATIENCE = 90


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(what, holds, patience=PATIENCE):
    """Waits for something observable; what never comes true is an error that names it."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        value = holds()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"never came true: {what}")


class Moto:
    """One moto server for all tests; each has a queue of its own."""

    def __init__(self):
        self.port = free_port()
        server = Path(sys.executable).with_name("moto_server")
        self.process = subprocess.Popen(
            [server, "-H", "127.0.0.1", "-p", str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until("moto answers", self.answers)

    def answers(self):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/moto-api/", timeout=1).close()
            return True
        except OSError:
            return False

    def close(self):
        self.process.kill()
        self.process.wait()


class Proxy:
    """Stands before moto. While `down`, every connection is refused or cut; moto itself loses nothing."""

    def __init__(self, target):
        self.target, self.down, self.requests, self.live = target, False, [], set()
        # Operations whose next answers are not passed on, although moto has acted.
        self.cut_after = {}
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                outer.serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads, allow_reuse_address, request_queue_size = True, True, 64

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def serve(self, client):
        if self.down:
            return
        self.live.add(client)
        try:
            while request := read_message(client):
                operation = re.search(rb"(?i)x-amz-target: AmazonSQS\.(\w+)", request)
                operation = operation[1].decode() if operation else ""
                if self.down:
                    return
                self.requests.append(operation)
                with socket.create_connection(("127.0.0.1", self.target)) as upstream:
                    upstream.sendall(re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", request, count=1))
                    answer = read_message(upstream)
                if self.down or self.cut_after.get(operation, 0) > 0:
                    self.cut_after[operation] = self.cut_after.get(operation, 0) - 1
                    return
                client.sendall(answer)
        except OSError:
            pass
        finally:
            self.live.discard(client)

    def stop(self):
        self.down = True
        for client in list(self.live):
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def start(self):
        self.down = False


def read_message(connection):
    """One HTTP message with its body, or nothing where the connection has ended."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while len(body) < (int(length[1]) if length else 0):
        part = connection.recv(65536)
        if not part:
            return b""
        body += part
    return head + b"\r\n\r\n" + body


class SageMaker:
    """Steps that wait for an answer, every request on record, and faults by script.

    A request that the service's model would refuse is an error of the test: the worker must never send one."""

    def __init__(self, queue_url):
        self.queue_url, self.steps, self.requests, self.invalid = queue_url, {}, [], []
        self.execution_status, self.faults, self.down, self.lock = "Executing", [], False, threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                operation = self.headers["X-Amz-Target"].split(".")[1]
                answer = outer.answer(operation, body)
                if answer is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, payload = answer
                payload = json.dumps(payload).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def fail(self, operation, times, how):
        """`how`: "before", "after" (the connection is cut), or (status, code)."""
        self.faults += [(operation, how)] * times

    def fault(self, operation):
        for index, (name, how) in enumerate(self.faults):
            if operation.startswith(name):
                return self.faults.pop(index)[1]

    def answer(self, operation, body):
        with self.lock:
            request = json.loads(body)
            self.requests.append((operation, body))
            how = self.fault(operation)
            if self.down or how == "before":
                return None
            if isinstance(how, tuple):
                return how[0], {"__type": how[1], "message": "scripted"}
            answer = getattr(self, operation)(request)
            return None if how == "after" else answer

    def send(self, request, status, detail):
        token, crt = request.get("CallbackToken", ""), request.get("ClientRequestToken", "")
        if not re.fullmatch("[a-zA-Z0-9]{10}", token) or not 32 <= len(crt) <= 128:
            self.invalid.append(request)
        step = self.steps.get(token)
        if step is None:
            return 400, {"__type": "ResourceNotFound", "message": "no such step"}
        if step["status"] in ("Executing", "Stopping"):
            step.update(status=status, request=crt, answers=step.get("answers", 0) + 1, **detail)
            return 200, {}
        if step.get("request") == crt:
            return 200, {}
        return 400, {"__type": "ConflictException", "message": f"Step {token} is already in a terminal status"}

    def SendPipelineExecutionStepSuccess(self, request):
        outputs = request.get("OutputParameters", [])
        if len(outputs) > 50 or any(not 1 <= len(o["Name"]) <= 256 or len(o["Value"]) > 1024 for o in outputs):
            self.invalid.append(request)
        return self.send(request, "Succeeded", {"outputs": {o["Name"]: o["Value"] for o in outputs}})

    def SendPipelineExecutionStepFailure(self, request):
        if len(request.get("FailureReason", "")) > 256:
            self.invalid.append(request)
        return self.send(request, "Failed", {"reason": request.get("FailureReason")})

    def ListPipelineExecutionSteps(self, _):
        steps = [
            {
                "StepName": f"step-{token}",
                "StepStatus": step["status"],
                "AttemptCount": 1,
                "Metadata": {"Callback": {"CallbackToken": token, "SqsQueueUrl": step["queue"]}},
            }
            for token, step in self.steps.items()
        ]
        return 200, {"PipelineExecutionSteps": steps}

    def DescribePipelineExecution(self, request):
        arn = request["PipelineExecutionArn"]
        return 200, {"PipelineExecutionArn": arn, "PipelineExecutionStatus": self.execution_status}

    def reports(self, token):
        sends = [body for operation, body in self.requests if operation.startswith("SendPipelineExecutionStep")]
        return [body for body in sends if json.loads(body)["CallbackToken"] == token]


class World:
    """One queue, one SageMaker, one directory, and the workers of one test."""

    def __init__(self, moto, name):
        self.directory = Path(tempfile.mkdtemp(prefix=f"callbackd-{name}-"))
        self.proxy = Proxy(moto.port)
        credentials = dict(region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y")
        self.sqs = boto3.client("sqs", endpoint_url=f"http://127.0.0.1:{moto.port}", **credentials)
        # moto writes its own address into the URL; the worker goes through the proxy.
        self.queue_url = self.sqs.create_queue(QueueName=f"sagemaker-{name}"[:80])["QueueUrl"]
        self.sagemaker = SageMaker(self.queue_url)
        self.workers, self.port, self.tokens = [], free_port(), 0

    def config(self, script="true", cleanup=None, queue="", handler="", settings=""):
        run = self.program("run.sh", script)
        cleanup = f'cleanup = ["{self.program("cleanup.sh", cleanup)}"]' if cleanup else ""
        text = textwrap.dedent(
            """\
            [worker]
            drain_timeout = "30s"
            [ledger]
            path = "{directory}/ledger.db"
            [http]
            listen = "127.0.0.1:{port}"
            [log]
            format = "json"
            [[queues]]
            url = "{url}"
            handler = "work"
            visibility_timeout = "10s"
            stop_watch = "1s"
            {takeover}
            {queue}
            [handlers.work]
            type = "exec"
            retry_delay = "100ms"
            {handler}
            [handlers.work.settings]
            command = ["{run}"]
            env = {{ DIR = "{directory}" }}
            {cleanup}
            {settings}
            """
        )
        takeover = "" if "stop_takeover_after" in queue else 'stop_takeover_after = "5s"'
        values = dict(takeover=takeover, directory=self.directory, port=self.port, url=self.queue_url, queue=queue, handler=handler)
        path = self.directory / "callbackd.toml"
        path.write_text(text.format(run=run, cleanup=cleanup, settings=settings, **values))
        return path

    def program(self, name, script):
        path = self.directory / name
        path.write_text("#!/bin/sh\n" + textwrap.dedent(script) + "\n")
        path.chmod(0o755)
        return path

    def environment(self):
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "y",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_SQS": self.proxy.url,
            "AWS_ENDPOINT_URL_SAGEMAKER": self.sagemaker.url,
        }

    def start(self, **config):
        if config or not (self.directory / "callbackd.toml").exists():
            self.config(**config)
        worker = Worker(self)
        self.workers.append(worker)
        return worker

    def command(self, *arguments):
        line = [BINARY, *arguments, "--config", str(self.directory / "callbackd.toml")]
        return subprocess.run(line, env=self.environment(), capture_output=True, text=True, timeout=60)

    def token(self):
        self.tokens += 1
        return f"token{self.tokens:05d}"

    def body(self, token, status="Executing", account=ACCOUNT, arguments=None):
        arn = f"arn:aws:sagemaker:us-east-1:{account}:pipeline/p/execution/e"
        return json.dumps({"token": token, "pipelineExecutionArn": arn, "arguments": arguments or {}, "status": status})

    def wait_at_sagemaker(self, token):
        self.sagemaker.steps[token] = {"status": "Executing", "queue": self.queue_url}

    def step(self, token=None, **body):
        token = token or self.token()
        self.wait_at_sagemaker(token)
        self.send(self.body(token, **body))
        return token

    def stop(self, token):
        self.sagemaker.execution_status = "Stopping"
        self.send(self.body(token, "Stopping"))

    def send(self, body):
        self.sqs.send_message(QueueUrl=self.queue_url, MessageBody=body)

    def counts(self):
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=names)["Attributes"]
        return tuple(int(attributes[name]) for name in names)

    def is_empty(self):
        return self.counts() == (0, 0)

    def ended(self, token):
        return self.sagemaker.steps[token]["status"] in ("Succeeded", "Failed")

    def until_done(self, *tokens):
        """Each token has exactly one accepted answer, every retry of it was identical, and nothing is left on the queue."""
        for token in tokens:
            until(f"{token} is answered", lambda: self.ended(token))
        until("the queue is empty", self.is_empty)
        for token in tokens:
            assert self.sagemaker.steps[token]["answers"] == 1, self.sagemaker.steps[token]
            assert len(set(self.sagemaker.reports(token))) == 1, self.sagemaker.reports(token)
        assert not self.sagemaker.invalid, self.sagemaker.invalid

    def lines(self, name):
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def touch(self, name):
        (self.directory / name).write_text("")

    def has(self, name):
        return (self.directory / name).exists()

    def records(self):
        return json.loads(self.command("steps", "--json").stdout)

    def record(self, token):
        return next((record for record in self.records() if record["token"] == token), None)

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name):
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def log(self):
        return "".join(worker.log.read_text() for worker in self.workers)

    def close(self):
        for worker in self.workers:
            worker.kill()


class Worker:
    """One process of the built binary."""

    def __init__(self, world):
        self.world = world
        self.log = world.directory / f"worker-{len(world.workers)}.log"
        with open(self.log, "w") as log:
            line = [BINARY, "run", "--config", str(world.directory / "callbackd.toml")]
            self.process = subprocess.Popen(line, env=world.environment(), stdout=log, stderr=log, cwd=world.directory)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def ends(self, patience=PATIENCE):
        return self.process.wait(timeout=patience)


def alive(pid):
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
