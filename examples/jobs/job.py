"""What the jobs in this folder share: submit once, checkpoint the id, poll, cancel in a cleanup.

A job is four functions. `find(name)` returns the id of the job of that name, or None; `submit(name,
arguments)` the id of a new one. `look(id)` returns None while the job runs, and its outputs once it
has succeeded. `cancel(id)` does nothing to a job that has ended.
"""

import json
import os
import signal
import sys
import time


class Failed(Exception):
    """The step fails, and this is its reason."""


class Unclear(Exception):
    """Where the jobs run, nobody answers, or not for certain: ask again later."""


def main(find, submit, look, cancel, unclear=Unclear):
    """Runs a step, or cleans up after it. `unclear` are the errors after which to ask again."""
    step = json.load(sys.stdin)
    name = "callbackd-" + step["token"]
    if sys.argv[1:] == ["cleanup"]:
        clean_up(name, find, cancel, unclear)
        return
    # A poll takes seconds and then ends by itself, but never between a submit and its checkpoint.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        outputs = poll(name, step["arguments"] or {}, find, submit, look)
    except unclear as error:
        print(f"asking again later: {error}", file=sys.stderr)
        sys.exit(76)
    except Failed as error:
        fail(str(error))
    if outputs is None:
        sys.exit(76)
    with open(os.environ["STEP_OUTPUT"], "w") as file:
        json.dump(outputs, file)


def poll(name, arguments, find, submit, look):
    """Looks at the job, or submits it: a job may not be visible yet when its id is."""
    if job := saved():
        return look(job)
    if job := find(name):
        save(job)
        return look(job)
    save(submit(name, arguments))
    return None


def clean_up(name, find, cancel, unclear):
    """Tries until it has worked, or `cleanup_limit` is over: a cleanup is run once."""
    while True:
        try:
            job = saved() or find(name)
            if job:
                cancel(job)
            return
        except unclear as error:
            print(f"the job is not cancelled yet: {error}", file=sys.stderr)
            time.sleep(5)
        except Failed as error:
            fail(str(error))


def saved():
    """The id in the checkpoint, or None."""
    try:
        with open(os.environ["STEP_CHECKPOINT"]) as file:
            return file.read()
    except FileNotFoundError:
        return None


def save(job):
    """Saves the id at once and as a whole, which renaming a file does."""
    path = os.environ["STEP_CHECKPOINT"]
    with open(path + ".new", "w") as file:
        file.write(job)
    os.rename(path + ".new", path)


def fail(reason):
    """Fails the step with this reason."""
    if path := os.environ.get("STEP_REASON"):
        with open(path, "w") as file:
            file.write(reason)
    sys.exit(reason)


def text(value):
    """A value of the step's arguments, for services that take only text."""
    return value if isinstance(value, str) else json.dumps(value)
