"""Writes json files whole or not at all, and never over something else unasked."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from detection.utils.errors import UserError


def write_all(files: dict[Path, dict], stale: Sequence[Path] = (), force: bool = False) -> bool:
    """
    Write json files, all or none of them.

    Args:
        files: what to write where.
        stale: files of an earlier split that must not stay beside the new ones.
        force: whether other files there may be replaced.

    Returns:
        Whether anything had to be written: False where the very same files are there.

    Raises:
        UserError: other files are there, or they cannot be written.
    """
    try:
        contents = {path: json.dumps(c, ensure_ascii=False).encode() for path, c in files.items()}
    except UnicodeEncodeError as e:
        raise UserError(f"the annotations hold text that UTF-8 cannot: {e.object[:60]!r}") from e
    except RecursionError as e:
        raise UserError(f"{next(iter(files))}: cannot be written, lists nest too deep in it") from e
    try:
        there = [path for path in contents if path.exists()]
        other = [*stale, *(path for path in there if path.read_bytes() != contents[path])]
    except OSError as e:
        raise UserError(f"{e.filename}: cannot be read ({e.strerror}); move it away") from e
    if other and not force:
        raise UserError(
            f"{other[0]}: holds something else; --force replaces it, --output writes elsewhere"
        )
    if not other and len(there) == len(contents):
        return False
    partials = {path: path.with_name(f"{path.name}.partial") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partials[path].write_bytes(content)
        for path in stale:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
        for path, partial in partials.items():
            os.replace(partial, path)
    except OSError as e:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
        raise UserError(f"{e.filename}: cannot be written ({e.strerror})") from e
    return True
