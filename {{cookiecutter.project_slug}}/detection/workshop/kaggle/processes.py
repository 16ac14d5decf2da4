"""Runs the project's own scripts, one process each."""

import os
import shlex
import subprocess
import sys

from detection.utils.errors import UserError
from detection.utils.paths import PROJECT_ROOT

SAVING = 600  # seconds that a training may take to end


def run_script(script: str, *args: object) -> None:
    """
    Run a script of the project, and show its command line first.

    Raises:
        UserError: it has failed; it has said why.
    """
    process = _start(script, *args)
    if status := process.wait():
        raise UserError(f"{script} has ended with status {status}; the reason is above")


def run_until(seconds: float, script: str, *args: object) -> bool:
    """
    The same, but stop the script by SIGTERM when its time is up.

    Returns:
        Whether it has ended by itself.
    """
    process = _start(script, *args)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # a training saves a checkpoint first
        try:
            process.wait(SAVING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return False
    if status:
        raise UserError(f"{script} has ended with status {status}; the reason is above")
    return True


def _start(script: str, *args: object) -> subprocess.Popen:
    command = [script, *map(str, args)]
    print(f"== {shlex.join(command)}", flush=True)
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},  # so that it is seen as it happens
    )
