#!/usr/bin/env python
"""
Convert annotations of other formats to the COCO json that this project trains on.

    python tools/convert_dataset.py datasets/annotations --images datasets/images    # VOC: *.xml
    python tools/convert_dataset.py datasets/labels --images datasets/images         # YOLO: *.txt
    python tools/convert_dataset.py datasets/boxes.csv --images datasets/train --output …/all.json
    python tools/convert_dataset.py datasets/labelme --images datasets/images        # *.json
    python tools/convert_dataset.py datasets/export.json --images datasets/images    # Label Studio
    python tools/convert_dataset.py datasets/annotations.xml --images datasets/images    # CVAT

The classes are those of detection/classes.py. YOLO's class numbers are looked up in the data.yaml
or classes.txt beside the labels or above them. A csv's columns are known by their usual names
(image_id, xmin …, x y w h, bbox, label …); --columns names others. Images without boxes are kept;
polygons become the boxes around them. --skip leaves a class out.
"""

import argparse
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.checks.annotations import check_annotations
from detection.checks.report import format_findings
from detection.classes import CLASSES
from detection.data.image_roots import config_root, load_dataset
from detection.utils.cli import command_parser, tool
from detection.utils.errors import UserError
from detection.utils.files import write_json_files
from detection.utils.image_files import ImageFolder
from detection.utils.paths import DATASETS, in_project
from detection.workshop.preparation.conversion import to_coco
from detection.workshop.preparation.foreign_annotations import (
    COLUMNS,
    NO_LABELS,
    read_csv,
    read_names,
    read_voc,
    read_yolo,
)
from detection.workshop.preparation.tool_exports import (
    EXPORT_COCO,
    json_kind,
    read_cvat,
    read_json,
    read_label_studio,
    read_labelme,
)

NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")


WAYS_OUT = {
    "coco": "is a COCO json already: call it datasets/train.json, or set dataset.train.json_file, "
    "and run `make check`",
    "results": "holds predictions, not annotations: tools/make_submission.py and tools/report.py "
    "take them",
    "": f"is a json that neither COCO, labelme nor Label Studio writes; {EXPORT_COCO}",
}


def guess_format(source: Path) -> str:
    """
    Guess the format: voc, yolo, csv, labelme, label_studio or cvat; UserError if it is none of
    these; the message says what to do.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    by_ending = _first_files(source)
    if source.is_file() and by_ending.get(".csv"):
        return "csv"
    if path := by_ending.get(".xml"):
        if root_tag(path) == "annotations":
            return "cvat"
        if source.is_dir():
            return "voc"
    if by_ending.get(".txt") and source.is_dir():
        return "yolo"
    if path := by_ending.get(".json"):
        kind = json_kind(read_json(path))
        if kind == "labelme" or (kind == "label_studio" and path == source):
            return kind
        if kind == "label_studio":
            raise UserError(f"{source}: is a folder; convert {path}")
        raise UserError(f"{path}: {WAYS_OUT[kind]}")
    if path := by_ending.get(".csv"):
        raise UserError(f"{source}: is a folder; convert {path}")
    if by_ending.get(".xml") or by_ending.get(".txt"):
        raise UserError(f"{source}: is one file; convert the folder {source.parent}")
    raise UserError(f"{source}: holds no xml, txt, json or csv; unpack archives first")


def _first_files(source: Path) -> dict[str, Path]:
    """{ending: the file itself, or the first in the folder that may hold annotations}."""
    first = {}
    for path in source.rglob("*") if source.is_dir() else [source]:
        ending = path.suffix.lower()
        if ending in (".csv", ".json", ".txt", ".xml") and path.name.lower() not in NO_LABELS:
            first[ending] = min(path, first.get(ending, path))
    return first


def root_tag(path: Path) -> str:
    """The tag of an xml file's root; empty if it has none."""
    try:
        return next(ET.iterparse(path, events=("start",)))[1].tag
    except (ET.ParseError, LookupError, OSError, StopIteration, ValueError):
        return ""


def find_names(source: Path, names_file: str | None) -> dict[str, str]:
    """{class as the annotations have it: name}: of the file named, or one nearby; else empty."""
    if names_file:
        return read_names(Path(names_file))
    if source.is_dir():
        for folder in (source, *source.resolve().parents[:2]):
            for name in NAME_FILES:
                if (folder / name).is_file():
                    print(f"class names from {folder / name}")
                    return read_names(folder / name)
    return {}


def guess_image_dir(labels: Path) -> Path | None:
    """The folder where YOLO looks for images: the path with `images` in place of `labels`."""
    parts = labels.resolve().parts
    if "labels" not in parts:
        return None
    at = len(parts) - 1 - parts[::-1].index("labels")
    folder = Path(*parts[:at], "images", *parts[at + 1 :])
    return folder if folder.is_dir() else None


def run(args: argparse.Namespace) -> bool:
    """Convert, write and report; returns whether the result is fit for training."""
    source = Path(args.source)
    kind = args.format or guess_format(source)
    columns = dict(column.partition("=")[::2] for column in args.columns)
    if unknown := columns.keys() - COLUMNS.keys():
        raise UserError(f"--columns knows no {min(unknown)!r}; there are {', '.join(COLUMNS)}")
    if args.image_root is None:
        args.image_root = config_root(load_dataset(), args.output, "train")
    image_dir = args.images or (guess_image_dir(source) if kind == "yolo" else None)
    folder = ImageFolder(image_dir or args.image_root, args.image_root)
    readers = {
        "voc": read_voc,
        "labelme": read_labelme,
        "label_studio": read_label_studio,
        "cvat": read_cvat,
    }
    if kind in readers:
        images = readers[kind](source)
    elif kind == "csv":
        names = find_names(source, args.names)
        images = read_csv(source, columns, names, CLASSES[0] if len(CLASSES) == 1 else None)
    else:
        names = find_names(source, args.names)
        if not names:
            print("no data.yaml or classes.txt: class numbers count detection/classes.py from 0")
            names = {str(k): name for k, name in enumerate(CLASSES)}
        images = read_yolo(source, names)
    # in YOLO's format, an image without a file is one without objects
    add_unlisted = args.add_unlisted or (kind == "yolo" and image_dir is not None)
    coco, notes = to_coco(
        images, folder, CLASSES, args.first_pixel, args.skip_missing, add_unlisted, args.skip
    )
    if not coco["images"]:
        raise UserError(f"{source}: holds no annotations of images in {folder.folder}")
    write_json_files({Path(args.output): coco}, force=args.force)
    for note in notes:
        print(f"note     {note}")
    counts = f"{len(coco['images'])} images, {len(coco['annotations'])} annotations"
    print(f"{args.output}: {counts}")
    if findings := check_annotations(coco, args.image_root):
        print(format_findings(findings))
    return not any(finding.is_error for finding in findings)


@tool
def main(argv: list[str] | None = None) -> int:
    """Convert; 1 if the result has errors, else 0."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "source", help="a folder of xml, txt or json files, or one csv, json or xml"
    )
    parser.add_argument("--images", help="the folder of the images (default: --image-root)")
    parser.add_argument(
        "--image-root",
        help="what file_name will be relative to (default: image_root in the config's dataset)",
    )
    parser.add_argument(
        "--output",
        default=in_project(f"{DATASETS}/train.json"),
        help="the json to write (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=("voc", "yolo", "csv", "labelme", "label_studio", "cvat"),
        help="default: guessed from the files",
    )
    parser.add_argument("--names", metavar="FILE", help="class names: a yaml, txt or csv file")
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="WHAT=COLUMN",
        help=f"of a csv; WHAT is one of {', '.join(COLUMNS)}",
    )
    parser.add_argument(
        "--first-pixel",
        type=int,
        choices=(0, 1),
        default=0,
        help="1: corners are the numbers, from 1, of a box's first and last pixel, as in VOC's own "
        "data, but not in LabelImg's (default: 0)",
    )
    parser.add_argument(
        "--add-unlisted", action="store_true", help="images without annotations too"
    )
    parser.add_argument("--skip-missing", action="store_true", help="leave out missing images")
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out the boxes of this class; may be repeated",
    )
    parser.add_argument("--force", action="store_true", help="replace another output file")
    args = parser.parse_args(argv)
    return 0 if run(args) else 1


if __name__ == "__main__":
    sys.exit(main())
