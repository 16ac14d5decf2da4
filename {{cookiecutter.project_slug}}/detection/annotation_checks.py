"""The cheap checks of a COCO json: what would stop training, and what would spoil it quietly."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SHOWN = 5  # examples a finding names
WANTED = {int: "a whole number from 0", str: "text", list: "a list"}
IMAGE = {"id": int, "file_name": str, "width": int, "height": int}
ANNOTATION = {"id": int, "image_id": int, "category_id": int, "bbox": list}


@dataclass(frozen=True)
class Finding:
    """One kind of oddity in an annotation file; errors stop training, the rest are warnings."""

    is_error: bool
    message: str


def check_annotations(coco: dict, image_root: str) -> list[Finding]:
    """
    Check a parsed COCO json without opening any image.

    Args:
        coco: the parsed json, with `images` and `categories`; boxes are (x, y, w, h) in pixels.
        image_root: the folder of the images; they are looked for, not read.

    Returns:
        Findings, errors first; where the records themselves are broken, only errors.
    """
    images, annotations = coco["images"], coco.get("annotations") or []
    malformed = _malformed(images, IMAGE, "image") or _malformed(
        annotations, ANNOTATION, "annotation"
    )
    if malformed:
        return [Finding(True, malformed)]

    sizes = {i["id"]: (i["width"], i["height"]) for i in images}
    categories = {c["id"] for c in coco["categories"]}
    annotated = {a["image_id"] for a in annotations}
    present = {a["category_id"] for a in annotations}

    def where(is_odd: Callable[[dict], bool]) -> list[int]:
        return [a["id"] for a in annotations if is_odd(a)]

    errors = {
        "image ids that stand more than once": _repeated(i["id"] for i in images),
        "annotation ids that stand more than once": _repeated(a["id"] for a in annotations),
        "annotations of an image that the file does not list": where(
            lambda a: a["image_id"] not in sizes
        ),
        "annotations of a category that the file does not list": where(
            lambda a: a["category_id"] not in categories
        ),
        "annotations whose bbox is not four finite numbers (x, y, w, h)": where(
            lambda a: not (len(a["bbox"]) == 4 and all(map(_is_number, a["bbox"])))
        ),
        "annotations whose area is no number": where(
            lambda a: a.get("area") is not None and not _is_number(a["area"])
        ),
        "annotations whose iscrowd is neither 0 nor 1": where(
            lambda a: a.get("iscrowd", 0) not in (0, 1)
        ),
        'annotations to "ignore", which detectron2 does not know (iscrowd: 1 comes closest)': where(
            lambda a: a.get("ignore", 0) != 0
        ),
        "annotations whose segmentation is neither polygons nor RLE": where(
            lambda a: not _is_segmentation(a.get("segmentation"))
        ),
    }
    if any(errors.values()):
        return _findings(True, errors)

    missing = {
        f"images that are not in {image_root}": [
            i["file_name"]
            for i in images
            if "://" not in image_root
            and not os.path.exists(os.path.join(image_root, i["file_name"]))
        ]
    }
    if not annotations:
        none = Finding(False, "no annotations: fit for predictions, not to train or evaluate on")
        return [*_findings(True, missing), none]
    numbering = sorted(categories)
    warnings = {
        "category ids that do not run from 1; we map them to CLASSES, and back in predictions": (
            numbering if numbering != list(range(1, len(numbering) + 1)) else []
        ),
        "annotations whose box has no area, left out of training, a miss in evaluation": where(
            lambda a: min(a["bbox"][2:]) <= 0
        ),
        "annotations more than a pixel outside their image (are boxes x1, y1, x2, y2?)": where(
            lambda a: _is_outside(a["bbox"], *sizes[a["image_id"]])
        ),
        "annotations without a polygon of three points or more, left out of training": where(
            lambda a: (
                isinstance(polygons := a.get("segmentation") or {}, list)
                and not any(len(p) >= 6 and len(p) % 2 == 0 for p in polygons)
            )
        ),
        "annotations with id 0, which pycocotools never counts as found; we do": where(
            lambda a: a["id"] == 0
        ),
        "images without annotations, left out of training": [
            i["file_name"] for i in images if i["id"] not in annotated
        ],
        "classes without annotations, for which there is no AP": [
            c["name"] for c in coco["categories"] if c["id"] not in present
        ],
    }
    return _findings(True, missing) + _findings(False, warnings)


def _findings(is_error: bool, odd: dict[str, list]) -> list[Finding]:
    findings = []
    for text, items in odd.items():
        if items:
            shown = ", ".join(map(str, items[:SHOWN])) + (", …" if len(items) > SHOWN else "")
            findings.append(Finding(is_error, f"{text}: {len(items)} ({shown})"))
    return findings


def _malformed(records: list, fields: dict[str, type], noun: str) -> str:
    for position, record in enumerate(records):
        for key, kind in fields.items():
            value = record.get(key) if isinstance(record, dict) else None
            if type(value) is not kind or (kind is int and not 0 <= value < 2**63):
                found = "none" if value is None else repr(value)[:60]
                return f'{noun} number {position}: "{key}" must be {WANTED[kind]}, it is {found}'
    return ""


def _repeated(ids: Iterable) -> list:
    return [id_ for id_, count in Counter(ids).items() if count > 1]


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9  # which nan is not


def _is_segmentation(value: object) -> bool:
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        return (_are_whole(size) and len(size) == 2) and (
            isinstance(counts, str) or _are_whole(counts)
        )
    polygons = value or []
    return isinstance(polygons, list) and all(
        isinstance(p, list) and all(map(_is_number, p)) for p in polygons
    )


def _are_whole(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1e9 for v in values)


def _is_outside(bbox: list[float], width: int, height: int) -> bool:
    x, y, w, h = bbox
    return x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1
