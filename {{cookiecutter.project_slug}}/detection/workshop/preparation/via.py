"""
Reads what the VGG Image Annotator (VIA) saves, to convert it to COCO: json and csv of versions 1
and 2, and projects of version 3.

A region may have several attributes; one of them is its class. Of polygons, circles and ellipses
the upright box around them is taken; points and lines get no corners, so that `choose_boxes`
refuses them.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from detection.utils.errors import UserError
from detection.utils.text import listed
from detection.workshop.preparation.foreign_annotations import read_rows
from detection.workshop.preparation.foreign_images import (
    Box,
    ForeignImage,
    around,
    json_kind,
    read_json,
    read_label,
    read_numbers,
    turned,
)

CSV_COLUMNS = {"region_shape_attributes", "region_attributes"}
USUAL_NAMES = ("class", "label", "name", "category", "type", "object")
IMAGE = 2  # a type of file in version 3
POINT, RECTANGLE, CIRCLE, ELLIPSE, LINE, POLYLINE, POLYGON, EXTREMES = range(1, 9)  # its shapes
SHAPES = {CIRCLE: "circle", ELLIPSE: "ellipse", POLYGON: "polygon", POINT: "point", LINE: "line"}


def read_via(
    source: Path, attribute: str | None = None, only_class: str | None = None
) -> Iterator[ForeignImage]:
    """
    Read a json or csv of VIA.

    Args:
        source: the file.
        attribute: which of the regions' attributes is the class; None: the only one, or the one
            with a usual name, such as "class".
        only_class: the class of all regions if none has an attribute; None: they need one.

    Raises:
        UserError: the file is not of VIA, or a region lacks its class or its place; several
            attributes may be the class.
    """
    if source.suffix.lower() == ".csv":
        files = _of_csv(source)
    else:
        data = read_json(source)
        if json_kind(data) == "via3":
            yield from _read_project(source, data, attribute, only_class)
            return
        if json_kind(data) != "via":
            raise UserError(f"{source}: is not json of the VGG Image Annotator; export it again")
        data = data.get("_via_img_metadata", data)
        files = [(f"{source}: {key[:200]}", record) for key, record in data.items()]
    found = []
    for where, record in files:
        name = record.get("filename") if isinstance(record, dict) else None
        if not isinstance(name, str) or not name:
            raise UserError(f"{where} has no filename; export it again")
        regions = record.get("regions") or []
        if isinstance(regions, dict):  # version 1 numbers them
            regions = list(regions.values())
        if not isinstance(regions, list) or not all(isinstance(r, dict) for r in regions):
            raise UserError(f"{where} has regions that are not records; export it again")
        found.append((where, name, regions))
    attributes = [_attributes(region) for _, _, regions in found for region in regions]
    attribute = attribute or _class_attribute(source, attributes)
    only_class = None if any(attributes) else only_class
    for where, name, regions in found:
        image = ForeignImage(_image_names(name), where, is_from_tool=True)
        for number, region in enumerate(regions, 1):
            at = f"{where}, region {number}"
            value = _attributes(region).get(attribute, only_class)
            label = _label(value, f"{at}: {attribute!r}")
            shape = region.get("shape_attributes")
            shape = shape if isinstance(shape, dict) else {}
            kind = str(shape.get("name", ""))
            corners = _corners(kind, shape, at)
            image.boxes.append(Box(label, corners, shape="" if kind == "rect" else kind))
        yield image


def _of_csv(source: Path) -> Iterator[tuple[str, dict]]:
    """What the json would have, of each row: (where it is, the record of an image)."""
    header, rows = read_rows(source)
    header = [column.strip().lstrip("#") for column in header]
    if not CSV_COLUMNS | {"filename"} <= set(header):
        raise UserError(f"{source}: is not a csv of the VGG Image Annotator; export it again")
    images = {}
    for number, row in enumerate(rows, 2):
        where = f"{source}: row {number}"
        if len(row) < len(header):
            raise UserError(f"{where} has {len(row)} of {len(header)} values; complete it")
        cells = dict(zip(header, row, strict=False))
        name = cells["filename"].strip()
        key = name, cells.get("file_size")
        image = images.setdefault(key, (where, {"filename": name, "regions": []}))[1]
        try:
            region = {c.removeprefix("region_"): json.loads(cells[c] or "{}") for c in CSV_COLUMNS}
        except (ValueError, RecursionError) as e:
            raise UserError(f"{where} has no valid json in its columns of regions ({e})") from e
        region["region_attributes"] = region.pop("attributes")
        if region["shape_attributes"]:
            image["regions"].append(region)
    yield from images.values()


def _class_attribute(source: Path, attributes: Sequence[dict]) -> str:
    """The attribute that is the class."""
    counts = Counter(name for of_region in attributes for name in of_region)
    usual = [n for n in sorted(counts, key=str) if n.lower() in USUAL_NAMES]
    usual.sort(key=lambda name: USUAL_NAMES.index(name.lower()))
    if len(counts) <= 1 or usual:
        return (usual or [*counts] or ["class"])[0]
    raise UserError(
        f"{source}: its regions have the attributes {listed(sorted(counts), 20)}; --columns "
        "class=… says which of them is the class"
    )


def _attributes(region: dict) -> dict:
    value = region.get("region_attributes")
    return value if isinstance(value, dict) else {}


def _label(value: object, where: str) -> str:
    """A text, or of boxes to tick the one that is ticked."""
    if isinstance(value, dict):
        ticked = [name for name, is_ticked in value.items() if is_ticked]
        if len(ticked) > 1:
            raise UserError(f"{where} has {len(ticked)} classes; leave it one")
        value = ticked[0] if ticked else None
    return read_label(value, where)


def _corners(kind: str, shape: dict, where: str) -> tuple[float, ...]:
    def numbers(*keys: str) -> tuple[float, ...]:
        return read_numbers([shape.get(key) for key in keys], where)

    if kind == "rect":
        x, y, w, h = numbers("x", "y", "width", "height")
        return x, y, x + w, y + h
    if kind == "circle":
        x, y, radius = numbers("cx", "cy", "r")
        return x - radius, y - radius, x + radius, y + radius
    if kind == "ellipse":
        x, y, w, h = numbers("cx", "cy", "rx", "ry")
        (radians,) = read_numbers([shape.get("theta") or 0], where)
        return turned((x - w, y - h, x + w, y + h), math.degrees(radians), (x, y))
    if kind == "polygon":
        xs, ys = (shape.get(f"all_points_{axis}") for axis in "xy")
        if not isinstance(xs, list) or not isinstance(ys, list) or not len(xs) == len(ys) > 0:
            raise UserError(f"{where} should have as many x as y of points; draw it again")
        return around(zip(read_numbers(xs, where), read_numbers(ys, where), strict=True))
    return ()


def _read_project(
    source: Path, data: dict, attribute: str | None, only_class: str | None
) -> Iterator[ForeignImage]:
    """Version 3: regions are of views, and views are of files."""
    images = {}  # of each view
    for key, view in data["view"].items():
        fids = view.get("fid_list") if isinstance(view, dict) else None
        file = data["file"].get(str(fids[0])) if isinstance(fids, list) and fids else None
        file = file if isinstance(file, dict) else {}
        names = [n for k in ("src", "fname") if isinstance(n := file.get(k), str) and n]
        if not names or file.get("type", IMAGE) != IMAGE:
            raise UserError(f"{source}: view {key} is not of an image; remove it in VIA")
        names = [n for name in names for n in _image_names(name)]
        images[key] = ForeignImage(names, f"{source}: view {key}", is_from_tool=True)
    known = data.get("attribute")
    known = known if isinstance(known, dict) else {}
    known = {k: a for k, a in known.items() if isinstance(a, dict)}
    if not all(isinstance(region, dict) for region in data["metadata"].values()):
        raise UserError(f"{source}: its metadata are not records; save the project again")
    regions = [
        (f"{source}: metadata {key}", region, _named(region.get("av"), known))
        for key, region in data["metadata"].items()
        if region.get("xy")  # without a place, it is of the whole image
    ]
    attributes = [values for *_, values in regions]
    attribute = attribute or _class_attribute(source, attributes)
    only_class = None if any(attributes) else only_class
    for where, region, values in regions:
        if (image := images.get(str(region.get("vid")))) is None:
            raise UserError(f"{where} is of a view that is not there; remove it in VIA")
        label = _label(values.get(attribute, only_class), f"{where}: {attribute!r}")
        xy = region["xy"] if isinstance(region["xy"], list) else [None]
        kind, *numbers = read_numbers(xy, where)
        corners = _project_corners(kind, numbers, where)
        shape = "" if kind == RECTANGLE else SHAPES.get(kind, f"shape {kind:g}")
        image.boxes.append(Box(label, corners, shape=shape))
    yield from images.values()


def _named(values: object, known: dict) -> dict:
    """{name of an attribute: its value}, of {id of an attribute: value, or the id of an option}."""
    named = {}
    for key, value in (values if isinstance(values, dict) else {}).items():
        attribute = known.get(key, {})
        options = attribute.get("options")
        if isinstance(options, dict) and isinstance(value, str):
            value = options.get(value, value)
        named[str(attribute.get("aname", key))] = value
    return named


def _project_corners(kind: float, numbers: list[float], where: str) -> tuple[float, ...]:
    wanted = {RECTANGLE: 4, CIRCLE: 3, ELLIPSE: 4}
    if kind not in (*wanted, POLYGON, EXTREMES):
        return ()
    if len(numbers) != wanted.get(kind, len(numbers) // 2 * 2) or not numbers:
        raise UserError(f"{where} has {len(numbers)} numbers of a place; draw it again")
    x, y, *sides = numbers
    if kind == RECTANGLE:
        return x, y, x + sides[0], y + sides[1]
    if kind in (CIRCLE, ELLIPSE):
        w, h = sides[0], sides[-1]
        return x - w, y - h, x + w, y + h
    return around(zip(numbers[::2], numbers[1::2], strict=True))


def _image_names(name: str) -> list[str]:
    """A name, which may be a path or a URL, as it is and without its folders."""
    path = unquote(urlsplit(name).path) if "://" in name[:10] else name.replace("\\", "/")
    path = path.lstrip("/")
    return [n for n in dict.fromkeys((path, path.rpartition("/")[2])) if n] or [name]
