"""
Run a command that does not outlive the process that starts it: `python follow.py COMMAND …`.

A byte on stdin interrupts the command, as Ctrl-C does, and kills it if it takes too long to end.
The end of stdin, as when the parent is killed, kills it at once. Its status is passed on.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

PATIENCE = 90  # seconds that an interrupted training has to close its W&B run


def main() -> int:
    """Run the command of the command line; returns its status."""
    # a search in the background ignores Ctrl-C, and so would the training
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # in a session of its own, so that its own processes end with it
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_follow, args=(process,), daemon=True).start()
    status = process.wait()
    return status if status >= 0 else 128 - status


def _follow(process: subprocess.Popen) -> None:
    # not sys.stdin, which Python closes at its end, and would wait for this
    if os.read(0, 1) and os.name == "posix":
        _signal(process, signal.SIGINT)
        timer = threading.Timer(PATIENCE, _kill, (process,))
        timer.daemon = True
        timer.start()
        os.read(0, 1)  # until the parent has ended, or does not want to wait
    _kill(process)


def _kill(process: subprocess.Popen) -> None:
    if os.name == "posix":
        _signal(process, signal.SIGKILL)
    else:
        process.kill()


def _signal(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    sys.exit(main())
