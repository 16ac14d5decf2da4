"""Reads, validates and writes COCO annotation files; without detectron2, to start at once."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from detection.checks.class_names import describe_differences, spare_categories
from detection.checks.records import CATEGORY, IMAGE, has_id, schema_error
from detection.classes import CLASSES
from detection.utils.errors import UserError
from detection.utils.files import write_atomically


def read_coco(json_file: str) -> dict:
    """
    Read a COCO file; a byte order mark at its start is ignored.

    Raises:
        UserError: it is missing, invalid json, or not a COCO file.
    """
    return parse_coco(read_bytes(json_file), json_file)


def read_bytes(json_file: str) -> bytes:
    """The file's content; URLs are fetched. UserError if it cannot be read."""
    try:
        if "://" not in json_file:
            return Path(json_file).read_bytes()
        from detectron2.utils.file_io import PathManager  # slow to import, and knows URLs

        with PathManager.open(json_file, "rb") as f:
            return f.read()
    except (OSError, ValueError) as e:
        raise UserError(
            f"{json_file}: cannot be read ({getattr(e, 'strerror', None) or e}); put the "
            "annotations there, or name another file (a training's are dataset.train.json_file and "
            "dataset.val.json_file)"
        ) from e


def parse_json(content: bytes | str, json_file: str | Path) -> object:
    """Parse a json in UTF-8; UserError, which names `json_file`, if it is invalid."""
    try:
        return json.loads(content if isinstance(content, str) else content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as e:
        raise UserError(f"{json_file}: is not valid json ({e}); write or fetch it again") from e


def parse_coco(content: bytes, json_file: str) -> dict:
    """
    Parse a COCO file; `json_file` is its name in errors.

    Its records are not looked at; `validate` does that. Categories that are not classes
    (`spare_categories`) are moved to "left_out_categories".

    Raises:
        UserError: it is invalid json, or not a COCO file.
    """
    coco = parse_json(content, json_file)
    for key in ("images", "categories"):
        if not isinstance(coco, dict) or not isinstance(coco.get(key), list) or not coco[key]:
            raise UserError(f'{json_file}: is not a COCO file, it has no "{key}"')
    if not isinstance(coco.get("annotations", []), list):
        raise UserError(f'{json_file}: is not a COCO file, its "annotations" are not a list')
    coco.pop("left_out_categories", None)
    annotations = coco.get("annotations") or []
    used = {a["category_id"] for a in annotations if has_id(a, "category_id")}
    if spare := spare_categories(coco["categories"], used, CLASSES):
        ids = {id(category) for category in spare}
        coco["categories"] = [c for c in coco["categories"] if id(c) not in ids]
        coco["left_out_categories"] = spare
    return coco


def write_json(content: dict | list, json_file: str) -> None:
    """Write a json, all of it or nothing; UserError if it cannot be written."""
    # half a surrogate pair, which UTF-8 cannot hold, stays the escape that it was
    try:
        text = json.dumps(content, ensure_ascii=False)
    except RecursionError as e:
        raise UserError(f"{json_file}: cannot be written, a value in it is nested too deep") from e
    write_atomically(json_file, text.encode("utf-8", "backslashreplace"), json_file)


def validate(
    coco: dict,
    json_file: str,
    images: Sequence[str] = IMAGE,
    annotations: Sequence[str] = (),
    remedy: str = "`make check` says more",
) -> None:
    """
    Refuse the first record of a parsed COCO file that cannot be used.

    Categories need a name and an id, and all ids are unique. Annotations that are looked at need
    to be of images and categories that the file lists.

    Args:
        coco: the parsed file.
        json_file: its name in errors.
        images: the fields that images need, `id` among them; none: images are not looked at.
        annotations: the fields that annotations need, `image_id` and `category_id` among them;
            none: annotations are not looked at.
        remedy: the end of errors.

    Raises:
        UserError: names the file, the record and the field.
    """

    def refuse(section: str, number: int, key: str, problem: str) -> NoReturn:
        raise UserError(f"{json_file}: {section}[{number}].{key}: {problem}; {remedy}")

    known = {}
    for section, keys in (("categories", CATEGORY), ("images", images)):
        known[section] = set()
        for number, record in enumerate(coco[section] if keys else ()):
            if error := schema_error(record, keys):
                refuse(section, number, *error)
            if record["id"] in known[section]:
                problem = f"{record['id']} is the id of another one too, give each its own"
                refuse(section, number, "id", problem)
            known[section].add(record["id"])
    for number, record in enumerate((annotations and coco.get("annotations")) or ()):
        if error := schema_error(record, annotations):
            refuse("annotations", number, *error)
        for key, section in (("image_id", "images"), ("category_id", "categories")):
            if record[key] not in known[section]:
                refuse("annotations", number, key, f'{record[key]} is not in "{section}"')


def category_id_map(coco: dict, json_file: str) -> dict[int, int]:
    """
    Map the file's category ids to positions in CLASSES, by name: their order does not matter.

    Raises:
        UserError: categories are malformed, missing, not in CLASSES, or listed twice.
    """
    validate(coco, json_file, images=(), remedy="write it as COCO does")
    names = {c["id"]: c["name"] for c in coco["categories"]}
    if len(set(names.values())) < len(names):
        counted = list(names.values())
        twice = next(name for name in counted if counted.count(name) > 1)
        raise UserError(
            f"{json_file}: two categories have the name {repr(twice)[:60]}; give each its own"
        )
    if len(set(CLASSES)) < len(CLASSES):
        raise UserError("detection/classes.py: a class is listed twice; remove one")
    if set(names.values()) != set(CLASSES):
        annotations = coco.get("annotations") or []
        used = {names.get(a["category_id"]) for a in annotations if has_id(a, "category_id")}
        differences = describe_differences(
            list(names.values()), CLASSES, set(names.values()) - used
        )
        raise UserError(f"{json_file}: {differences}")
    positions = {name: position for position, name in enumerate(CLASSES)}
    return {id_: positions[name] for id_, name in sorted(names.items())}
