"""Finds, among a notebook's inputs, the images that a list of names means."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from detection.utils.errors import UserError
from detection.utils.image_files import EXTENSIONS
from detection.utils.text import listed
from detection.workshop.submission.formats import Format
from detection.workshop.submission.reading import read_csv


def names_in_sample(sample: str, form: Format) -> list[str]:
    """
    The images that a sample submission asks for, without the suffix that the format adds.

    Raises:
        UserError: it cannot be read, lacks the column of images, or lists none.
    """
    header, rows = read_csv(sample)
    column = next((c for c, holds in form.columns.items() if holds == "image"), None)
    column = column or next(iter(form.columns), "")
    if column not in header:
        raise UserError(f"{sample}: has no column {column!r}; is it the sample submission?")
    at = header.index(column)
    names = (row[at].removesuffix(form.image_suffix) for _, row in rows if len(row) > at)
    if not (names := list(dict.fromkeys(names))):
        raise UserError(f"{sample}: lists no image")
    return names


def find_sample(inputs: str, without: str) -> str | None:
    """
    The sample submission among a notebook's inputs; None if there is none.

    Raises:
        UserError: there are several.
    """
    found = [
        str(Path(parent, file))
        for parent, files in _walk(inputs, without)
        for file in files
        if file.lower().endswith(".csv") and "sample" in file.lower() and "sub" in file.lower()
    ]
    if len(found) > 1:
        raise UserError(f"several samples: {listed(found)}; give one of them as --sample")
    return found[0] if found else None


def find_images(
    names: Sequence[str], inputs: str, split: str, without: str = "", remedy: str = "--images"
) -> tuple[str, dict[str, str]]:
    """
    Find the folder that some names are relative to.

    Args:
        names: of images, as `0001`, `0001.jpg` or `test/0001.jpg`.
        inputs: a folder; it is searched with all below it.
        split: where several folders have all names, the one with this in its path.
        without: a folder to pass over.
        remedy: an option that names the folder.

    Returns:
        The folder, and {name: path from it on, with slashes} of all names.

    Raises:
        UserError: no folder has all names, or several do.
    """
    paths = {name: PurePosixPath(name) for name in names}
    wanted = {path.name for path in paths.values()}
    files = defaultdict(list)
    for parent, bases in _walk(inputs, without):
        for base in bases:
            stem, extension = os.path.splitext(base)
            if extension.lower() in EXTENSIONS:
                for key in {stem, base} & wanted:
                    files[key].append(Path(parent, base))
    roots = defaultdict(dict)
    for name, path in paths.items():
        folders = path.parent.parts
        for file in files[path.name]:
            if file.parent.parts[len(file.parent.parts) - len(folders) :] == folders:
                root = file.parents[len(folders)]
                roots[root][name] = file.relative_to(root).as_posix()
    if not roots:
        raise UserError(
            f"{inputs}: has no image {listed(list(names), 3)}; add the competition's data to the "
            "notebook"
        )
    most = max(map(len, roots.values()))
    best = [root for root in sorted(roots) if len(roots[root]) == most]
    best = [r for r in best if split in str(r.relative_to(inputs)).lower()] or best
    if len(best) > 1:
        raise UserError(
            f"the images may be in {listed([str(r) for r in best])}; {remedy} names the folder"
        )
    if missing := [name for name in names if name not in roots[best[0]]]:
        raise UserError(
            f"{best[0]}: has no image {listed(missing, 3)}; {remedy} names another folder"
        )
    return str(best[0]), roots[best[0]]


def _walk(folder: str, without: str):
    """(folder, its files) of a folder and all below it."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not _is_same(os.path.join(parent, f), without))
        yield parent, files


def _is_same(one: str, other: str) -> bool:
    return bool(other) and os.path.realpath(one) == os.path.realpath(other)
