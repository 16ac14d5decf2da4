"""What a usable COCO record looks like: one table for readers and for the checks."""

import reprlib
from collections.abc import Iterable

from detection.utils.text import LONGEST_NAME

IMAGE = ("id", "file_name", "width", "height")
CATEGORY = ("id", "name")
ANNOTATION = ("id", "image_id", "category_id")
LARGEST = 1e9  # pixels, of a side or a coordinate


def is_number(value: object) -> bool:
    """Whether it is a finite number of a plausible size."""
    return type(value) in (int, float) and abs(value) < LARGEST  # which nan is not


def is_box(value: object) -> bool:
    """Whether it is a list of four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def has_id(record: object, key: str) -> bool:
    """Whether `record[key]` is a whole number, as an id is."""
    return isinstance(record, dict) and type(record.get(key)) is int


_ID = lambda v: type(v) is int and 0 <= v < 2**63, "a whole number from 0"
_SIDE = lambda v: type(v) is int and 0 < v < LARGEST, "a whole number from 1"
_NAME = (
    lambda v: type(v) is str and len(v) <= LONGEST_NAME,
    f"text of at most {LONGEST_NAME} characters",
)
# {key: (whether a value can be used, what it has to be)}
FIELDS = {
    **dict.fromkeys(("id", "image_id", "category_id"), _ID),
    **dict.fromkeys(("width", "height"), _SIDE),
    **dict.fromkeys(("file_name", "name"), _NAME),
    "bbox": (is_box, "a list of four finite numbers (x, y, w, h)"),
    "score": (is_number, "a finite number"),
}


def schema_error(record: object, keys: Iterable[str]) -> tuple[str, str] | None:
    """
    The first of a parsed record's fields that cannot be used, and what is wrong with it.

    `keys` are the fields that it needs, of FIELDS; None is returned if all can be used.
    """
    for key in keys:
        is_usable, wanted = FIELDS[key]
        value = record.get(key) if isinstance(record, dict) else None
        if not is_usable(value):
            found = "none" if value is None else reprlib.repr(value)  # however long or deep
            return key, f"must be {wanted}, it is {found}"
    return None
