"""Unpacks a competition's data without replacing what is there."""

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from detection.utils.errors import UserError
from detection.utils.progress import progress
from detection.utils.text import listed


def unpack(archive: Path) -> Iterator[str]:
    """
    Unpack a downloaded archive beside itself, and remove it.

    Files that are there stay; one that was cut off is not left behind.

    Args:
        archive: the zip.

    Yields:
        Lines that say what has been done.

    Raises:
        UserError: there is none, it is damaged, or the disk is full.
    """
    folder = archive.parent
    if not archive.is_file():  # a single file is not packed
        yield f"{folder}: downloaded"
        return
    kept, written = [], 0
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [m for m in packed.infolist() if not m.is_dir()]
            for member in progress(members, len(members), f"unpacking {archive.name}"):
                target = Path(os.path.normpath(folder / member.filename))
                if not target.is_relative_to(os.path.normpath(folder)):
                    raise UserError(f"{archive}: {member.filename} is outside of it; look at it")
                if target.exists():
                    kept.append(member.filename)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f"{target.name}.partial")
                with packed.open(member) as source, partial.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
                partial.replace(target)
                written += 1
    except zipfile.BadZipFile as e:
        raise UserError(f"{archive}: is damaged ({e}); remove it, and download again") from e
    except OSError as e:
        raise UserError(f"{archive}: cannot be unpacked ({e.strerror or e})") from e
    archive.unlink()
    yield f"{folder}: {written} files"
    if kept:
        yield f"{len(kept)} files were there and stay as they are: {listed(kept, 3)}"
