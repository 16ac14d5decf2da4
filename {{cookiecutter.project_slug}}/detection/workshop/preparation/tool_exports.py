"""
Reads what labelme, Label Studio and CVAT export, to convert it to COCO.

Of polygons, ellipses, masks and turned boxes the upright box around them is taken. A shape without
an area, such as a point, gets no corners: `to_coco` refuses it unless its class is left out.
"""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from detection.utils.errors import UserError
from detection.utils.image_files import EXTENSIONS
from detection.workshop.preparation.foreign_images import (
    EXPORT_COCO,
    Box,
    ForeignImage,
    around,
    files_in,
    json_kind,
    parse_xml,
    read_json,
    read_label,
    read_numbers,
    read_points,
    read_size,
    records,
    turned,
)

# what Label Studio puts before the name of a file that was uploaded
UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")


def read_labelme(source: Path) -> Iterator[ForeignImage]:
    """
    Read labelme's json, or a folder of them in the order of their names; UserError if a file is not
    such a json, or a shape lacks its label or points.
    """
    for path in files_in(source, "*.json"):
        data = read_json(path)
        if json_kind(data) != "labelme":
            raise UserError(f'{path}: is not labelme json, it has no list "shapes"; move it away')
        beside = path.relative_to(source).with_suffix("").as_posix() if path != source else ""
        name = data.get("imagePath")
        name = name.replace("\\", "/") if isinstance(name, str) else ""
        names = [name, name.rpartition("/")[2], beside, path.stem]
        image = ForeignImage([n for n in names if n], str(path))
        size = data.get("imageWidth"), data.get("imageHeight")
        image.size = size if all(type(v) is int and v > 0 for v in size) else None
        for number, shape in enumerate(data["shapes"], 1):
            where = f"{path}: shape {number}"
            shape = shape if isinstance(shape, dict) else {}
            points = read_points(shape.get("points"), where)
            corners, kind = around(points), shape.get("shape_type") or "polygon"
            if kind == "circle" and len(points) == 2:  # its centre, and a point on it
                (x, y), radius = points[0], math.dist(*points)
                corners = (x - radius, y - radius, x + radius, y + radius)
            has_area = kind in ("circle", "mask", "polygon", "rectangle", "rotation")
            label = read_label(shape.get("label"), where)
            drawn = "" if kind == "rectangle" else kind
            image.boxes.append(Box(label, corners if has_area else (), shape=drawn))
        yield image


def read_label_studio(source: Path) -> Iterator[ForeignImage]:
    """
    Read the format that Label Studio calls JSON: rectangles, ellipses and polygons.

    Raises:
        UserError: the file is not such a json, an image has annotations of several people, or a
            region lacks its label or place.
    """
    tasks = read_json(source)
    if json_kind(tasks) != "label_studio":
        raise UserError(f"{source}: is not json of Label Studio; {EXPORT_COCO}")
    for number, task in enumerate(tasks, 1):
        where = f"{source}: task {number}"
        data = task.get("data") if isinstance(task, dict) else None
        texts = [v for v in data.values() if isinstance(v, str)] if isinstance(data, dict) else []
        if not texts:
            raise UserError(f'{where} has no image in "data"; remove it')
        image = ForeignImage([], where, is_relative=True)
        texts = [t for t in texts if any(e in t.lower() for e in EXTENSIONS)] or texts
        image.names = list(dict.fromkeys(n for text in texts for n in _image_names(text)))
        annotations = records(task.get("annotations"))
        annotations = [a for a in annotations if not a.get("was_cancelled")]
        annotations = [a for a in annotations if a.get("ground_truth")] or annotations
        if len(annotations) > 1:
            raise UserError(
                f"{where} ({image.names[0]}) is annotated {len(annotations)} times; make one of "
                "them the ground truth in Label Studio, and export again"
            )
        regions = [r for a in annotations for r in records(a.get("result"))]
        labels = {str(r.get("id")): label for r in regions if (label := _region_label(r))}
        seen = set()
        for index, region in enumerate(regions, 1):
            value = region.get("value")
            if not isinstance(value, dict) or not {"x", "points", "rle"} & value.keys():
                continue  # a choice or a text, of the whole image
            key = str(region.get("id", f"number {index}"))
            if key in seen:  # a separate record for its label repeats the place
                continue
            seen.add(key)
            at = f"{where}, region {index}"
            label = read_label(labels.get(key) or _region_label(region), at)
            kind = str(region.get("type", "")).removesuffix("labels").removesuffix("rectangle")
            kind = "turned box" if not kind and value.get("rotation") else kind
            image.boxes.append(Box(label, _region_corners(region, value, at), shape=kind))
        yield image


def read_cvat(source: Path) -> Iterator[ForeignImage]:
    """
    Read the xml that CVAT calls "CVAT for images", or a folder of them; UserError if a file is not
    such an xml, or a shape lacks its label or place.
    """
    for path in files_in(source, "*.xml"):
        root = parse_xml(path)
        if root.tag != "annotations" or root.find("track") is not None:
            what = 'is not xml of "CVAT for images"'
            raise UserError(f"{path}: {what}; choose that or COCO where CVAT exports")
        for node in root.iterfind("image"):
            where = f"{path}: image {node.get('name', '')}"
            if not (name := node.get("name")):
                raise UserError(f"{where}has no name; export it again")
            image = ForeignImage([name, name.rpartition("/")[2]], where)
            image.size = read_size([node.get("width", "0"), node.get("height", "0")], where)
            for shape in node:
                if shape.tag != "tag":  # which is of the whole image
                    label = read_label(shape.get("label"), where)
                    is_turned = read_numbers([shape.get("rotation", "0")], where) != (0,)
                    kind = ("turned box" if is_turned else "") if shape.tag == "box" else shape.tag
                    image.boxes.append(Box(label, _cvat_corners(shape, where), shape=kind))
            yield image


def _image_names(text: str) -> list[str]:
    """What an image may be called that Label Studio knows by a URL, the likeliest first."""
    if text.startswith("data:"):
        return ["an image within the json"]
    url = urlsplit(text) if re.match(r"[a-z0-9]+://|/data/", text) else urlsplit("")
    path = parse_qs(url.query).get("d", [unquote(url.path)])[0] if url.path else text
    path = path.lstrip("/")
    base = path.rpartition("/")[2]
    return [name for name in (path, base, UPLOAD_PREFIX.sub("", base)) if name] or [text]


def _region_label(region: dict) -> str | None:
    """The first label of a region, which is under its type, e.g. "rectanglelabels"."""
    kind, value = region.get("type"), region.get("value")
    if not isinstance(kind, str) or not kind.endswith("labels") or not isinstance(value, dict):
        return None
    labels = value.get(kind)
    is_text = isinstance(labels, list) and labels and isinstance(labels[0], str)
    return labels[0] if is_text else None


def _region_corners(region: dict, value: dict, where: str) -> tuple[float, ...]:
    """As fractions of the image's sides; Label Studio has percent."""
    if "points" in value:
        return tuple(v / 100 for v in around(read_points(value["points"], where)))
    is_ellipse = "radiusX" in value
    keys = ("x", "y", "radiusX", "radiusY") if is_ellipse else ("x", "y", "width", "height")
    if not value.keys() >= set(keys[2:]):
        return ()
    x, y, w, h = read_numbers([value.get(key) for key in keys], where)
    sides = [region.get(f"original_{side}") or 100 for side in ("width", "height")]
    turn, *sides = read_numbers([value.get("rotation") or 0, *sides], where)
    width, height = sides if min(sides) > 0 else (100, 100)
    # turned in pixels, where angles are what they seem
    x, w, y, h = x * width / 100, w * width / 100, y * height / 100, h * height / 100
    corners = (x - w, y - h, x + w, y + h) if is_ellipse else (x, y, x + w, y + h)
    x1, y1, x2, y2 = turned(corners, turn, (x, y))
    return x1 / width, y1 / height, x2 / width, y2 / height


def _cvat_corners(shape: ET.Element, where: str) -> tuple[float, ...]:
    def numbers(*keys: str) -> tuple[float, ...]:
        return read_numbers([shape.get(key, "") for key in keys], where)

    if shape.tag == "polygon":
        pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
        return around(read_points(pairs, where))
    if shape.tag == "mask":
        x, y, w, h = numbers("left", "top", "width", "height")
        return x, y, x + w, y + h
    if shape.tag == "ellipse":
        x, y, w, h = numbers("cx", "cy", "rx", "ry")
        corners = (x - w, y - h, x + w, y + h)
    elif shape.tag == "box":
        corners = numbers("xtl", "ytl", "xbr", "ybr")
    else:
        return ()
    (turn,) = read_numbers([shape.get("rotation", "0")], where)
    return turned(corners, turn, ((corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2))
