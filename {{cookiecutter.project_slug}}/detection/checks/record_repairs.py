"""Reads records that mean something but are not written as COCO does."""

import re
from collections.abc import Iterable

import numpy as np
from pycocotools import mask as mask_util

from detection.checks.records import is_box, is_number
from detection.utils.run_lengths import run_length_problem

# names of a box's numbers, as corner and size or as two corners
BOX_KEYS = [
    keys.split()
    for keys in (
        "x y width height",
        "x y w h",
        "left top width height",
        "xmin ymin xmax ymax",
        "x1 y1 x2 y2",
        "left top right bottom",
    )
]


def whole_number(value: object) -> int | None:
    """The whole number that "12" or 12.0 means; None if it is anything else."""
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return int(value) if type(value) is float and value.is_integer() else None


def number_ids(ids: Iterable[object]) -> dict[object, int]:
    """
    Whole numbers for ids that are not whole numbers from 0.

    "12" becomes 12, if no other id is 12 as well; other texts and negative numbers get the numbers
    after the highest.
    """
    ids = [i for i in ids if type(i) in (int, str) or whole_number(i) is not None]
    sound = {i for i in ids if type(i) is int and 0 <= i < 2**63}
    whole = {i: number for i in ids if (number := whole_number(i)) is not None}
    if len(sound | set(whole.values())) < len(sound | whole.keys()):
        whole = {i: number for i, number in whole.items() if type(i) is float}
    others = [i for i in dict.fromkeys(ids) if i not in sound and i not in whole]
    first = max(sound | set(whole.values()), default=0) + 1
    return whole | {i: first + k for k, i in enumerate(others)}


def read_box(value: object) -> list[float] | None:
    """The (x, y, w, h) that a list, text or object of numbers or digits means; None if none."""
    if isinstance(value, str):
        value = re.split(r"[\s,;]+", value.strip().strip("[]()").strip())
    elif isinstance(value, dict):
        named = {re.sub(r"[\s_-]", "", str(key)).lower(): v for key, v in value.items()}
        keys = next((keys for keys in BOX_KEYS if named.keys() >= set(keys)), ())
        value = [read_number(named[key]) for key in keys]
        if keys and keys[2] in ("xmax", "x2", "right") and is_box(value):
            value[2:] = value[2] - value[0], value[3] - value[1]
    if not isinstance(value, list):
        return None
    box = [read_number(v) for v in value]
    return box if is_box(box) else None


def read_number(value: object) -> float | int | None:
    """The finite number that it is or, as text, means; else None."""
    if type(value) is str:
        try:
            value = float(value)
        except ValueError:
            return None
        value = int(value) if value.is_integer() else value
    return value if is_number(value) else None


def read_polygons(value: object) -> list[list[float]] | None:
    """Polygons that are one flat list, or lists of points, or in quotes, as COCO writes them."""
    if not isinstance(value, list) or not value:
        return None
    if not any(isinstance(v, list | dict) for v in value):
        value = [value]  # a flat one
    elif all(isinstance(v, list) and len(v) == 2 for v in value) and len(value) > 2:
        value = [value]  # one of points
    polygons = [_flat(polygon) for polygon in value]
    return polygons if all(p is not None and len(p) % 2 == 0 for p in polygons) else None


def box_of_mask(segmentation: object, size: tuple[int, int] | None) -> list[float] | None:
    """
    The (x, y, w, h) around polygons or run lengths; None if they are unusable or empty.

    Args:
        segmentation: as the json has it.
        size: (width, height) of the image, None: not known.
    """
    if isinstance(segmentation, dict):
        if size is None or run_length_problem(segmentation, size):
            return None
        if isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        box = mask_util.toBbox(segmentation).tolist()
    else:
        polygons = read_polygons(segmentation) or []
        points = np.array([v for p in polygons for v in p], float).reshape(-1, 2)
        if not len(points):
            return None
        box = [*points.min(axis=0).tolist(), *np.ptp(points, axis=0).tolist()]
    return box if min(box[2:]) > 0 else None


def _flat(polygon: object) -> list[float] | None:
    if not isinstance(polygon, list):
        return None
    points = [v for point in polygon for v in (point if isinstance(point, list) else [point])]
    numbers = [read_number(v) for v in points]
    return None if None in numbers else numbers
