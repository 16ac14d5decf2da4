"""The cheap checks of a COCO json: what would stop training, and what would spoil it quietly."""

import reprlib
from collections import Counter
from collections.abc import Callable

import numpy as np

from detection.checks.class_names import alike_names, children_of, only_spelling
from detection.checks.findings import Finding, sort_findings
from detection.classes import CLASSES
from detection.utils.image_files import find_moved, find_twins, is_file, likely_roots
from detection.utils.run_lengths import run_length_problem
from detection.utils.text import LONGEST_NAME

WANTED = {
    int: "a whole number from {}",
    str: f"text of at most {LONGEST_NAME} characters",
    list: "a list",
}
IMAGE = {"id": (int, 0), "file_name": (str, 0), "width": (int, 1), "height": (int, 1)}
CATEGORY = {"id": (int, 0), "name": (str, 0)}
ANNOTATION = {"id": (int, 0), "image_id": (int, 0), "category_id": (int, 0)}
FEW = 10  # boxes below which nothing can be said of them all


def check_annotations(coco: dict, image_root: str) -> list[Finding]:
    """
    Check a parsed COCO json without opening any image.

    Args:
        coco: the parsed json; boxes are (x, y, w, h) in pixels.
        image_root: the folder of the images; they are looked for, not read.

    Returns:
        Findings, errors first. What is wrong with a record hides what else might be.
    """
    images, annotations = coco["images"], coco.get("annotations") or []
    categories = [c for c in coco["categories"] if not complaint(c, CATEGORY)]
    image_complaints = [complaint(i, IMAGE) for i in images]
    sound = [i for i, c in zip(images, image_complaints, strict=True) if not c]
    found = [
        Finding("malformed_images", *_told(image_complaints)),
        Finding("repeated_image_ids", _repeated([i["id"] for i in sound])),
        Finding("repeated_file_names", _repeated([i["file_name"] for i in sound])),
    ]
    if "://" not in image_root:
        found.append(_missing_images([i["file_name"] for i in sound], image_root))

    found.append(
        Finding("malformed_annotations", *_told([complaint(a, ANNOTATION) for a in annotations]))
    )
    names = {i["id"]: i["file_name"] for i in sound}
    sizes = {i["id"]: (i["width"], i["height"]) for i in sound}
    masks = annotation_masks(coco)
    if annotations and masks["crowds"].all():
        masks["only_crowds"] = masks.pop("crowds")
    for kind, mask in masks.items():
        rows = np.flatnonzero(mask)
        ids = [annotations[row]["id"] for row in rows]
        notes = [names.get(annotations[row]["image_id"], "") for row in rows]
        if kind in ("outside", "partly_outside") and len(rows):
            boxes = np.array([annotations[row]["bbox"] for row in rows], float)
            size = np.array([sizes[annotations[row]["image_id"]] for row in rows], float)
            fits = fit_as_corners(boxes, size).tolist()
            notes = [
                f"{note}, would fit as x1, y1, x2, y2" if fit else note
                for note, fit in zip(notes, fits, strict=True)
            ]
        elif kind == "odd_run_lengths" and len(rows):
            odd = [annotations[row] for row in rows]
            why = [run_length_problem(a["segmentation"], sizes.get(a["image_id"])) for a in odd]
            notes = [f"{note}: {problem}" for note, problem in zip(notes, why, strict=True)]
        elif kind == "shifted_category_ids" and len(rows):
            notes = [f"id {annotations[row]['category_id']}" for row in rows]
        found.append(Finding(kind, ids, notes))

    if annotations:
        annotated = {a["image_id"] for a in annotations if has_id(a, "image_id")}
        present = {a["category_id"] for a in annotations if has_id(a, "category_id")}
        empty = [i["file_name"] for i in sound if i["id"] not in annotated]
        absent = [c["name"] for c in categories if c["id"] not in present]
        found.append(Finding("empty_images", empty))
        found.append(Finding("absent_classes", absent, _parent_notes(absent, categories)))
    else:
        found.append(Finding("no_annotations", [f"{len(images)} images"]))
    left_out = coco.get("left_out_categories") or []
    notes = [f"id {c['id']}" for c in left_out]
    found.append(Finding("left_out_categories", [c["name"] for c in left_out], notes))
    alike = alike_names([c["name"] for c in categories])
    notes = [f"like {name!r}; they differ {only_spelling(name, other)}" for name, other in alike]
    found.append(Finding("alike_classes", [other for _, other in alike], notes))
    ids = sorted(c["id"] for c in categories)
    found.append(Finding("category_numbering", ids if ids != list(range(1, len(ids) + 1)) else []))
    by_id = [c["name"] for c in sorted(categories, key=lambda c: c["id"])]
    is_reordered = by_id != CLASSES and sorted(by_id) == sorted(CLASSES)
    found.append(Finding("category_order", by_id if is_reordered else []))
    return sort_findings(found)


def annotation_masks(coco: dict) -> dict[str, np.ndarray]:
    """
    For each kind of oddity the annotations that have it: arrays of bool, one for each annotation.

    Malformed annotations are in none of them; nor are those without four numbers, an image or a
    category in what is said of boxes. If the ids of categories are shifted, the annotations whose
    id is not listed are "shifted_category_ids", else "unknown_category_ids".
    """
    annotations = coco.get("annotations") or []
    sizes = {i["id"]: (i["width"], i["height"]) for i in coco["images"] if not complaint(i, IMAGE)}
    image_ids = {i["id"] for i in coco["images"] if has_id(i, "id")}
    category_ids = {c["id"] for c in coco["categories"] if has_id(c, "id")}
    sound = np.array([not complaint(a, ANNOTATION) for a in annotations], bool)

    def where(is_odd: Callable[[dict], bool], among: np.ndarray = sound) -> np.ndarray:
        odd = (ok and is_odd(a) for a, ok in zip(annotations, among.tolist(), strict=True))
        return np.fromiter(odd, bool, len(annotations))

    seen_ids, seen, classes_of = set(), set(), {}

    def is_new(key: object, among: set) -> bool:
        size = len(among)
        among.add(key)
        return len(among) > size

    masks = {
        "repeated_annotation_ids": where(lambda a: not is_new(a["id"], seen_ids)),
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
    }
    usable = sound & ~masks["not_four_numbers"] & ~masks["odd_area"]
    usable &= where(lambda a: a["image_id"] in sizes) & ~masks["unknown_category_ids"]
    masks["shifted_category_ids"] = np.zeros(len(annotations), bool)
    if category_shift(coco):
        masks["shifted_category_ids"] = masks["unknown_category_ids"]
        masks["unknown_category_ids"] = np.zeros(len(annotations), bool)
    rows = np.flatnonzero(usable)
    boxes = np.array([annotations[r]["bbox"] for r in rows], float).reshape(-1, 4)
    size = np.array([sizes[annotations[r]["image_id"]] for r in rows], float).reshape(-1, 2)
    areas = np.array([annotations[r].get("area") or 0 for r in rows], float)
    for kind, odd in box_masks(boxes, size, areas).items():
        masks[kind] = np.zeros(len(annotations), bool)
        masks[kind][rows] = odd

    def key(a: dict) -> tuple:
        return a["image_id"], *a["bbox"]

    masks["repeated_annotations"] = where(
        lambda a: not is_new((a["category_id"], *key(a)), seen), usable
    )
    masks["two_classes"] = where(
        lambda a: classes_of.setdefault(key(a), a["category_id"]) != a["category_id"], usable
    )
    masks["no_polygon"] = where(
        lambda a: (
            isinstance(polygons := a.get("segmentation") or {}, list)
            and not any(len(p) >= 6 and len(p) % 2 == 0 for p in polygons)
        ),
        sound & ~masks["odd_segmentation"],
    )
    masks["annotation_id_0"] = where(lambda a: a["id"] == 0)
    masks["crowds"] = where(lambda a: a.get("iscrowd") == 1)
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


def box_masks(boxes: np.ndarray, sizes: np.ndarray, areas: np.ndarray) -> dict[str, np.ndarray]:
    """
    What is odd about boxes, as arrays of bool.

    Args:
        boxes: (N, 4) as the json has them, (x, y, w, h) in pixels if all is well.
        sizes: (N, 2) width and height of each box's image.
        areas: (N,) as the json has them, 0 where it says nothing.
    """
    (x, y, w, h), (width, height) = boxes.T, sizes.T
    right, bottom = x + w, y + h
    beyond = (right > width + 1) | (bottom > height + 1)
    partly = beyond | (x < -1) | (y < -1)
    # all fit as corners, and many do not otherwise, or have the area of corners
    fits = fit_as_corners(boxes, sizes)
    as_corners = (w - x) * (h - y)
    by_area = (abs(areas - as_corners) <= 0.01 * areas) & (abs(areas - w * h) > 0.01 * areas)
    many = len(boxes) >= FEW
    nowhere = np.zeros(len(boxes), bool)
    if many and fits.mean() > 0.99 and (beyond.mean() > 0.1 or by_area.mean() > 0.5):
        return {"corners": ~nowhere}
    if many and (boxes.min() >= 0) and (boxes.max() <= 1):
        return {"fractions": ~nowhere}
    no_area = (w <= 0) | (h <= 0)
    outside = ~no_area & ((right <= 0) | (bottom <= 0) | (x >= width) | (y >= height))
    return {
        "no_area": no_area,
        "outside": outside,
        "partly_outside": partly & ~no_area & ~outside,
    }


def fit_as_corners(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which of the (N, 4) boxes could be (x1, y1, x2, y2) in images of (N, 2) those sizes."""
    (x1, y1, x2, y2), (width, height) = boxes.T, sizes.T
    return (x1 >= 0) & (y1 >= 0) & (x2 > x1) & (y2 > y1) & (x2 <= width + 1) & (y2 <= height + 1)


def complaint(record: object, fields: dict[str, tuple[type, int]]) -> str:
    """What is wrong with the types of a record's fields, IMAGE for one; empty if nothing."""
    for key, (kind, least) in fields.items():
        value = record.get(key) if isinstance(record, dict) else None
        is_odd = type(value) is not kind or (kind is int and not least <= value < 2**63)
        if is_odd or (kind is str and len(value) > LONGEST_NAME):
            found = "none" if value is None else reprlib.repr(value)  # however long or deep
            return f'"{key}" must be {WANTED[kind].format(least)}, it is {found}'
    return ""


def has_id(record: object, key: str) -> bool:
    """Whether `record[key]` is a whole number, such as an id is."""
    return isinstance(record, dict) and type(record.get(key)) is int


def is_box(value: object) -> bool:
    """Whether it is a list of four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def is_number(value: object) -> bool:
    """Whether it is a finite number of no absurd size."""
    return type(value) in (int, float) and abs(value) < 1e9  # which nan is not


def _parent_notes(names: list[str], categories: list[dict]) -> list[str]:
    """Of classes that others name as supercategory: that they may be no classes."""
    children = children_of(categories)
    parents = [next((c["name"] for c in children[n] if c["name"] != n), None) for n in names]
    remedy = "if it is no class, take it out of detection/classes.py"
    return [f"the supercategory of {p!r}; {remedy}" if p else "" for p in parents]


def _missing_images(names: list[str], image_root: str) -> Finding:
    absent = [name for name in names if not is_file(image_root, name)]
    if absent and len(absent) == len(names):
        roots = likely_roots(image_root, names)
        if len(roots) > 1:
            note = f"but {', '.join(roots)} have them: which of them is this file's image_root?"
            return Finding("missing_images", absent, [note])
        if roots:
            return Finding(
                "missing_images", absent, [f"but {roots[0]} has it: is that image_root?"]
            )
    twins = find_twins(image_root, absent)
    moved = find_moved(image_root, [n for n in absent if n not in twins], names)
    notes = [
        _twin_note(n, twins.get(n)) or _moved_note(n, moved.get(n), image_root) for n in absent
    ]
    return Finding("missing_images", absent, notes)


def _moved_note(name: str, moved: str | None, image_root: str) -> str:
    base = name.replace("\\", "/").rpartition("/")[2]
    if base not in ("", name) and moved in (None, base) and is_file(image_root, base):
        return f"{base} is there: its folder is superfluous"
    return f"{moved} is there" if moved else ""


def _twin_note(name: str, twin: str | None) -> str:
    if twin is None:
        return ""
    # the twin has slashes where the json has backslashes
    is_case = twin.casefold() == name.replace("\\", "/").casefold()
    return f"{twin} is there" if is_case else "is there in another Unicode form (NFC, NFD)"


def _told(complaints: list[str]) -> tuple[list[str], list[str]]:
    """Numbers and complaints of the records that are complained about."""
    told = {f"number {k}": c for k, c in enumerate(complaints) if c}
    return list(told), list(told.values())


def _repeated(values: list) -> list:
    return [value for value, count in Counter(values).items() if count > 1]


def _is_segmentation(value: object) -> bool:
    if isinstance(value, dict):
        return True  # run lengths, which have checks of their own
    polygons = value or []
    return isinstance(polygons, list) and all(
        isinstance(p, list) and all(map(is_number, p)) for p in polygons
    )


def _are_keypoints(value: object) -> bool:
    value = value or []
    return isinstance(value, list) and len(value) % 3 == 0 and all(map(is_number, value))
