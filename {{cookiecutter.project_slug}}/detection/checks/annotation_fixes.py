"""Fixes the annotations of a COCO file; removes those that nothing can be done with."""

from collections.abc import Callable

import numpy as np

from detection.checks.annotations import annotation_masks, category_shift, image_sizes
from detection.checks.fix_changes import Changes
from detection.checks.record_repairs import box_of_mask, read_box, read_number, read_polygons
from detection.checks.records import ANNOTATION, has_id, is_box, schema_error

# changes an annotation, given its image's (width, height) or None; returns whether it has
Repair = Callable[[dict, tuple[int, int] | None], bool]
REMOVED = ("unknown_image_ids", "unknown_category_ids", "not_four_numbers", "no_area", "outside")


def fix_annotations(coco: dict, changes: Changes, shift: bool) -> None:
    """
    Fix the annotations in place, once images and categories are fixed.

    `shift` moves category ids that are off by one.
    """
    sizes = image_sizes(coco)
    if shift and (step := category_shift(coco)):
        citing = [a for a in coco["annotations"] if has_id(a, "category_id")]
        for a in citing:
            a["category_id"] += step
        changes.fix("shifted_category_ids", citing)
    malformed = [bool(schema_error(a, ANNOTATION)) for a in coco["annotations"]]
    changes.remove_annotations(coco, "malformed_annotations", malformed)
    masks = annotation_masks(coco)

    def repair_all(kind: str, repair: Repair) -> None:
        nonlocal masks
        odd = [coco["annotations"][row] for row in np.flatnonzero(masks.get(kind, ()))]
        if repaired := [a for a in odd if repair(a, sizes.get(a["image_id"]))]:
            changes.fix(kind, repaired)
            masks = annotation_masks(coco)

    def remove(kind: str) -> None:
        nonlocal masks
        if kind in masks and masks[kind].any():
            changes.remove_annotations(coco, kind, masks[kind].tolist())
            masks = annotation_masks(coco)

    for kind, repair in REPAIRS:
        repair_all(kind, repair)
    for kind in REMOVED:
        remove(kind)
    repair_all("partly_outside", _clip)
    remove("repeated_annotations")
    next_id = max((a["id"] for a in coco["annotations"] if has_id(a, "id")), default=0)

    def give_id(a: dict, size: object) -> bool:
        nonlocal next_id
        a["id"] = next_id = next_id + 1
        return True

    for kind in ("repeated_annotation_ids", "annotation_id_0"):
        repair_all(kind, give_id)


def _rewrite_polygons(a: dict, size: object) -> bool:
    if polygons := read_polygons(a["segmentation"]):
        a["segmentation"] = polygons
    return bool(polygons)


def _find_box(a: dict, size: tuple[int, int] | None) -> bool:
    """Take the box that the value means, or else the mask's."""
    box = None if is_box(a.get("bbox")) else read_box(a.get("bbox"))
    if box := box or box_of_mask(a.get("segmentation"), size):
        a["bbox"] = box
    return bool(box)


def _without(key: str) -> Repair:
    return lambda a, size: a.pop(key, None) is not None


def _crowd_for_ignore(a: dict, size: object) -> bool:
    a["iscrowd"] = int(bool(a.pop("ignore")))
    return True


def _read_iscrowd(a: dict, size: object) -> bool:
    a["iscrowd"] = int(str(a["iscrowd"]).strip().lower() in ("1", "true"))
    return True


def _read_area(a: dict, size: object) -> bool:
    if (area := read_number(a.pop("area"))) is not None:
        a["area"] = area
        return True
    return _set_area(a)


def _sizes_for_corners(a: dict, size: object) -> bool:
    x1, y1, x2, y2 = a["bbox"]
    a["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    return _set_area(a)


def _clip(a: dict, size: tuple[int, int]) -> bool:
    x, y, w, h = a["bbox"]
    left, top = max(x, 0), max(y, 0)
    a["bbox"] = [left, top, min(x + w, size[0]) - left, min(y + h, size[1]) - top]
    return _set_area(a)


def _set_area(a: dict) -> bool:
    if is_box(a.get("bbox")) and not a.get("segmentation"):  # whose area is the mask's
        a["area"] = a["bbox"][2] * a["bbox"][3]
    return True


# in this order: what an earlier one leaves is tried by a later one
REPAIRS: tuple[tuple[str, Repair], ...] = (
    ("odd_segmentation", _rewrite_polygons),
    ("no_polygon", _rewrite_polygons),
    ("odd_run_lengths", _without("segmentation")),
    ("not_four_numbers", _find_box),
    ("no_area", _find_box),
    ("odd_segmentation", _without("segmentation")),
    ("no_polygon", _without("segmentation")),
    ("odd_keypoints", _without("keypoints")),
    ("ignored", _crowd_for_ignore),
    ("odd_iscrowd", _read_iscrowd),
    ("odd_area", _read_area),
    ("corners", _sizes_for_corners),
)
