"""Fast checks of a COCO file, without opening images: what stops training or silently harms it."""

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from detection.checks.class_names import alike_names, children_of, only_spelling
from detection.checks.findings import Finding, sort_findings
from detection.checks.records import (
    ANNOTATION,
    CATEGORY,
    IMAGE,
    has_id,
    is_box,
    is_number,
    schema_error,
)
from detection.classes import CLASSES
from detection.utils.image_files import find_moved, find_twins, is_file, likely_roots
from detection.utils.run_lengths import run_length_problem

MIN_BOXES = 10  # fewer say nothing about how all boxes are written


def check_annotations(coco: dict, image_root: str) -> list[Finding]:
    """
    Check a parsed COCO file without opening any image.

    Args:
        coco: the parsed file; boxes are (x, y, w, h) in pixels.
        image_root: the folder of the images, which must exist but are not read.

    Returns:
        Findings, errors first. What is wrong with a record hides what else might be.
    """
    annotations = coco.get("annotations") or []
    images, categories = sound(coco["images"], IMAGE), sound(coco["categories"], CATEGORY)
    file_names = [i["file_name"] for i in images]
    found = [
        _malformed("malformed_images", coco["images"], IMAGE),
        Finding("repeated_image_ids", _repeated(i["id"] for i in images)),
        Finding("repeated_file_names", _repeated(file_names)),
    ]
    if "://" not in image_root:
        found.append(_missing_images(file_names, image_root))
    found.append(_malformed("malformed_annotations", annotations, ANNOTATION))
    found += _odd_annotations(coco, {i["id"]: i["file_name"] for i in images})
    if annotations:
        annotated = {a["image_id"] for a in annotations if has_id(a, "image_id")}
        present = {a["category_id"] for a in annotations if has_id(a, "category_id")}
        absent = [c["name"] for c in categories if c["id"] not in present]
        empty = [i["file_name"] for i in images if i["id"] not in annotated]
        found.append(Finding("empty_images", empty))
        found.append(Finding("absent_classes", absent, _parent_notes(absent, categories)))
    else:
        found.append(Finding("no_annotations", [f"{len(coco['images'])} images"]))
    left_out = coco.get("left_out_categories") or []
    notes = [f"id {c['id']}" for c in left_out]
    found.append(Finding("left_out_categories", [c["name"] for c in left_out], notes))
    alike = alike_names([c["name"] for c in categories])
    notes = [f"like {name!r}; they differ {only_spelling(name, other)}" for name, other in alike]
    found.append(Finding("alike_classes", [other for _, other in alike], notes))
    categories.sort(key=lambda c: c["id"])
    ids, names = [c["id"] for c in categories], [c["name"] for c in categories]
    found.append(Finding("category_numbering", ids if ids != [*range(1, len(ids) + 1)] else []))
    is_reordered = names != CLASSES and sorted(names) == sorted(CLASSES)
    found.append(Finding("category_order", names if is_reordered else []))
    return sort_findings(found)


def sound(records: Iterable, keys: Iterable[str]) -> list[dict]:
    """The records that have all of these fields, such as IMAGE."""
    return [record for record in records if not schema_error(record, keys)]


def image_sizes(coco: dict) -> dict[int, tuple[int, int]]:
    """{image id: (width, height) in pixels} of the images that can be used."""
    return {i["id"]: (i["width"], i["height"]) for i in sound(coco["images"], IMAGE)}


def annotation_masks(coco: dict) -> dict[str, np.ndarray]:
    """
    For each kind of problem the annotations that have it: arrays of bool, one for each annotation.

    Malformed annotations are in none of them; those without four numbers, an image or a category
    are in none about boxes. If the ids of categories are shifted, the annotations whose id is not
    listed are "shifted_category_ids", else "unknown_category_ids".
    """
    annotations, sizes = coco.get("annotations") or [], image_sizes(coco)
    image_ids = {i["id"] for i in coco["images"] if has_id(i, "id")}
    category_ids = {c["id"] for c in coco["categories"] if has_id(c, "id")}
    nowhere = np.zeros(len(annotations), bool)
    is_sound = np.array([not schema_error(a, ANNOTATION) for a in annotations], bool)

    def where(is_odd: Callable[[dict], bool], among: np.ndarray = is_sound) -> np.ndarray:
        odd = (ok and is_odd(a) for a, ok in zip(annotations, among.tolist(), strict=True))
        return np.fromiter(odd, bool, len(annotations))

    def repeats(key: Callable[[dict], object]) -> Callable[[dict], bool]:
        seen = set()

        def is_repeat(a: dict) -> bool:
            size = len(seen)
            seen.add(key(a))
            return len(seen) == size

        return is_repeat

    masks = {
        "repeated_annotation_ids": where(repeats(lambda a: a["id"])),
        "unknown_image_ids": where(lambda a: a["image_id"] not in image_ids),
        "unknown_category_ids": where(lambda a: a["category_id"] not in category_ids),
        "not_four_numbers": where(lambda a: not is_box(a.get("bbox"))),
        "odd_area": where(lambda a: a.get("area") is not None and not is_number(a["area"])),
        "odd_iscrowd": where(lambda a: a.get("iscrowd", 0) not in (0, 1)),
        "ignored": where(lambda a: a.get("ignore", 0) != 0),
        "odd_segmentation": where(lambda a: not _is_segmentation(a.get("segmentation"))),
        "odd_run_lengths": where(
            lambda a: (
                isinstance(mask := a.get("segmentation"), dict)
                and bool(run_length_problem(mask, sizes.get(a["image_id"])))
            )
        ),
        "odd_keypoints": where(lambda a: not _are_keypoints(a.get("keypoints"))),
        "annotation_id_0": where(lambda a: a["id"] == 0),
        "crowds": where(lambda a: a.get("iscrowd") == 1),
    }
    masks["no_polygon"] = where(_has_no_polygon, is_sound & ~masks["odd_segmentation"])
    has_box = is_sound & ~masks["not_four_numbers"] & ~masks["odd_area"]
    has_box &= where(lambda a: a["image_id"] in sizes) & ~masks["unknown_category_ids"]
    masks["shifted_category_ids"] = nowhere
    if category_shift(coco):
        masks["shifted_category_ids"] = masks["unknown_category_ids"]
        masks["unknown_category_ids"] = nowhere
    rows = np.flatnonzero(has_box)
    boxes = np.array([annotations[r]["bbox"] for r in rows], float).reshape(-1, 4)
    size = np.array([sizes[annotations[r]["image_id"]] for r in rows], float).reshape(-1, 2)
    areas = np.array([annotations[r].get("area") or 0 for r in rows], float)
    for kind, odd in _box_masks(boxes, size, areas).items():
        masks[kind] = nowhere.copy()
        masks[kind][rows] = odd
    of_same_class = repeats(lambda a: (a["category_id"], a["image_id"], *a["bbox"]))
    masks["repeated_annotations"] = where(of_same_class, has_box)
    classes = {}
    masks["two_classes"] = where(
        lambda a: (
            classes.setdefault((a["image_id"], *a["bbox"]), a["category_id"]) != a["category_id"]
        ),
        has_box,
    )
    return masks


def category_shift(coco: dict) -> int:
    """
    What has to be added to all category ids of annotations if they seem to be off by one.

    1 if an id below the categories' is used, or -1 if one above them is, and all used ids are
    categories once they are shifted; else 0. Exports that count from 0 what they list from 1 do so.
    """
    ids = {c["id"] for c in coco["categories"] if has_id(c, "id")}
    annotations = coco.get("annotations") or []
    used = {a["category_id"] for a in annotations if has_id(a, "category_id")}
    if ids and used - ids:
        for shift, edge in ((1, min(ids) - 1), (-1, max(ids) + 1)):
            if edge in used and {id_ + shift for id_ in used} <= ids:
                return shift
    return 0


def _box_masks(boxes: np.ndarray, sizes: np.ndarray, areas: np.ndarray) -> dict[str, np.ndarray]:
    """
    What is odd about boxes, as arrays of bool.

    Args:
        boxes: (N, 4) as the file has them, which should be (x, y, w, h) in pixels.
        sizes: (N, 2) width and height of each box's image.
        areas: (N,) as the file has them, 0 where it has none.
    """
    (x, y, w, h), (width, height) = boxes.T, sizes.T
    right, bottom = x + w, y + h
    beyond = (right > width + 1) | (bottom > height + 1)
    if len(boxes) >= MIN_BOXES:
        # all fit as corners, and many do not otherwise, or have the area of corners
        fits = _fit_as_corners(boxes, sizes)
        as_corners = abs(areas - (w - x) * (h - y)) <= 0.01 * areas
        by_area = as_corners & (abs(areas - w * h) > 0.01 * areas)
        if fits.mean() > 0.99 and (beyond.mean() > 0.1 or by_area.mean() > 0.5):
            return {"corners": np.ones(len(boxes), bool)}
        if boxes.min() >= 0 and boxes.max() <= 1:
            return {"fractions": np.ones(len(boxes), bool)}
    no_area = (w <= 0) | (h <= 0)
    outside = ~no_area & ((right <= 0) | (bottom <= 0) | (x >= width) | (y >= height))
    partly = beyond | (x < -1) | (y < -1)
    return {"no_area": no_area, "outside": outside, "partly_outside": partly & ~no_area & ~outside}


def _fit_as_corners(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which of the (N, 4) boxes could be (x1, y1, x2, y2) in images of (N, 2) those sizes."""
    (x1, y1, x2, y2), (width, height) = boxes.T, sizes.T
    return (x1 >= 0) & (y1 >= 0) & (x2 > x1) & (y2 > y1) & (x2 <= width + 1) & (y2 <= height + 1)


def _odd_annotations(coco: dict, file_names: dict[int, str]) -> list[Finding]:
    """The findings of `annotation_masks`, with {image id: file_name} in their notes."""
    annotations, sizes = coco.get("annotations") or [], image_sizes(coco)
    masks = annotation_masks(coco)
    if annotations and masks["crowds"].all():
        masks["only_crowds"] = masks.pop("crowds")

    def note(kind: str, a: dict) -> str:
        name, size = file_names.get(a["image_id"], ""), sizes.get(a["image_id"])
        if kind == "odd_run_lengths":
            return f"{name}: {run_length_problem(a['segmentation'], size)}"
        if kind == "shifted_category_ids":
            return f"id {a['category_id']}"
        if kind in ("outside", "partly_outside"):
            fits = _fit_as_corners(np.array([a["bbox"]], float), np.array([size], float))
            return f"{name}, would fit as x1, y1, x2, y2" if fits.all() else name
        return name

    findings = []
    for kind, mask in masks.items():
        odd = [annotations[row] for row in np.flatnonzero(mask)]
        findings.append(Finding(kind, [a["id"] for a in odd], [note(kind, a) for a in odd]))
    return findings


def _malformed(kind: str, records: list, keys: Iterable[str]) -> Finding:
    errors = {k: error for k, r in enumerate(records) if (error := schema_error(r, keys))}
    notes = [f'"{key}" {problem}' for key, problem in errors.values()]
    return Finding(kind, [f"number {k}" for k in errors], notes)


def _repeated(values: Iterable) -> list:
    return [value for value, count in Counter(values).items() if count > 1]


def _is_segmentation(value: object) -> bool:
    if isinstance(value, dict):
        return True  # run lengths, which have checks of their own
    polygons = value or []
    return isinstance(polygons, list) and all(
        isinstance(p, list) and all(map(is_number, p)) for p in polygons
    )


def _has_no_polygon(annotation: dict) -> bool:
    polygons = annotation.get("segmentation") or {}
    return isinstance(polygons, list) and not any(len(p) >= 6 and len(p) % 2 == 0 for p in polygons)


def _are_keypoints(value: object) -> bool:
    value = value or []
    return isinstance(value, list) and len(value) % 3 == 0 and all(map(is_number, value))


def _parent_notes(names: list[str], categories: list[dict]) -> list[str]:
    """Of classes that others name as supercategory: that they may not be classes."""
    children = children_of(categories)
    parents = [next((c["name"] for c in children[n] if c["name"] != n), None) for n in names]
    remedy = "if it is not a class, take it out of detection/classes.py"
    return [f"the supercategory of {p!r}; {remedy}" if p else "" for p in parents]


def _missing_images(names: list[str], image_root: str) -> Finding:
    absent = [name for name in names if not is_file(image_root, name)]
    if absent and len(absent) == len(names) and (roots := likely_roots(image_root, names)):
        note = f"but {roots[0]} has it: is that image_root?"
        if len(roots) > 1:
            note = f"but {', '.join(roots)} have them: which of them is this file's image_root?"
        return Finding("missing_images", absent, [note])
    twins = find_twins(image_root, absent)
    moved = find_moved(image_root, [n for n in absent if n not in twins], names)

    def note(name: str) -> str:
        base = name.replace("\\", "/").rpartition("/")[2]
        if twin := twins.get(name):  # it has slashes where the file has backslashes
            is_case = twin.casefold() == name.replace("\\", "/").casefold()
            return f"{twin} is there" if is_case else "is there in another Unicode form (NFC, NFD)"
        found = moved.get(name)
        if base not in ("", name) and found in (None, base) and is_file(image_root, base):
            return f"{base} is there: its folder is superfluous"
        return f"{found} is there" if found else ""

    return Finding("missing_images", absent, [note(name) for name in absent])
