#!/usr/bin/env python3
"""Submits the batch script SLURM_SCRIPT, with the step's arguments as the script's `name=value`.

Slurm's own variables choose everything else: SBATCH_PARTITION, SBATCH_ACCOUNT, SLURM_CONF, …
"""

import os
import re
import subprocess

import job
from job import Failed, Unclear, text

ENDED_BADLY = (
    "BOOT_FAIL CANCELLED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT".split()
)


def slurm(*command):
    """What a command printed. Unclear if the controller does not answer, Failed if it refuses."""
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode == 0:
        return ended.stdout.strip()
    message = ended.stderr.strip() or f"{command[0]} exited with {ended.returncode}"
    if re.search("contact slurm|timed out|connect|[Cc]ommunication|temporarily", message):
        raise Unclear(message)
    raise Failed(message)


def find(name):
    jobs = slurm("squeue", "--me", "--noheader", "--states=all", f"--name={name}", "--format=%i")
    if not jobs:
        jobs = accounted(f"--name={name}", "--starttime=now-30days", "--format=JobIDRaw")
    return jobs.splitlines()[0] if jobs else None


def accounted(*options):
    """What Slurm's database has of a job; nothing without one."""
    try:
        return slurm("sacct", "--allocations", "--noheader", "--parsable2", *options)
    except Failed:
        return ""


def submit(name, arguments):
    values = [f"{key}={text(value)}" for key, value in arguments.items()]
    script = os.environ["SLURM_SCRIPT"]
    return slurm("sbatch", "--parsable", f"--job-name={name}", script, *values).split(";")[0]


def look(job_id):
    try:
        shown = slurm("scontrol", "show", "job", "--oneliner", job_id)
        state, exit_code, log = (
            re.search(rf" {field}=(\S+)", shown)[1] for field in ("JobState", "ExitCode", "StdErr")
        )
    except Failed:
        # The controller forgets a job minutes after its end (MinJobAge).
        shown = accounted(f"--jobs={job_id}", "--format=State,ExitCode")
        if not shown:
            raise Failed(f"Slurm knows no job {job_id} any more") from None
        state, exit_code, log = *shown.splitlines()[0].split("|"), None
        state = state.split()[0]
    if state == "COMPLETED":
        return {"job_id": job_id}
    if state in ENDED_BADLY:
        raise Failed(f"job {job_id} {state} with exit code {exit_code}{last_line(log)}")
    return None


def last_line(log):
    """The end of the job's own log, if it is on a file system of this machine."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - 4096))
            return ": " + file.read().decode(errors="replace").strip().splitlines()[-1]
    except (OSError, TypeError, IndexError):
        return ""


def cancel(job_id):
    try:
        slurm("scancel", job_id)
    except Failed as refused:
        if "Invalid job id" not in str(refused):
            raise


job.main(find, submit, look, cancel)
