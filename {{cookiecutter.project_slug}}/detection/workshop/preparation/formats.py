"""
Recognises the format of annotations, and the splits that an export has.

The readers are this project's own. datumaro 1.13 and globox 2.9, which fit best of the converters,
both lose `iscrowd` on the way from COCO to COCO, and read neither Supervisely's projects of images
nor DICOM. datumaro wants older OpenCV and Pillow, and drops YOLO's images without a txt; globox
ignores EXIF and the turn of CVAT's boxes, and drops its polygons. None of this is said.
"""

import csv
import os
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from detection.utils.errors import UserError
from detection.utils.image_files import EXTENSIONS
from detection.workshop.preparation.coco_exports import read_coco_export
from detection.workshop.preparation.foreign_annotations import (
    NO_LABELS,
    read_csv,
    read_names,
    read_voc,
    read_yolo,
)
from detection.workshop.preparation.foreign_images import (
    EXPORT_COCO,
    ForeignImage,
    json_kind,
    read_json,
)
from detection.workshop.preparation.supervisely import OF_PROJECT, read_supervisely
from detection.workshop.preparation.tool_exports import (
    read_cvat,
    read_label_studio,
    read_labelme,
)
from detection.workshop.preparation.via import CSV_COLUMNS, read_via

FORMATS = {
    "coco": "COCO",
    "voc": "Pascal VOC",
    "yolo": "YOLO",
    "csv": "CSV",
    "labelme": "labelme",
    "label_studio": "Label Studio",
    "cvat": "CVAT",
    "via": "VGG Image Annotator",
    "supervisely": "Supervisely",
}
READERS = {
    "voc": read_voc,
    "labelme": read_labelme,
    "label_studio": read_label_studio,
    "cvat": read_cvat,
    "supervisely": read_supervisely,
}
OF_ONE_FILE = ("coco", "csv", "label_studio", "via")
ORDER = ("train", "val", "test")
SPLITS = {  # and with a year after it
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
OPEN_IMAGES = re.compile(
    r"(?:oidv\d+-)?(train|validation|test)-annotations-bbox\.csv", re.IGNORECASE
)
CLASS_DESCRIPTIONS = "*class-descriptions*.csv"  # Open Images'
NAME_FILES = "data.yaml data.yml dataset.yaml classes.txt obj.names _darknet.labels".split()
ENDINGS = (".csv", ".json", ".txt", ".xml")
WAYS_OUT = {
    "coco": "is a COCO json already: call it datasets/train.json, or set dataset.train.json_file, "
    "and run `make check`",
    "results": "holds predictions, not annotations: tools/make_submission.py and tools/report.py "
    "take them",
    "": "is a json that none of COCO, labelme, Label Studio, the VGG Image Annotator and "
    f"Supervisely writes; {EXPORT_COCO}",
}


@dataclass
class Part:
    """
    Annotations of one format, all or those of one split.

    Attributes:
        format: one of FORMATS.
        source: the file, or the folder of the files.
        images: the folder of the images, where the layout says so.
        split: train, val or test; empty if there are no splits.
        folder: what the split is called in the export.
    """

    format: str
    source: Path
    images: Path | None = None
    split: str = ""
    folder: str = ""


def find_parts(source: Path, format_: str | None = None) -> tuple[list[Part], list[str]]:
    """
    Find out what there is to convert.

    Folders called train, valid, val or test are splits if all annotations are in them; so are the
    csv of Open Images. YOLO's labels may be in folders of that name in them, or these in it.

    Args:
        source: a file or a folder.
        format_: one of FORMATS; None: it is recognised.

    Returns:
        The parts, and notes for the user.

    Raises:
        UserError: there is nothing that is known; the message says what to do.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    if source.is_file():
        kind = format_ or _format(source, {source.suffix.lower(): [source]})
        if kind == "coco" and not format_:
            raise UserError(f"{source}: {WAYS_OUT['coco']}")
        return [Part(kind, source)], []
    files = _annotation_files(source)
    if parts := [
        Part("csv", path, source, _split(found[1]), path.name)
        for path in files.get(".csv", ())
        if (found := OPEN_IMAGES.fullmatch(path.name))
    ]:
        return parts, []
    for base in (source, source / "labels"):
        folders = [f for f in _folders(base) if _split(f.name)]
        # beside `labels`, a list of the images may be
        beside = [] if base == source else [source]
        every = [p for paths in files.values() for p in paths if p.parent not in beside]
        inside = {f: [path for path in every if f in path.parents] for f in folders}
        if every and sum(map(len, inside.values())) == len(every):
            empty = [f.name for f in folders if not inside[f]]
            notes = [f"left out, folders without annotations: {', '.join(empty)}"] if empty else []
            parts = [_of_split(f, format_) for f in folders if inside[f]]
            return sorted(parts, key=lambda part: ORDER.index(part.split)), notes
    return [_part(source, files, format_)], []


def read_part(
    part: Part, classes: list[str], columns: dict[str, str], names_file: str | None = None
) -> tuple[list[ForeignImage], list[str]]:
    """
    Read what a part says of its images.

    Args:
        part: what to read.
        classes: the project's.
        columns: {what, as in COLUMNS: column} of a csv; of the VGG Image Annotator, `class` is the
            attribute that is the class.
        names_file: of the class names; None: YOLO's and Open Images' are looked for nearby.

    Returns:
        The images, and notes for the user.

    Raises:
        UserError: the readers'.
    """
    if part.format in READERS:
        return list(READERS[part.format](part.source)), []
    if part.format == "coco":
        return read_coco_export(part.source, classes)
    only_class = classes[0] if len(classes) == 1 else None
    if part.format == "via":
        return list(read_via(part.source, columns.get("class"), only_class)), []
    path = Path(names_file) if names_file else _names_file(part.source)
    names, keypoint_values = read_names(path) if path else ({}, 0)
    notes = [f"class names from {path}"] if path and not names_file else []
    if part.format == "csv":
        return list(read_csv(part.source, columns, names, only_class)), notes
    if not names:
        notes = ["no data.yaml or classes.txt: class numbers count detection/classes.py from 0"]
        names = {str(k): name for k, name in enumerate(classes)}
    return list(read_yolo(part.source, names, keypoint_values)), notes


def _names_file(source: Path) -> Path | None:
    """YOLO's names, in the folder or above it; Open Images', beside the csv."""
    if source.is_file():
        return next(iter(sorted(source.parent.glob(CLASS_DESCRIPTIONS))), None)
    folders = (source, *source.resolve().parents[:2])
    paths = (folder / name for folder in folders for name in NAME_FILES)
    return next((path for path in paths if path.is_file()), None)


def _split(name: str) -> str:
    return SPLITS.get(re.sub(r"\d{4}$", "", name.lower()), "")


def _of_split(folder: Path, format_: str | None) -> Part:
    labels = folder / "labels" if (folder / "labels").is_dir() else folder
    part = _part(labels, _annotation_files(labels), format_)
    part.split, part.folder = _split(folder.name), folder.name
    part.images = _with_images(folder) or part.images
    return part


def _part(folder: Path, files: dict[str, list[Path]], format_: str | None) -> Part:
    kind = format_ or _format(folder, files)
    source = folder
    if kind in OF_ONE_FILE:
        paths = files.get(".json" if kind != "csv" else ".csv") or files.get(".csv") or [folder]
        if len(paths) > 1:
            raise UserError(f"{folder}: is a folder; convert {paths[0]}")
        source = paths[0]
    images = _image_folder(folder) if kind == "yolo" else None
    return Part(kind, source, images or _with_images(folder))


def _format(source: Path, files: dict[str, list[Path]]) -> str:
    """The format of a file, or of the files in a folder."""
    if source.is_file() and files.get(".csv"):
        return _csv_kind(source)
    if paths := files.get(".xml"):
        if root_tag(paths[0]) == "annotations":
            return "cvat"
        if source.is_dir():
            return "voc"
    if files.get(".txt") and source.is_dir():
        return "yolo"
    if paths := files.get(".json"):
        kind = json_kind(read_json(paths[0])).replace("via3", "via")
        if kind in FORMATS:
            return kind
        raise UserError(f"{paths[0]}: {WAYS_OUT[kind]}")
    if paths := files.get(".csv"):
        return _csv_kind(paths[0])
    if files.get(".xml") or files.get(".txt"):
        raise UserError(f"{source}: is one file; convert the folder {source.parent}")
    raise UserError(f"{source}: holds no xml, txt, json or csv; unpack archives first")


def _csv_kind(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            header = next(csv.reader(f), [])
    except (OSError, ValueError, csv.Error):
        header = []  # its reader says what is wrong
    return "via" if set(header) >= CSV_COLUMNS else "csv"


def _annotation_files(folder: Path) -> dict[str, list[Path]]:
    """{ending: the files that may hold annotations}, in order."""
    files = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        name = path.name.lower()
        is_other = name in NO_LABELS or name in OF_PROJECT or path.match(CLASS_DESCRIPTIONS)
        if path.suffix.lower() in ENDINGS and not is_other:
            files[path.suffix.lower()].append(path)
    return files


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _with_images(folder: Path) -> Path | None:
    """The folder, if there is an image in it or below, behind links too."""
    names = (name for _, _, names in os.walk(folder, followlinks=True) for name in names)
    return folder if any(Path(name).suffix.lower() in EXTENSIONS for name in names) else None


def _image_folder(labels: Path) -> Path | None:
    """The folder where YOLO looks for images: the path with `images` in place of `labels`."""
    parts = labels.resolve().parts
    if "labels" not in parts:
        return None
    at = len(parts) - 1 - parts[::-1].index("labels")
    folder = Path(*parts[:at], "images", *parts[at + 1 :])
    return folder if folder.is_dir() else None


def root_tag(path: Path) -> str:
    """The tag of an xml file's root; empty if it has none."""
    try:
        return next(ET.iterparse(path, events=("start",)))[1].tag
    except (ET.ParseError, LookupError, OSError, StopIteration, ValueError):
        return ""
