"""
Reads projects of Supervisely, to convert them to COCO.

A project's folder has meta.json, and in each data set's folder `ann/IMAGE.json` and `img/IMAGE`. Of
polygons, masks and turned boxes the upright box around them is taken; points, lines and graphs of
keypoints get no corners, so that `choose_boxes` refuses them.
"""

import base64
import binascii
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from detection.utils.errors import UserError
from detection.workshop.preparation.foreign_images import (
    Box,
    ForeignImage,
    around,
    files_in,
    json_kind,
    read_json,
    read_label,
    read_numbers,
    read_points,
    turned,
)

# what is beside the annotations, of the project
OF_PROJECT = {"meta.json", "obj_class_to_machine_color.json", "key_id_map.json"}


def read_supervisely(source: Path) -> Iterator[ForeignImage]:
    """
    Read a project, one data set or one file, in the order of the names; UserError if a file is not
    of Supervisely, or an object lacks its class or place.
    """
    for path in files_in(source, "*.json"):
        if path.name in OF_PROJECT or path.parent.name == "meta":
            continue
        data = read_json(path)
        if json_kind(data) != "supervisely":
            raise UserError(f"{path}: is not an annotation of Supervisely; move it away")
        inside = path.relative_to(source) if path != source else Path(path.name)
        parts = ["img" if part == "ann" else part for part in inside.parent.parts]
        names = [PurePosixPath(*parts, path.stem).as_posix(), path.stem]
        image = ForeignImage(list(dict.fromkeys(names)), str(path), is_from_tool=True)
        sides = [data["size"].get(side) for side in ("width", "height")]
        image.size = tuple(sides) if all(type(v) is int and v > 0 for v in sides) else None
        for number, shape in enumerate(data["objects"], 1):
            where = f"{path}: object {number}"
            shape = shape if isinstance(shape, dict) else {}
            label = read_label(shape.get("classTitle"), where)
            kind = str(shape.get("geometryType", ""))
            corners = _corners(kind, shape, where)
            image.boxes.append(Box(label, corners, shape="" if kind == "rectangle" else kind))
        yield image


def _corners(kind: str, shape: dict, where: str) -> tuple[float, ...]:
    """A rectangle's right and bottom are where it ends, as Supervisely imports COCO."""
    points = shape.get("points")
    if kind == "oriented_bbox":
        (degrees,) = map(math.degrees, read_numbers([shape.get("angle") or 0], where))
        box = around(read_points(points, where))
        return turned(box, degrees, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    if kind in ("rectangle", "polygon"):
        return around(read_points(points.get("exterior") if isinstance(points, dict) else 0, where))
    if kind in ("bitmap", "alpha_mask"):
        bitmap = shape.get("bitmap")
        bitmap = bitmap if isinstance(bitmap, dict) else {}
        ((x, y),) = read_points([bitmap.get("origin")], where)
        width, height = _size_of_png(bitmap.get("data"), where)
        return x, y, x + width, y + height
    return ()


def _size_of_png(data: object, where: str) -> tuple[int, int]:
    """(width, height) of a mask, which Supervisely crops: base64 of zlib of a PNG."""
    try:
        head = zlib.decompressobj().decompress(base64.b64decode(data), 24)
        if head[:8] == b"\x89PNG\r\n\x1a\n":
            return struct.unpack(">II", head[16:24])
    except (TypeError, ValueError, binascii.Error, struct.error, zlib.error):
        pass
    raise UserError(f"{where} has no mask that can be read; draw it again")
