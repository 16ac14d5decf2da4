"""One process at a time in a folder or at a file, on all machines that share the disk."""

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

from detection.utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None

logger = logging.getLogger(__name__)

NAME = ".lock"  # in an output directory; it stays there

_PATIENCE = 3  # seconds; a process that was killed may still be giving back its memory
_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


@contextmanager
def locked_output(output_dir: str) -> Iterator[None]:
    """
    Keep an output directory for this training, whose processes all come here; UserError if another
    training uses it, or it cannot be written.
    """
    from detectron2.utils import comm  # slow to import

    file = problem = None
    if comm.is_main_process() and "://" not in output_dir:
        try:
            file = _take(Path(output_dir, NAME), output_dir, "train.output_dir=…")
        except UserError as e:
            problem = str(e)
    if problem := comm.all_gather(problem)[0]:
        raise UserError(problem)
    with file or nullcontext():
        yield


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """
    Keep a file that takes long to write for this process; UserError if another process writes it,
    or its folder cannot be written.
    """
    if path.exists() and not path.is_file():  # /dev/null
        yield
        return
    lock = path.with_name(f"{path.name}{NAME}")
    with _take(lock, str(path), "--output"):
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()


def try_lock(path: Path) -> TextIO | None:
    """
    Lock a file at once, for as long as it is open and this process lives.

    Returns:
        The open file; None if the disk has no locks.

    Raises:
        BlockingIOError: another process has it.
    """
    file = path.open("a+", encoding="utf-8")
    try:
        _lock(file)
    except OSError as e:
        file.close()
        if e.errno in _HELD:
            raise BlockingIOError(e.errno, f"{path}: in use") from None
        return None
    return file


def _take(path: Path, name: str, option: str) -> TextIO:
    """
    Lock a file; it is unlocked when it is closed, and when the process ends in whatever way.

    No other code of the process may open it: closing that would unlock it, too.
    """
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except OSError as e:
            raise UserError(
                f"{name}: cannot be written ({e.strerror}); {option} names another place"
            ) from e
        try:
            _lock(file)
        except OSError as e:
            if e.errno not in _HELD:
                logger.warning(
                    f"{name}: this disk has no locks ({e.strerror}); make sure that no other "
                    "process writes there"
                )
                return file
            if time.monotonic() < give_up:
                file.close()
                time.sleep(0.2)
                continue
            file.seek(0)
            owner = file.read() or "another process"
            file.close()
            raise UserError(
                f"{name}: in use by {owner}; wait for its end, or set {option} to another place "
                f"(if that machine is gone: delete {path})"
            ) from None
        with suppress(OSError):  # FileNotFoundError: it has just been removed by its owner
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                with suppress(OSError):  # a full disk: the lock holds all the same
                    file.truncate(0)
                    file.write(_this_process())
                    file.flush()
                return file
        file.close()


def _lock(file: TextIO) -> None:
    if fcntl is None:
        os.lseek(file.fileno(), 1 << 30, os.SEEK_SET)  # others can read what is before
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        # of this process alone: a loader's worker that outlives it does not hold it
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _this_process() -> str:
    return (
        f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M')}"
    )
