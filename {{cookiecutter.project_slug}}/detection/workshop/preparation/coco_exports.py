"""Reads the COCO json of an export, such as Roboflow's, to give it the project's classes."""

from pathlib import Path

from detection.checks.records import is_box
from detection.data.coco import read_coco, validate
from detection.utils.errors import UserError
from detection.utils.text import listed
from detection.workshop.preparation.foreign_images import (
    Box,
    ForeignImage,
    around,
    read_numbers,
)

OWN_FIELDS = {"id", "image_id", "category_id", "bbox", "iscrowd"}


def read_coco_export(source: Path, classes: list[str]) -> tuple[list[ForeignImage], list[str]]:
    """
    Read a COCO json; masks and all other fields of images and annotations are kept.

    Args:
        source: the json.
        classes: the names of the categories.

    Returns:
        The images, and notes on categories that have no annotation and are not in `classes`, such
        as the root that Roboflow writes.

    Raises:
        UserError: it is not a COCO json, or a record in it cannot be used.
    """
    coco = read_coco(str(source))
    validate(coco, str(source), ("id", "file_name"), ("image_id", "category_id"), "export it again")
    names = {c["id"]: c["name"] for c in coco["categories"]}
    images = {}
    for number, record in enumerate(coco["images"]):
        name = record["file_name"].replace("\\", "/")
        paths = list(dict.fromkeys((name, name.rpartition("/")[2])))
        image = ForeignImage(paths, f"{source}: images[{number}]", fields=record)
        sides = record.get("width"), record.get("height")
        image.size = sides if all(type(v) is int and v > 0 for v in sides) else None
        images[record["id"]] = image
    used = set()
    for number, record in enumerate(coco.get("annotations") or ()):
        x, y, w, h = _box(record, f"{source}: annotations[{number}]")
        label = names[record["category_id"]]
        fields = {key: value for key, value in record.items() if key not in OWN_FIELDS}
        box = Box(label, (x, y, x + w, y + h), record.get("iscrowd") in (1, True), fields=fields)
        images[record["image_id"]].boxes.append(box)
        used.add(label)
    spare = [c["name"] for c in (*coco["categories"], *coco.get("left_out_categories", ()))]
    spare = sorted({name for name in spare if name not in used and name not in classes})
    note = f"left out, categories without annotations that are not classes: {listed(spare, 20)}"
    return list(images.values()), [note] if spare else []


def _box(record: dict, where: str) -> list[float]:
    """(x, y, w, h) of an annotation, or around its polygons."""
    box = record.get("bbox")
    if is_box(box):
        return box
    polygons = record.get("segmentation")
    if not box and isinstance(polygons, list) and any(polygons):
        values = [v for p in polygons for v in (p if isinstance(p, list) else [None])]
        values = read_numbers(values[: len(values) // 2 * 2], where)
        x1, y1, x2, y2 = around(zip(values[::2], values[1::2], strict=True))
        return [x1, y1, x2 - x1, y2 - y1]
    raise UserError(
        f"{where}.bbox: must be a list of four finite numbers (x, y, w, h), it is "
        f"{repr(box)[:60]}; remove the annotation (its image_id is {record['image_id']})"
    )
