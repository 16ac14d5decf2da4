"""What is read of an image in another format, and what the readers of these formats share."""

import math
import reprlib
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from detection.data.coco import parse_json
from detection.utils.errors import UserError

EXPORT_COCO = "choose COCO, or Pascal VOC, where the tool exports"


class Box(NamedTuple):
    """
    An object.

    Attributes:
        label: its class.
        corners: (x1, y1, x2, y2), in pixels or as fractions; of a shape without an area, none.
        is_crowd: whether it is a group of objects.
        shape: what was drawn, if not an upright box: "polygon".
        fields: what a COCO annotation has besides.
    """

    label: str
    corners: tuple[float, ...]
    is_crowd: bool = False
    shape: str = ""
    fields: dict | None = None


@dataclass
class ForeignImage:
    """
    What a file says of one image.

    Attributes:
        names: what the image may be called, the likeliest first.
        where: the file and the place in it, for errors.
        size: (width, height) in pixels or None.
        boxes: its objects.
        is_relative: whether corners are fractions of the image's sides instead of pixels.
        is_from_tool: whether a drawing tool wrote the file; none numbers pixels from 1.
        fields: what a COCO image has besides.
    """

    names: list[str]
    where: str
    size: tuple[int, int] | None = None
    boxes: list[Box] = field(default_factory=list)
    is_relative: bool = False
    is_from_tool: bool = False
    fields: dict = field(default_factory=dict)


def parse_xml(path: Path) -> ET.Element:
    """The root of an xml file; UserError if it cannot be read or is invalid."""
    try:
        return ET.fromstring(path.read_bytes())
    except (ET.ParseError, LookupError, OSError, ValueError) as e:
        raise UserError(f"{path}: is not valid xml ({e}); write it again") from e


def read_numbers(values: Sequence[object], where: str | Path) -> tuple[float, ...]:
    """Finite numbers, or texts of them, as floats; else a UserError that names `where`."""
    try:
        numbers = tuple(float(value) for value in values)
        if all(map(math.isfinite, numbers)):
            return numbers
    except (OverflowError, TypeError, ValueError):
        pass
    raise UserError(
        f"{where} should have finite numbers, it has {reprlib.repr(list(values))}; correct it"
    )


def read_size(sides: Sequence[str], where: str | Path) -> tuple[int, int] | None:
    """(width, height) of texts of numbers, None if one is below 1; UserError if one is not one."""
    width, height = read_numbers(sides, where)
    return (int(width), int(height)) if min(width, height) >= 1 else None


def around(points: Iterable[Sequence[float]]) -> tuple[float, ...]:
    """The box (x1, y1, x2, y2) around points (x, y)."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise a UserError where a file cannot be read or is not in UTF-8."""
    try:
        yield
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror or e})") from e
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: is not in UTF-8; save it in UTF-8") from e


def read_text(path: Path) -> str:
    """The text of a file in UTF-8; UserError if it cannot be read or is in another encoding."""
    with reading(path):
        return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> object:
    """Parse a json; UserError if it cannot be read or is invalid."""
    return parse_json(read_text(path), path)


def files_in(source: Path, pattern: str) -> list[Path]:
    """The file itself, or those of the pattern in the folder and below, in order."""
    return sorted(source.rglob(pattern)) if source.is_dir() else [source]


def records(value: object) -> list[dict]:
    """What is a record in what should be a list of them."""
    return [r for r in value if isinstance(r, dict)] if isinstance(value, list) else []


def read_label(label: object, where: str) -> str:
    """A class without blanks around it; UserError if it is no text or empty."""
    if not isinstance(label, str) or not label.strip():
        raise UserError(f"{where} has no label; give it one or remove it")
    return label.strip()


def read_points(points: object, where: str) -> list[tuple[float, ...]]:
    """A list of pairs of finite numbers; else a UserError that names `where`."""
    if not isinstance(points, list) or not points:
        raise UserError(f"{where} has no points; remove it")
    pairs = [p if isinstance(p, list) and len(p) == 2 else [None] for p in points]
    return [read_numbers(pair, where) for pair in pairs]


def turned(corners: Sequence[float], degrees: float, pivot: Sequence[float]) -> tuple[float, ...]:
    """The box around a box that is turned clockwise about a point."""
    if not degrees:
        return tuple(corners)
    x1, y1, x2, y2 = corners
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    offsets = [(x - pivot[0], y - pivot[1]) for x in (x1, x2) for y in (y1, y2)]
    return around((pivot[0] + x * cos - y * sin, pivot[1] + x * sin + y * cos) for x, y in offsets)


def json_kind(data: object) -> str:
    """
    What wrote a parsed json: coco, results (COCO's), labelme, label_studio, supervisely, via (the
    VGG Image Annotator, 1 or 2) or via3; empty if unknown.
    """
    if isinstance(data, dict):
        if isinstance(data.get("shapes"), list):
            return "labelme"
        if isinstance(data.get("categories"), list):
            return "coco"
        if isinstance(data.get("objects"), list) and isinstance(data.get("size"), dict):
            return "supervisely"
        if isinstance(data.get("_via_img_metadata"), dict):
            return "via"
        if all(isinstance(data.get(key), dict) for key in ("file", "view", "metadata")):
            return "via3"
        values = [*data.values()] or [None]
        is_via = all(isinstance(v, dict) and v.keys() >= {"filename", "regions"} for v in values)
        return "via" if is_via else ""
    first = data[0] if isinstance(data, list) and data else None
    if isinstance(first, dict) and first.keys() >= {"data", "annotations"}:
        return "label_studio"
    if isinstance(first, dict) and first.keys() >= {"image_id", "category_id", "bbox"}:
        return "results"
    return ""
