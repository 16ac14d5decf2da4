"""One training of a search: a command in a process, its scores as they come, how it ended."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from detection.checkpoint.checkpointer import FINAL, last_checkpoint
from detection.utils.errors import UserError
from detection.utils.paths import PROJECT_ROOT
from detection.utils.text import printable
from detection.workshop.analysis.runs import read_config, read_history

CONSOLE = "console.txt"  # in the output directory: what the training prints
PERIOD = 1.0  # seconds between two looks at the scores
SHOWN = 12  # lines of the console
# of a sweep's agent around the search; each training is a run of its own
_NOT_PASSED_ON = {"WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_RUN_GROUP"}


class Training:
    """
    A training that runs.

    It ends with this process, in whatever way that ends, and when the context is left early.

    Attributes:
        output_dir: its own.
    """

    def __init__(self, command: Sequence[str], output_dir: Path):
        """
        Args:
            command: what to run, in the project's folder.
            output_dir: of the training; gets the console's text.
        """
        self.output_dir = output_dir
        self._command = command
        self._before = self._stamp()

    def __enter__(self):
        follow = str(Path(__file__).with_name("follow.py"))
        environment = {k: v for k, v in os.environ.items() if k not in _NOT_PASSED_ON}
        environment.setdefault("PYTHONUNBUFFERED", "1")
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with (self.output_dir / CONSOLE).open("ab") as console:
            self._process = subprocess.Popen(
                [sys.executable, follow, *self._command],
                cwd=PROJECT_ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C goes to the search alone
            )
        return self

    def __exit__(self, *error):
        with suppress(OSError):  # it has ended
            self._process.stdin.write(b".")
            self._process.stdin.flush()
        try:
            self._process.wait()
        finally:  # also at a second Ctrl-C
            with suppress(OSError):
                self._process.stdin.close()  # which kills it
            self._process.wait()

    @property
    def has_begun(self) -> bool:
        """Whether data and settings were good enough for an iteration; the log is opened then."""
        return self._stamp() != self._before

    def _stamp(self) -> tuple[int, int] | None:
        with suppress(OSError):
            metrics = (self.output_dir / "metrics.json").stat()
            return metrics.st_ino, metrics.st_mtime_ns
        return None

    def wait(self, look: Callable[[], bool]) -> int | None:
        """
        Wait for the end; returns the status, or None where `look`, called about once a second and
        at the end, says that this has gone on for long enough.
        """
        while True:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PERIOD)
            status = self._process.poll()
            if look() and status is None:
                return None
            if status is not None:
                return status


def curve_of(output_dir: Path, metric: str) -> list[tuple[int, float]]:
    """The evaluations of a training so far: (iteration, value); none before the first."""
    if not (output_dir / "metrics.json").is_file():
        return []
    with suppress(UserError):  # it is being written
        return read_history(str(output_dir)).get(metric, [])
    return []


def max_iter_of(output_dir: Path) -> float:
    """How many iterations a training has, as far as that is known yet; else infinity."""
    with suppress(UserError, KeyError, TypeError, ValueError):
        return int(read_config(output_dir)["train"]["max_iter"])
    return float("inf")


def is_done(output_dir: Path) -> bool:
    """Whether a training has nothing left to do, not even its last evaluation."""
    with suppress(UserError):
        last = last_checkpoint(output_dir)
        return last is not None and last.path.name == f"{FINAL}.pth" and not last.is_cut_off
    return False


def last_lines(output_dir: Path) -> list[str]:
    """The end of what a training has printed."""
    text = (output_dir / CONSOLE).read_bytes()[-100_000:].decode("utf-8", "replace")
    lines = [line.rstrip() for line in text.replace("\r", "\n").split("\n")]
    return [printable(line) for line in lines if line][-SHOWN:]
