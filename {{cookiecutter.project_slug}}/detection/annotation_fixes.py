"""Mends COCO jsons where there is but one right way; what needs a decision is left to people."""

import copy
from collections import Counter

import numpy as np

from detection.annotation_checks import (
    ANNOTATION,
    CATEGORY,
    IMAGE,
    annotation_masks,
    complaint,
    has_id,
    is_box,
)
from detection.class_differences import compare_names, only_spelling
from detection.classes import CLASSES
from detection.image_checks import ImageFacts
from detection.image_fixes import drop_images, fix_images
from detection.split_checks import shared_images

NUMBERS = {"id", "image_id", "category_id", "width", "height"}
REMOVED = ("unknown_image_ids", "unknown_category_ids", "not_four_numbers", "no_area", "outside")


def fix_splits(
    splits: dict[str, dict], facts: dict[str, ImageFacts], image_root: str
) -> tuple[dict[str, dict], dict[str, Counter]]:
    """
    Mend copies of the parsed jsons.

    No image is taken out of a json without annotations, since predictions are due for all of
    them, and never the last one of any.

    Args:
        splits: {name: parsed json}, in an order that has the training set first.
        facts: of the images that were read.
        image_root: the folder of the images.

    Returns:
        The mended copies, and for each {kind, a key of KINDS: cases mended}.
    """
    fixed = copy.deepcopy(splits)
    changes = {split: Counter() for split in splits}
    for split, coco in fixed.items():
        _write_whole_numbers(coco, changes[split])
        _fix_categories(coco, changes[split])
        fix_images(coco, facts, image_root, changes[split])
        if coco.get("annotations"):
            _fix_annotations(coco, changes[split])
    for places in shared_images(fixed, facts):
        # one place stays: where predictions are due, else the last
        places.sort(key=lambda place: not fixed[place[0]].get("annotations"))
        for split, image in places[:-1]:
            if fixed[split].get("annotations"):
                changes[split]["shared_images"] += drop_images(fixed[split], [image])
    return fixed, {split: +counts for split, counts in changes.items()}


def _write_whole_numbers(coco: dict, changes: Counter) -> None:
    """Turn "12" and 12.0 into 12 where ids and sizes are meant."""
    for key, kind in (
        ("images", "malformed_images"),
        ("annotations", "malformed_annotations"),
        ("categories", "categories"),
    ):
        for record in coco.get(key) or []:
            fields = [] if not isinstance(record, dict) else NUMBERS & record.keys()
            whole = {f: int(record[f]) for f in fields if _is_disguised(record[f])}
            changes[kind] += bool(whole)
            if whole:
                record.update(whole)


def _is_disguised(value: object) -> bool:
    if type(value) is str:
        return value.isascii() and value.isdigit() and len(value) < 19
    return type(value) is float and value.is_integer()


def _fix_categories(coco: dict, changes: Counter) -> None:
    """Take CLASSES' spelling, take out unused categories, and add missing ones, if all is clear."""
    categories = coco["categories"]
    names = [c["name"] for c in categories if not complaint(c, CATEGORY)]
    if len(names) < len(categories) or len(set(names)) < len(names):
        return
    renamed, missing, extra = compare_names(names, CLASSES)
    if any(not only_spelling(*pair) for pair in renamed.items()):
        return
    citing = [a for a in coco.get("annotations") or [] if has_id(a, "category_id")]
    used = {a["category_id"] for a in citing}
    unused = [c for c in categories if c["name"] in extra and c["id"] not in used]
    if len(unused) < len(extra) or len(extra) == len(names):
        return
    next_id = max(c["id"] for c in categories) + 1
    for category in categories:
        category["name"] = renamed.get(category["name"], category["name"])
    kept = [c for c in categories if c not in unused]
    added = [{"id": next_id + k, "name": name} for k, name in enumerate(missing)]
    coco["categories"] = kept + added
    changes["categories"] += len(renamed) + len(unused) + len(added)


def _fix_annotations(coco: dict, changes: Counter) -> None:
    def drop(kind: str, odd: np.ndarray) -> None:
        changes[kind] += int(odd.sum())
        pairs = zip(coco["annotations"], odd.tolist(), strict=True)
        coco["annotations"] = [a for a, is_odd in pairs if not is_odd]

    def odd_ones(kind: str) -> list[dict]:
        mask = annotation_masks(coco).get(kind, np.zeros(len(coco["annotations"]), bool))
        odd = [coco["annotations"][row] for row in np.flatnonzero(mask)]
        changes[kind] += len(odd)
        return odd

    malformed = [bool(complaint(a, ANNOTATION)) for a in coco["annotations"]]
    drop("malformed_annotations", np.array(malformed, bool))
    for a in odd_ones("odd_segmentation") + odd_ones("no_polygon"):
        del a["segmentation"]
    for a in odd_ones("odd_keypoints"):
        del a["keypoints"]
    for a in odd_ones("ignored"):
        a["iscrowd"] = int(bool(a.pop("ignore")))
    for a in odd_ones("odd_iscrowd"):
        a["iscrowd"] = int(str(a["iscrowd"]).strip().lower() in ("1", "true"))
    areas = odd_ones("odd_area")
    for a in areas:
        del a["area"]
    for a in odd_ones("corners"):
        x1, y1, x2, y2 = a["bbox"]
        a["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        areas.append(a)
    for kind in REMOVED:
        masks = annotation_masks(coco)
        if kind in masks:
            drop(kind, masks[kind])
    sizes = {i["id"]: (i["width"], i["height"]) for i in coco["images"] if not complaint(i, IMAGE)}
    for a in odd_ones("partly_outside"):
        a["bbox"] = _clip(a["bbox"], *sizes[a["image_id"]])
        areas.append(a)
    for a in areas:
        if is_box(a["bbox"]) and not a.get("segmentation"):  # whose area is the mask's
            a["area"] = a["bbox"][2] * a["bbox"][3]
    drop("repeated_annotations", annotation_masks(coco)["repeated_annotations"])
    next_id = max((a["id"] for a in coco["annotations"]), default=0) + 1
    for a in odd_ones("repeated_annotation_ids") + odd_ones("annotation_id_0"):
        a["id"] = next_id
        next_id += 1


def _clip(bbox: list[float], width: int, height: int) -> list[float]:
    x, y, w, h = bbox
    left, top = max(x, 0), max(y, 0)
    return [left, top, min(x + w, width) - left, min(y + h, height) - top]
