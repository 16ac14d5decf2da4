"""Reads COCO annotation files; without detectron2, so that small tools start at once."""

import json
from collections import Counter
from typing import TextIO

from detection.classes import CLASSES
from detection.errors import UserError


def read_coco(json_file: str) -> dict:
    """
    Read a COCO json.

    Raises:
        UserError: it is missing, no json, or no COCO json.
    """
    try:
        with _open(json_file) as f:
            coco = json.load(f)
    except OSError as e:
        raise UserError(
            f"{json_file}: cannot be read ({e.strerror or e}); put the annotations there, "
            "or set dataset.train.json_file and dataset.val.json_file"
        ) from e
    except ValueError as e:
        raise UserError(f"{json_file}: is no valid json ({e})") from e
    for key in ("images", "categories"):
        if not isinstance(coco, dict) or not isinstance(coco.get(key), list) or not coco[key]:
            raise UserError(f'{json_file}: is no COCO json, it has no "{key}"')
    if not isinstance(coco.get("annotations", []), list):
        raise UserError(f'{json_file}: is no COCO json, its "annotations" are no list')
    return coco


def category_id_map(coco: dict, json_file: str) -> dict[int, int]:
    """
    Map the file's category ids to positions in CLASSES, by name.

    Raises:
        UserError: categories are missing, unknown to CLASSES, or listed twice.
    """
    for c in coco["categories"]:
        if not (
            isinstance(c, dict)
            and isinstance(c.get("name"), str)
            and type(c.get("id")) is int
            and 0 <= c["id"] < 2**63
        ):
            raise UserError(
                f"{json_file}: a category needs a name and a whole number from 0 as its id: "
                f"{repr(c)[:60]}"
            )
    for key in ("id", "name"):
        repeated = [v for v, n in Counter(c[key] for c in coco["categories"]).items() if n > 1]
        if repeated:
            raise UserError(f"{json_file}: two categories have the {key} {repeated[0]!r}")
    if len(set(CLASSES)) < len(CLASSES):
        raise UserError("detection/classes.py: a class stands there twice")
    names = {c["id"]: c["name"] for c in coco["categories"]}
    missing = [name for name in CLASSES if name not in names.values()]
    unknown = [name for name in names.values() if name not in CLASSES]
    if missing or unknown:
        raise UserError(
            f"{json_file}: its categories differ from detection/classes.py "
            f"(only in the json: {unknown or 'none'}; only in CLASSES: {missing or 'none'}); "
            "edit one of the two"
        )
    return {id_: CLASSES.index(name) for id_, name in sorted(names.items())}


def _open(path: str) -> TextIO:
    if "://" not in path:
        return open(path, encoding="utf-8")
    from detectron2.utils.file_io import PathManager  # slow to import, and knows URLs

    return PathManager.open(path, "r", encoding="utf-8")
