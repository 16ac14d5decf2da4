#!/usr/bin/env python
"""
Convert annotations of other formats to the COCO json that this project trains on, or back to YOLO.

    python tools/convert_dataset.py datasets/export      # a folder with train/, valid/ and test/
    python tools/convert_dataset.py datasets/annotations --images datasets/images    # VOC: *.xml
    python tools/convert_dataset.py datasets/labels --images datasets/images         # YOLO: *.txt
    python tools/convert_dataset.py datasets/boxes.csv --images datasets/train --output …/all.json
    python tools/convert_dataset.py datasets/export.json --images datasets/images    # or xml
    python tools/convert_dataset.py datasets/train.json datasets/val.json --to yolo

Known are Pascal VOC, YOLO, CSV (Open Images' too), labelme, Label Studio (JSON), CVAT (CVAT for
images), the VGG Image Annotator (json, csv), Supervisely (a project's folder) and COCO in an
export, such as Roboflow's. The format is recognised. Of folders called train, valid and test each
becomes a json, train.json, val.json and test.json; --join makes one of train and valid.

The classes are those of detection/classes.py. YOLO's class numbers are looked up in the data.yaml
or classes.txt beside the labels or above them. A csv's columns are known by their usual names
(image_id, xmin …, x y w h, bbox, label …); --columns names others. Images without boxes are kept;
of polygons and turned boxes the upright boxes around them are taken. --skip leaves a class out.
"""

import argparse
import sys
from collections import defaultdict
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
from detection.workshop.preparation.conversion import choose_boxes, join, to_coco
from detection.workshop.preparation.foreign_annotations import COLUMNS
from detection.workshop.preparation.formats import FORMATS, Part, find_parts, read_part
from detection.workshop.preparation.yolo_export import write_yolo


def recognised(parts: list[Part]) -> str:
    """What was recognised, in one line."""
    kinds = " and ".join(dict.fromkeys(FORMATS[part.format] for part in parts))
    splits = [
        part.folder if part.folder == part.split else f"{part.folder} as {part.split}"
        for part in parts
        if part.split
    ]
    return f"recognised as {kinds}" + (f", split into {', '.join(splits)}" if splits else "")


def find_outputs(parts: list[Part], output: str | None, is_joined: bool) -> list[Path]:
    """The json that each part goes to; several may go to one."""
    splits = [part.split for part in parts]
    if is_joined:
        splits = ["train" if split == "val" else split for split in splits]
    main = "train" if "train" in splits else splits[0]
    path = Path(output or in_project(f"{DATASETS}/{main or 'train'}.json"))
    paths = [path if s == main else path.with_name(f"{s}.json") for s in splits]
    if len(set(paths)) < len(set(splits)):
        raise UserError(
            f"{path}: is the name of another split's file; --output names the training's"
        )
    return paths


def image_folder(part: Part, images: str | None, root: str) -> ImageFolder:
    """Where a part's images are: in --images, where its layout has them, or in the root."""
    if images and part.split:
        names = (part.folder, part.split)
        inside = next((p for name in names if (p := Path(images, name)).is_dir()), None)
        images = inside or images
    return ImageFolder(images or part.images or root, root)


def to_coco_files(args: argparse.Namespace) -> bool:
    """Convert, write and report; returns whether the results are fit for training."""
    columns = dict(column.partition("=")[::2] for column in args.columns)
    if unknown := columns.keys() - COLUMNS.keys():
        raise UserError(f"--columns knows no {min(unknown)!r}; there are {', '.join(COLUMNS)}")
    if len(args.source) > 1:
        raise UserError(f"{args.source[1]}: only --to yolo takes several; convert one by one")
    (source,) = map(Path, args.source)
    parts, notes = find_parts(source, args.format)
    if not args.format:
        print(f"{source}: {recognised(parts)}")
    outputs = find_outputs(parts, args.output, args.join)
    read = []
    for part in parts:
        images, new = read_part(part, CLASSES, columns, args.names)
        read.append(images)
        notes += new
    every = [image for images in read for image in images]
    notes += choose_boxes(every, CLASSES, args.skip, args.skip_others, args.skip_points)
    roots, converted = {}, defaultdict(list)
    for part, output, images in zip(parts, outputs, read, strict=True):
        split = "val" if part.split in ("val", "test") and not args.join else "train"
        root = roots[output] = args.image_root or config_root(load_dataset(), str(output), split)
        folder = image_folder(part, args.images, root)
        # in YOLO's format, an image without a file is one without objects
        has_folder = (args.images or part.images) is not None
        add_unlisted = args.add_unlisted or (part.format == "yolo" and has_folder)
        coco, new = to_coco(
            images, folder, CLASSES, args.first_pixel, args.skip_missing, add_unlisted
        )
        if not coco["images"]:
            raise UserError(f"{part.source}: holds no annotations of images in {folder.folder}")
        converted[output].append(coco)
        notes += [f"{part.folder}: {note}" if part.folder else note for note in new]
    results = {output: join(cocos) for output, cocos in converted.items()}
    write_json_files(results, force=args.force)
    for note in dict.fromkeys(notes):
        print(f"note     {note}")
    return report(results, roots)


def report(results: dict[Path, dict], roots: dict[Path, str]) -> bool:
    """Print what was written, and what is wrong with it; returns whether no errors are."""
    is_sound = True
    for path, coco in results.items():
        print(f"{path}: {len(coco['images'])} images, {len(coco['annotations'])} annotations")
        if findings := check_annotations(coco, roots[path]):
            print(format_findings(findings))
            is_sound = is_sound and not any(finding.is_error for finding in findings)
    return is_sound


def to_yolo_folder(args: argparse.Namespace) -> bool:
    """Write YOLO's layout of COCO files; returns True."""
    dataset = load_dataset()
    roots = {path: args.image_root or config_root(dataset, path) for path in args.source}
    output = Path(args.output or in_project(f"{DATASETS}/yolo"))
    for note in write_yolo(roots, output, CLASSES, args.skip_missing):
        print(note)
    return True


@tool
def main(argv: list[str] | None = None) -> int:
    """Convert; 1 if the result has errors, else 0."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "source", nargs="+", help="a folder, or one csv, json or xml; of --to yolo, COCO files"
    )
    parser.add_argument(
        "--to", choices=("coco", "yolo"), default="coco", help="what to write (default: coco)"
    )
    parser.add_argument(
        "--images",
        help="the folder of the images, or of the splits' (default: the source if it has images, "
        "YOLO's images beside labels, else --image-root)",
    )
    parser.add_argument(
        "--image-root",
        help="what file_name will be relative to (default: image_root in the config's dataset)",
    )
    parser.add_argument(
        "--output",
        help="the json to write, other splits beside it, or YOLO's folder (default: "
        f"{in_project(DATASETS)}/train.json, …/yolo)",
    )
    parser.add_argument("--join", action="store_true", help="train and valid become one json")
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        help="default: recognised by the files",
    )
    parser.add_argument("--names", metavar="FILE", help="class names: a yaml, txt or csv file")
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="WHAT=COLUMN",
        help=f"of a csv; WHAT is one of {', '.join(COLUMNS)}; class=… is also the attribute that "
        "is the class in the VGG Image Annotator",
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
    parser.add_argument(
        "--skip-others",
        action="store_true",
        help="leave out the boxes of all classes that are not in detection/classes.py",
    )
    parser.add_argument(
        "--skip-points",
        action="store_true",
        help="leave out shapes without an area: points, lines, keypoints",
    )
    parser.add_argument("--force", action="store_true", help="replace another output file")
    args = parser.parse_args(argv)
    return 0 if (to_yolo_folder if args.to == "yolo" else to_coco_files)(args) else 1


if __name__ == "__main__":
    sys.exit(main())
