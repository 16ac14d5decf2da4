"""One-line errors for what stops a program from outside: full disk, lost folder, killed worker."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from detection.utils.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOST = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
}
# in the messages of torch.save, whose errors have no errno
_TORCH_WRITES = ("inline_container", "PytorchStreamWriter", "Parent directory")
_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)?[\d, ]*\)(.*?)(\.|$)", re.DOTALL)


@contextmanager
def explained(
    output: str,
    remedy: str = "--resume continues from the last checkpoint",
    workers: str = "dataloader.train.num_workers, dataloader.test.num_workers, "
    "dataloader.train.total_batch_size or "
    "dataloader.train.mapper.augmentations.0.short_edge_length",
) -> Iterator[None]:
    """
    Turn failures of the machine into a UserError of one line; other errors pass.

    Args:
        output: the folder, or the file, that is written within.
        remedy: what continues the work.
        workers: the settings that lower the memory of the processes that load images.

    Raises:
        UserError: the cause, and the remedy.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as e:
        chain = list(_chain(e))
        for error in chain:
            if isinstance(error, UserError):  # closing a file has failed after it
                raise error from None
        for error in chain:
            if lost := _WORKER.search(str(error)):
                raise UserError(
                    f"a process that loads images{lost[1]}, most likely out of memory, or of "
                    f"/dev/shm; lower {workers}; {remedy}"
                ) from e
        for error in chain:
            if reason := _why_not_written(error, output):
                raise UserError(f"{reason}; {remedy}") from e
        raise


def _why_not_written(error: BaseException, output: str) -> str | None:
    name = str(getattr(error, "filename", None) or output)
    is_torch = any(text in str(error) for text in _TORCH_WRITES)
    is_full = isinstance(error, OSError) and error.errno in _FULL
    is_ours = os.path.abspath(name).startswith(os.path.abspath(output))
    is_lost = isinstance(error, OSError) and error.errno in _LOST and is_ours
    if (is_torch or is_lost) and not os.path.exists(output):
        return f"{output}: is gone; put it back"
    if is_torch or is_full:
        return (
            f"{name}: the disk is full, or a quota used up; what was saved before is undamaged: "
            "free some space"
        )
    return f"{name}: cannot be written ({error.strerror}); make it writable" if is_lost else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, its causes and contexts; once each, since they can form a ring."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
