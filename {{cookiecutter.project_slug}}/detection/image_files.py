"""Finds the files that a json's `file_name`s mean, and what is there in place of missing ones."""

import os
import unicodedata
from collections.abc import Iterable
from glob import escape, glob


def is_file(folder: str, name: str) -> bool:
    """Whether the folder has such a file; a name that no file can have is none."""
    try:
        return os.path.isfile(os.path.join(folder, name))
    except ValueError:
        return False


def find_twins(folder: str, names: Iterable[str]) -> dict[str, str]:
    """
    For names that the folder lacks, those there that differ only in case or Unicode form.

    Letters such as é or 한 have two forms, and not every archive or file system keeps the one that
    it was given. Only unambiguous ones are found.
    """
    listings: dict[str, dict[str, list[str]]] = {}
    twins = {}
    for name in names:
        parent, base = os.path.split(name.replace("\\", "/"))
        if parent not in listings:
            listings[parent] = {}
            try:
                present = os.listdir(os.path.join(folder, parent))
            except (OSError, ValueError):
                present = []
            for other in present:
                listings[parent].setdefault(_folded(other), []).append(other)
        found = listings[parent].get(_folded(base), [])
        if len(found) == 1 and is_file(folder, os.path.join(parent, found[0])):
            twins[name] = f"{parent}/{found[0]}" if parent else found[0]
    return twins


def likely_root(folder: str, name: str) -> str | None:
    """The folder under `folder`, one or two levels down, that has the file `name`."""
    if "\0" in name or os.path.isabs(name):
        return None
    for pattern in ("*", "*/*"):
        for found in sorted(glob(os.path.join(escape(folder), pattern, escape(name)))):
            return found.removesuffix(name).rstrip("/\\")
    base = os.path.basename(name)
    return folder if base and base != name and is_file(folder, base) else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
