"""Reads and writes COCO annotation files; without detectron2, so that small tools start at once."""

import json
import reprlib
from collections import Counter
from pathlib import Path

from detection.checks.class_names import describe_differences, spare_categories
from detection.classes import CLASSES
from detection.utils.errors import UserError
from detection.utils.files import write_whole
from detection.utils.text import LONGEST_NAME


def read_coco(json_file: str) -> dict:
    """
    Read a COCO json; a byte order mark at its start does no harm.

    Raises:
        UserError: it is missing, no json, or no COCO json.
    """
    return parse_coco(read_bytes(json_file), json_file)


def read_bytes(json_file: str) -> bytes:
    """
    The file's content; URLs are fetched.

    Raises:
        UserError: it cannot be read.
    """
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


def parse_coco(content: bytes, json_file: str) -> dict:
    """
    Parse a COCO json; `json_file` is its name in errors.

    Categories that are no classes (`spare_categories`) are under "left_out_categories" instead.

    Raises:
        UserError: it is no json, or no COCO json.
    """
    try:
        coco = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as e:
        raise UserError(f"{json_file}: is no valid json ({e}); write or fetch it again") from e
    for key in ("images", "categories"):
        if not isinstance(coco, dict) or not isinstance(coco.get(key), list) or not coco[key]:
            raise UserError(f'{json_file}: is no COCO json, it has no "{key}"')
    if not isinstance(coco.get("annotations", []), list):
        raise UserError(f'{json_file}: is no COCO json, its "annotations" are no list')
    coco.pop("left_out_categories", None)
    used = {
        a["category_id"]
        for a in coco.get("annotations") or []
        if isinstance(a, dict) and type(a.get("category_id")) is int
    }
    if spare := spare_categories(coco["categories"], used, CLASSES):
        ids = {id(category) for category in spare}
        coco["categories"] = [c for c in coco["categories"] if id(c) not in ids]
        coco["left_out_categories"] = spare
    return coco


def write_json(content: dict | list, json_file: str) -> None:
    """
    Write a json, all of it or nothing.

    Raises:
        UserError: it cannot be written.
    """
    # half a surrogate pair, which UTF-8 cannot hold, stays the escape that it was
    try:
        text = json.dumps(content, ensure_ascii=False)
    except RecursionError as e:
        raise UserError(f"{json_file}: cannot be written, a value in it is nested too deep") from e
    write_whole(json_file, text.encode("utf-8", "backslashreplace"), json_file)


def check_images(coco: dict, json_file: str) -> set[int]:
    """
    The ids of the images of a parsed COCO json, which needs no annotations.

    Raises:
        UserError: an image lacks its id, file_name, width or height, or two have one id.
    """
    ids = set()
    for number, image in enumerate(coco["images"]):
        if not (
            isinstance(image, dict)
            and type(image.get("id")) is int
            and isinstance(image.get("file_name"), str)
            and len(image["file_name"]) <= LONGEST_NAME
            and all(
                type(image.get(k)) in (int, float) and 0 < image[k] < 1e9
                for k in ("width", "height")
            )
        ):
            raise UserError(
                f"{json_file}: images[{number}] needs a whole number as id, file_name, width and "
                "height; `make check` names all that lack them"
            )
        if image["id"] in ids:
            raise UserError(
                f"{json_file}: two images have the id {image['id']}; give each its own, "
                "`make check` names all"
            )
        ids.add(image["id"])
    return ids


def category_id_map(coco: dict, json_file: str) -> dict[int, int]:
    """
    Map the file's category ids to positions in CLASSES, by name: their order does not matter.

    Raises:
        UserError: categories are missing, unknown to CLASSES, or listed twice.
    """
    for c in coco["categories"]:
        if not (
            isinstance(c, dict)
            and isinstance(c.get("name"), str)
            and len(c["name"]) <= LONGEST_NAME
            and type(c.get("id")) is int
            and 0 <= c["id"] < 2**63
        ):
            raise UserError(
                f"{json_file}: a category needs a name, of at most {LONGEST_NAME} characters, and "
                f"a whole number from 0 as its id: {reprlib.repr(c)}"
            )
    for key in ("id", "name"):
        repeated = [v for v, n in Counter(c[key] for c in coco["categories"]).items() if n > 1]
        if repeated:
            raise UserError(
                f"{json_file}: two categories have the {key} {repr(repeated[0])[:60]}; "
                "give each its own"
            )
    if len(set(CLASSES)) < len(CLASSES):
        raise UserError("detection/classes.py: a class stands there twice; take one out")
    names = {c["id"]: c["name"] for c in coco["categories"]}
    if set(names.values()) != set(CLASSES):
        used = {
            names.get(a["category_id"])
            for a in coco.get("annotations") or []
            if isinstance(a, dict) and type(a.get("category_id")) is int
        }
        differences = describe_differences(
            list(names.values()), CLASSES, set(names.values()) - used
        )
        raise UserError(f"{json_file}: {differences}")
    positions = {name: position for position, name in enumerate(CLASSES)}
    return {id_: positions[name] for id_, name in sorted(names.items())}
