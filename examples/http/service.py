#!/usr/bin/env python3
"""A warm service for steps of the type `http`, in Python's standard library alone.

    SECRET_FILE=secret python3 service.py 8080

What is slow to import or to load is loaded once, before the first request; each request is then a
call of a function in a thread of its own. Replace `train` with your work.

POST /run      does a step's work: 200 with outputs, or 200 with "again" and a checkpoint
POST /cleanup  ends what a stopped step has left running
"""
import hashlib
import hmac
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# import torch; MODEL = torch.load(…)   once, however many steps come.

WINDOW = 300  # seconds: how old a request may be, and how far the clocks may differ
REMEMBERED = 10_000  # steps
LARGEST = 4 << 20  # bytes: a message has at most 1 MiB, and a checkpoint 256 KiB


def secrets():
    """The keys that are accepted: each line of the file is one, so that two overlap while callbackd
    changes from one to the other."""
    with open(os.environ["SECRET_FILE"], "rb") as file:
        return [line for line in file.read().splitlines() if line]


def is_signed(header, method, path, body, keys, now=None):
    """Whether a header Callbackd-Signature says that someone with one of the keys sent this, lately."""
    parts = [part.partition("=") for part in (header or "").split(",")]
    times = [value for name, _, value in parts if name == "t" and value.isdecimal()]
    if len(times) != 1 or abs((time.time() if now is None else now) - int(times[0])) > WINDOW:
        return False
    signed = f"{times[0]}\n{method}\n{path}\n".encode() + body
    wanted = [hmac.new(key, signed, hashlib.sha256).hexdigest().encode() for key in keys]
    given = [value.encode() for name, _, value in parts if name == "v1"]
    # compare_digest takes as long for a wrong signature as for a right one.
    return any([hmac.compare_digest(one, other) for one in wanted for other in given])


class Refused(Exception):
    """The step fails, with this reason."""


class Steps:
    """The steps that have been started here, by their idempotency key: a request that was cut off,
    or that a restarted worker sends again, must not start the work twice."""

    def __init__(self):
        self.lock = threading.Lock()
        self.begun = {}

    def once(self, key, work):
        with self.lock:
            mine = key not in self.begun
            entry = self.begun.setdefault(key, {"done": threading.Event()})
            if len(self.begun) > REMEMBERED:
                del self.begun[next(iter(self.begun))]
        if mine:
            try:
                entry["answer"] = work()
            except Refused as refused:
                entry["answer"] = (422, {"reason": str(refused)})
            except Exception:
                # Not remembered: callbackd tries again.
                with self.lock:
                    self.begun.pop(key, None)
                raise
            finally:
                entry["done"].set()
        entry["done"].wait()
        return entry.get("answer", (503, {"reason": "the first request for this work failed"}))


def train(step):
    """The work. It may take as long as the handler's `timeout`; for longer work, start it, and
    answer with "again" and a checkpoint until it is done."""
    arguments = step["arguments"] or {}
    if "dataset" not in arguments:
        raise Refused("the argument `dataset` is missing")
    looks = (step.get("checkpoint") or {"looks": 0})["looks"] + 1
    if looks < arguments.get("looks", 1):
        return 200, {"again": "1s", "checkpoint": {"looks": looks}}
    return 200, {"outputs": {"model": f"s3://models/{step['token']}", "looks": looks}}


def clean_up(step):
    """May be asked for more than once, and for a step that never began."""
    print(f"cleaning up {step['token']}: {step['stopReason']}", flush=True)
    return 200, {}


STEPS = Steps()
WORK = {"/run": train, "/cleanup": clean_up}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST:
            self.close_connection = True
            return self.answer(413, {"reason": "the request is too large"})
        body = self.rfile.read(int(length))
        signature = self.headers.get("Callbackd-Signature")
        if not is_signed(signature, "POST", self.path, body, secrets()):
            return self.answer(401, {"reason": "the signature is missing, wrong or too old"})
        work = WORK.get(self.path)
        if work is None:
            return self.answer(404, {"reason": f"there is no {self.path}"})
        try:
            step = json.loads(body)
            self.answer(*STEPS.once(self.headers["Idempotency-Key"], lambda: work(step)))
        except ConnectionError:
            pass  # callbackd has given up, because of a stop or its timeout
        except Exception as error:
            self.answer(500, {"reason": repr(error)})

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    print(f"listening on {server.server_address[1]}", flush=True)
    server.serve_forever()
