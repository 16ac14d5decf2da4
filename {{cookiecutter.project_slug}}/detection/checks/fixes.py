"""Fixes COCO jsons where there is but one right way; what needs a decision is left to people."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from detection.checks.annotations import (
    ANNOTATION,
    CATEGORY,
    IMAGE,
    annotation_masks,
    category_shift,
    complaint,
    has_id,
    is_box,
)
from detection.checks.class_names import compare_names, only_spelling
from detection.checks.fix_changes import Changes, Removal
from detection.checks.image_fixes import find_names, fix_images
from detection.checks.images import SplitFacts
from detection.checks.record_repairs import (
    box_of_mask,
    number_ids,
    read_box,
    read_number,
    read_polygons,
    whole_number,
)
from detection.checks.splits import doubtful_roots, shared_images
from detection.classes import CLASSES

SIZES = ("width", "height")
REMOVED = ("unknown_image_ids", "unknown_category_ids", "not_four_numbers", "no_area", "outside")


class Fixed(NamedTuple):
    """
    Attributes:
        splits: the fixed copies.
        changes: {split: {kind, a key of KINDS: records fixed or taken out}}.
        removed: {split: what has been taken out}.
        refused: {split: what would have to be taken out}, in which nothing is.
    """

    splits: dict[str, dict]
    changes: dict[str, Counter]
    removed: dict[str, Removal]
    refused: dict[str, Removal]


def fix_splits(
    splits: dict[str, dict],
    facts: SplitFacts,
    roots: dict[str, str],
    drop: bool = False,
    shift: bool = False,
) -> Fixed:
    """
    Fix copies of the parsed jsons.

    No image is taken out of a json without annotations, since predictions are due for all of
    them, and never the last one of any. Unless `drop` is set nothing is taken out of a json that
    would lose more than a small share or all annotations of an image, and it is never emptied.

    Args:
        splits: {name: parsed json}, in an order that has the training set first.
        facts: of the images that were read.
        roots: {name: the folder of its images}.
        drop: take out what cannot be fixed, however much it is.
        shift: move category ids that are off by one.
    """
    refused = {}
    while True:
        fixed, changes = _attempt(splits, facts, roots, refused, shift)
        removals = {s: changes[s].removal(splits[s], fixed[s]) for s in splits}
        too_much = {s: r for s, r in removals.items() if r.is_all or not (drop or r.is_small)}
        if not too_much:
            break
        refused |= too_much
    counts = {split: changes[split].counts() for split in splits}
    removed = {s: r for s, r in removals.items() if r.annotations or r.images}
    return Fixed(fixed, counts, removed, refused)


def _attempt(
    splits: dict[str, dict],
    facts: SplitFacts,
    roots: dict[str, str],
    refused: Mapping[str, Removal],
    shift: bool,
) -> tuple[dict[str, dict], dict[str, Changes]]:
    fixed = {split: _copied(coco) for split, coco in splits.items()}
    changes = {split: Changes(may_remove=split not in refused) for split in splits}
    names = find_names(fixed, roots)
    for split, coco in fixed.items():
        _write_whole_numbers(coco, changes[split])
        _fix_categories(coco, changes[split])
        fix_images(coco, facts.get(split, {}), roots[split], names[split], changes[split])
        if coco.get("annotations"):
            _fix_annotations(coco, changes[split], shift)
    doubtful = doubtful_roots(fixed, roots)
    for places in shared_images(fixed, facts, roots):
        if doubtful & {split for split, _ in places}:
            continue
        # one place stays: where predictions are due, else the last
        places.sort(key=lambda place: not fixed[place[0]].get("annotations"))
        for split, image in places[:-1]:
            if fixed[split].get("annotations"):
                changes[split].remove_images(fixed[split], "shared_images", [image])
    return fixed, changes


def _copied(coco: dict) -> dict:
    """A copy down to the fields of the records, which are replaced whole, never changed inside."""
    lists = {key: coco[key] for key in ("images", "categories", "annotations") if coco.get(key)}
    return coco | {
        key: [dict(record) if isinstance(record, dict) else record for record in records]
        for key, records in lists.items()
    }


def _write_whole_numbers(coco: dict, changes: Changes) -> None:
    """
    Write ids and sizes as whole numbers; ids of other text are numbered, references follow.

    The ids of images without annotations stay, since predictions go by them.
    """
    annotations = [a for a in coco.get("annotations") or [] if isinstance(a, dict)]
    for key, kind, name, reference in (
        ("images", "malformed_images", "file_name", "image_id"),
        ("categories", "categories", "name", "category_id"),
    ):
        records = [r for r in coco[key] if isinstance(r, dict)]
        numbers = number_ids(record.get("id") for record in records)
        if not annotations:
            numbers = {i: number for i, number in numbers.items() if whole_number(i) == number}
        for record in records:
            _replace(record, "id", numbers, kind, changes)
            for side in SIZES if key == "images" else ():
                _replace(record, side, {}, kind, changes)
        called = Counter(r[name] for r in records if isinstance(r.get(name), str))
        names = {  # some refer by name
            r[name]: r["id"]
            for r in records
            if has_id(r, "id")
            and isinstance(r.get(name), str)
            and called[r[name]] == 1
            and whole_number(r[name]) is None
        }
        for a in annotations:
            _replace(a, reference, names | numbers, "malformed_annotations", changes)
    numbers = number_ids(a.get("id") for a in annotations)
    taken = [*(a["id"] for a in annotations if has_id(a, "id")), *numbers.values()]
    next_id = max(taken, default=0) + 1
    for a in annotations:
        _replace(a, "id", numbers, "malformed_annotations", changes)
        if complaint(a, {"id": ANNOTATION["id"]}):
            a["id"] = next_id
            next_id += 1
            changes.fix("malformed_annotations", [a])


def _replace(record: dict, key: str, numbers: dict, kind: str, changes: Changes) -> None:
    """Put the number that the value stands for, or means, in its place, if there is one."""
    value = record.get(key)
    if type(value) not in (int, float, str):
        return
    number = numbers.get(value, whole_number(value))
    if number is not None and (type(value) is not int or number != value):
        record[key] = number
        changes.fix(kind, [record])


def _fix_categories(coco: dict, changes: Changes) -> None:
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
    respelt = [c for c in categories if c["name"] in renamed]
    for category in respelt:
        category["name"] = renamed[category["name"]]
    added = [{"id": next_id + k, "name": name} for k, name in enumerate(missing)]
    coco["categories"] = [c for c in categories if c not in unused] + added
    changes.fix("categories", respelt + unused + added)


def _fix_annotations(coco: dict, changes: Changes, shift: bool) -> None:
    sizes = {i["id"]: (i["width"], i["height"]) for i in coco["images"] if not complaint(i, IMAGE)}

    def odd_ones(kind: str) -> list[dict]:
        mask = annotation_masks(coco).get(kind, np.zeros(len(coco["annotations"]), bool))
        return [coco["annotations"][row] for row in np.flatnonzero(mask)]

    def fix(kind: str, annotations: list[dict]) -> list[dict]:
        changes.fix(kind, annotations)
        return annotations

    if shift and (step := category_shift(coco)):
        citing = [a for a in coco["annotations"] if has_id(a, "category_id")]
        for a in fix("shifted_category_ids", citing):
            a["category_id"] += step
    malformed = [bool(complaint(a, ANNOTATION)) for a in coco["annotations"]]
    changes.remove_annotations(coco, "malformed_annotations", malformed)
    for kind in ("odd_segmentation", "no_polygon"):
        for a in odd_ones(kind):
            if polygons := read_polygons(a["segmentation"]):
                a["segmentation"] = polygons
                changes.fix(kind, [a])
    for a in fix("odd_run_lengths", odd_ones("odd_run_lengths")):
        del a["segmentation"]
    for kind in ("not_four_numbers", "no_area"):
        for a in odd_ones(kind):
            box = read_box(a.get("bbox")) if kind == "not_four_numbers" else None
            if box := box or box_of_mask(a.get("segmentation"), sizes.get(a["image_id"])):
                a["bbox"] = box
                changes.fix(kind, [a])
    for kind in ("odd_segmentation", "no_polygon"):
        for a in fix(kind, odd_ones(kind)):
            del a["segmentation"]
    for a in fix("odd_keypoints", odd_ones("odd_keypoints")):
        del a["keypoints"]
    for a in fix("ignored", odd_ones("ignored")):
        a["iscrowd"] = int(bool(a.pop("ignore")))
    for a in fix("odd_iscrowd", odd_ones("odd_iscrowd")):
        a["iscrowd"] = int(str(a["iscrowd"]).strip().lower() in ("1", "true"))
    areas = []
    for a in fix("odd_area", odd_ones("odd_area")):
        if (area := read_number(a.pop("area"))) is None:
            areas.append(a)
        else:
            a["area"] = area
    for a in fix("corners", odd_ones("corners")):
        x1, y1, x2, y2 = a["bbox"]
        a["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        areas.append(a)
    for kind in REMOVED:
        masks = annotation_masks(coco)
        if kind in masks:
            changes.remove_annotations(coco, kind, masks[kind].tolist())
    for a in fix("partly_outside", odd_ones("partly_outside")):
        a["bbox"] = _clip(a["bbox"], *sizes[a["image_id"]])
        areas.append(a)
    for a in areas:
        if is_box(a.get("bbox")) and not a.get("segmentation"):  # whose area is the mask's
            a["area"] = a["bbox"][2] * a["bbox"][3]
    repeated = annotation_masks(coco)["repeated_annotations"].tolist()
    changes.remove_annotations(coco, "repeated_annotations", repeated)
    taken = [a["id"] for a in coco["annotations"] if has_id(a, "id")]
    next_id = max(taken, default=0) + 1
    for kind in ("repeated_annotation_ids", "annotation_id_0"):
        for a in fix(kind, odd_ones(kind)):
            a["id"] = next_id
            next_id += 1


def _clip(bbox: list[float], width: int, height: int) -> list[float]:
    x, y, w, h = bbox
    left, top = max(x, 0), max(y, 0)
    return [left, top, min(x + w, width) - left, min(y + h, height) - top]
