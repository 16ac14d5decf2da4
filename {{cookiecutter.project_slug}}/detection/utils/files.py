"""Atomic writes that never overwrite an input file."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from detection.utils.errors import UserError


def refuse_to_overwrite(output: str | Path, *inputs: str | Path | None) -> None:
    """
    Refuse an output that cannot be written, before any work is done for it.

    Args:
        output: the file to write.
        inputs: the files that are read; None is ignored.

    Raises:
        UserError: the output is one of the inputs, or a folder.
    """
    if os.path.isdir(output):
        raise UserError(f"{output}: is a folder; --output wants the name of a file")
    for path in inputs:
        if path is not None and os.path.realpath(path) == os.path.realpath(output):
            raise UserError(f"{output}: is what is read; --output writes elsewhere")


def write_atomically(
    path: str | Path, content: bytes, name: str | None = None, remedy: str = ""
) -> None:
    """
    Write a file completely or not at all; its folder is created.

    Args:
        path: where; an existing file is replaced once all is written, and a link stays one.
        content: of the file.
        name: what the error calls the file; None is `path`.
        remedy: what the error advises, after its reason.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(os.path.realpath(path))
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # /dev/null, /dev/stdout
            path.write_bytes(content)
            return
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as e:
        with suppress(OSError):
            partial.unlink()
        raise UserError(f"{name or path}: cannot be written ({e.strerror or e}){remedy}") from e


def sha256(path: str | Path, first: bytes = b"") -> str:
    """The hexadecimal SHA-256 of `first` and a file's content; of its name where it is no file."""
    digest = hashlib.sha256(first)
    if Path(path).is_file():
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    else:
        digest.update(str(path).encode())
    return digest.hexdigest()


def read_record(path: Path) -> dict:
    """A small json file that a training keeps; {} if it is missing or malformed."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(path: Path, record: dict) -> None:
    """Write what `read_record` reads."""
    write_atomically(path, json.dumps(record).encode() + b"\n")


def write_json_files(
    files: dict[Path, dict], stale: Sequence[Path] = (), force: bool = False
) -> bool:
    """
    Write json files, all or none of them.

    Args:
        files: what to write where.
        stale: files of an earlier split that must not stay beside the new ones.
        force: whether other files may be replaced.

    Returns:
        Whether anything was written: False if the same files exist already.

    Raises:
        UserError: other files exist there, or they cannot be written.
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
