"""Reads Pascal VOC, YOLO and CSV annotations, to convert them to COCO."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from detection.utils.errors import UserError
from detection.utils.image_files import EXTENSIONS
from detection.workshop.preparation.foreign_images import (
    Box,
    ForeignImage,
    around,
    parse_xml,
    read_numbers,
    read_size,
    read_text,
    reading,
)

# what a column may be called, in lower case without underscores and blanks
COLUMNS = {
    "image": "filename imageid image img imagename imagepath path file patientid".split(),
    "class": "class classname label labelname category categoryname name".split(),
    "bbox": ["bbox", "box", "boundingbox"],
    "x1": ["xmin", "x1", "left"],
    "y1": ["ymin", "y1", "top"],
    "x2": ["xmax", "x2", "right"],
    "y2": ["ymax", "y2", "bottom"],
    "x": ["x", "bboxx"],
    "y": ["y", "bboxy"],
    "w": ["w", "bboxwidth", "bboxw"],
    "h": ["h", "bboxheight", "bboxh"],
    "width": ["width", "imagewidth", "imgwidth", "imgw"],
    "height": ["height", "imageheight", "imgheight", "imgh"],
    "crowd": ["iscrowd", "isgroupof"],
}
BOX_LAYOUTS = (["bbox"], "x1 y1 x2 y2".split(), "x y w h".split(), "x y width height".split())
NO_LABELS = set(
    "classes.txt labels.txt notes.txt readme.dataset.txt readme.roboflow.txt readme.txt".split()
)
LARGEST_NAMES = 2**20  # bytes of a file of class names


def read_voc(folder: Path) -> Iterator[ForeignImage]:
    """
    Read a folder of Pascal VOC xml files, in the order of their names; UserError if a file is not
    such an xml, or has something else in place of a number.
    """
    for path in sorted(folder.rglob("*.xml")):
        root = parse_xml(path)
        if root.tag != "annotation":
            raise UserError(f"{path}: is not Pascal VOC xml, it has no <annotation>; move it away")
        beside = path.relative_to(folder).with_suffix("").as_posix()
        name = (root.findtext("filename") or "").strip()
        image = ForeignImage([n for n in (name, beside, path.stem) if n], str(path))
        # as LabelImg and CVAT write it; VOC's own files name their database
        image.is_from_tool = (root.findtext("source/database") or "").strip() == "Unknown"
        sides = [root.findtext(f"size/{side}") or "0" for side in ("width", "height")]
        image.size = read_size(sides, path)
        for number, node in enumerate(root.findall("object"), 1):
            where = f"{path}: object {number}"
            label, box = node.findtext("name"), node.find("bndbox")
            if not label or box is None:
                raise UserError(
                    f"{where} has no <name> or no <bndbox>; add it or remove the object"
                )
            corners = [box.findtext(key, "") for key in ("xmin", "ymin", "xmax", "ymax")]
            image.boxes.append(Box(label.strip(), read_numbers(corners, where)))
        yield image


def read_yolo(
    folder: Path, names: dict[str, str], keypoint_values: int = 0
) -> Iterator[ForeignImage]:
    """
    Read a folder of YOLO txt files, in the order of their names; lists of images are passed over.

    A line is `class x y w h`, x and y the centre, or `class x1 y1 x2 y2 x3 y3 …`, a polygon whose
    box is taken; all as fractions of the image's sides.

    Args:
        folder: of the txt files; each has its image's name.
        names: {class number as text: name}.
        keypoint_values: how many numbers of keypoints follow each box, of which only the box is
            taken.

    Raises:
        UserError: a line is something else, or has a class number without a name.
    """
    for path in sorted(folder.rglob("*.txt")):
        if path.name.lower() in NO_LABELS:
            continue
        beside = path.relative_to(folder).with_suffix("").as_posix()
        lines = read_text(path).splitlines()
        if lines and Path(lines[0].strip()[-255:]).suffix.lower() in EXTENSIONS:
            continue  # train.txt, as CVAT and darknet have it
        image = ForeignImage([beside, path.stem], str(path), is_relative=True)
        for number, line in enumerate(lines, 1):
            if not (parts := line.split()):
                continue
            where = f"{path}: line {number}"
            if keypoint_values and len(parts) == 5 + keypoint_values:
                parts, shape = parts[:5], "box with keypoints"
            else:
                shape = "" if len(parts) == 5 else "polygon"
            if len(parts) != 5 and (len(parts) < 7 or len(parts) % 2 == 0 or keypoint_values):
                raise UserError(
                    f"{where} has {len(parts)} values; a box is `class x y w h`, a polygon "
                    "`class x1 y1 x2 y2 x3 y3 …`"
                )
            if parts[0] not in names:
                raise UserError(
                    f"{where} has the class {parts[0]}, the names are 0 to {len(names) - 1}; "
                    "--names gives others"
                )
            values = read_numbers(parts[1:], where)
            corners = around(zip(values[::2], values[1::2], strict=True))
            if len(values) == 4:
                x, y, w, h = values
                corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            image.boxes.append(Box(names[parts[0]], corners, shape=shape))
        yield image


def read_csv(
    path: Path, columns: dict[str, str], names: dict[str, str], only_class: str | None
) -> Iterator[ForeignImage]:
    """
    Read a CSV with a row for each box, or for an image without boxes if its box is empty.

    A box is four columns of corners, or four of corner and size, or one of text such as
    `[x, y, w, h]`. If no coordinate in the file is above 1, all are taken as fractions.

    Args:
        path: of the csv, whose first row names the columns.
        columns: {what, as in COLUMNS: column}, where COLUMNS does not know the name.
        names: {class as the file has it: its name}; empty if they are the same.
        only_class: the class of all boxes if no column has it; None: one must.

    Raises:
        UserError: a column is missing, or something is not a number.
    """
    header, rows = read_rows(path)
    at, box = _find_columns(path, header, columns, only_class is None)
    images = {}
    for number, row in enumerate(rows, 2):
        where = f"{path}: row {number}"
        if len(row) < len(header):
            raise UserError(f"{where} has {len(row)} of {len(header)} values; complete it")
        name = row[at["image"]].strip()
        image = images.setdefault(name, ForeignImage([name], where))
        if {"width", "height"} <= at.keys() - set(box):
            size = read_numbers([row[at["width"]], row[at["height"]]], where)
            image.size = int(size[0]), int(size[1])
        cells = [row[at[column]].strip() for column in box]
        if {c.lower() for c in cells} <= {"nan", ""}:
            continue
        if len(cells) == 1:
            cells = cells[0].strip("[]() ").replace(",", " ").split()
        values = read_numbers(cells, where)
        if len(values) != 4:
            raise UserError(f"{where} has a box of {len(values)} numbers; it takes 4")
        if box[0] != "x1":
            values = (*values[:2], values[0] + values[2], values[1] + values[3])
        label = row[at["class"]].strip() if "class" in at else only_class
        is_crowd = "crowd" in at and row[at["crowd"]].strip().lower() in ("1", "true")
        image.boxes.append(Box(names.get(label, label), values, is_crowd))
    boxes = (box for image in images.values() for box in image.boxes)
    highest = max((v for box in boxes for v in box.corners), default=math.inf)
    for image in images.values():
        image.is_relative = highest <= 1
        yield image


def read_rows(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    """The first row of a csv, and the rest that is not empty; UserError if it has no rows."""

    def parse() -> Iterator[list[str]]:
        try:
            with reading(path), path.open(encoding="utf-8-sig", newline="") as f:
                yield from filter(None, csv.reader(f))
        except csv.Error as e:
            raise UserError(f"{path}: has no rows that can be read ({e})") from e

    rows = parse()
    if (header := next(rows, None)) is None:
        raise UserError(f"{path}: has no rows that can be read; it is empty")
    return header, rows


def _find_columns(
    path: Path, header: Sequence[str], columns: dict[str, str], needs_class: bool
) -> tuple[dict[str, int], list[str]]:
    """{what, as in COLUMNS: position} of the columns, and which of them make a box."""
    there = ", ".join(header)
    plain = [column.strip().lower().replace("_", "").replace(" ", "") for column in header]
    at = {}
    for what, known in COLUMNS.items():
        if what in columns:
            if columns[what] not in header:
                raise UserError(f"{path}: has no column {columns[what]!r}; it has {there}")
            at[what] = header.index(columns[what])
        elif found := [name for name in known if name in plain]:
            at[what] = plain.index(found[0])
    # the layout that the user names comes first
    layouts = sorted(BOX_LAYOUTS, key=lambda layout: -len(columns.keys() & set(layout)))
    box = next((layout for layout in layouts if at.keys() >= set(layout)), None)
    of_box = "x1=… y1=… x2=… y2=… names corners, x=… y=… w=… h=… corner and size, bbox=… text,"
    for what, is_lacking, remedy in (
        ("images", "image" not in at, "image=… names it, one of"),
        ("boxes", box is None, f"{of_box} out of"),
        ("classes", needs_class and "class" not in at, "class=… names it, one of"),
    ):
        if is_lacking:
            raise UserError(f"{path}: has no known column of {what}; --columns {remedy} {there}")
    return at, box


def read_names(path: Path) -> tuple[dict[str, str], int]:
    """
    Read class names: a yaml with `names`, a txt with a name per line, or a csv of `class,name`.

    Returns:
        {class as the annotations have it, such as "0": name}, and how many numbers of keypoints
        each object has, as a yaml for poses says.

    Raises:
        UserError: the file holds no names.
    """
    keypoint_values = 0
    if path.is_file() and path.stat().st_size > LARGEST_NAMES:
        raise UserError(f"{path}: is too large for class names; name their file with --names")
    text = read_text(path)
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            # all scalars as the text that they are: `no` is a name, not a truth value
            content = yaml.load(text, getattr(yaml, "CBaseLoader", yaml.BaseLoader))
            names, pose = content["names"], content.get("kpt_shape")
            if isinstance(pose, list) and all(type(n) is str and n.isdecimal() for n in pose):
                keypoint_values = math.prod(int(n[:9]) for n in pose)
            items = list(names.items() if isinstance(names, dict) else enumerate(names))
            if type(names) not in (dict, list) or not all(type(n) is str for _, n in items):
                raise TypeError("they are not a list of texts")
        elif path.suffix.lower() == ".csv":
            rows = csv.reader(io.StringIO(text, newline=""))
            items = [row[:2] for row in rows if len(row) > 1]
        else:
            items = enumerate(line.strip() for line in text.rstrip().splitlines())
    except (csv.Error, yaml.YAMLError, KeyError, RecursionError, TypeError) as e:
        reason = f"{e}".partition("\n")[0]
        raise UserError(f"{path}: has no list `names` of class names ({reason[:80]})") from e
    found = {str(key).strip(): str(name).strip() for key, name in items}
    if not found:
        raise UserError(f"{path}: holds no class names")
    return found, keypoint_values
