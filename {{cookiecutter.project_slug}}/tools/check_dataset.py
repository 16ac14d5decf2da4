#!/usr/bin/env python
"""
Say what is odd in the annotation files, before training says it less clearly.

    python tools/check_dataset.py                         # datasets/{train,val}.json
    python tools/check_dataset.py datasets/test.json --image-root datasets
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.annotation_checks import check_annotations
from detection.annotations import category_id_map, read_coco
from detection.errors import UserError
from detection.paths import DATASETS, in_project


def main() -> int:
    """Print the findings; 1 if any of them stops training, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "json_files",
        nargs="*",
        default=[in_project(f"{DATASETS}/{split}.json") for split in ("train", "val")],
        help="COCO annotations (default: %(default)s)",
    )
    parser.add_argument(
        "--image-root",
        default=in_project(DATASETS),
        help="what the file_name of each image is relative to (default: %(default)s)",
    )
    args = parser.parse_args()

    has_errors = False
    for json_file in args.json_files:
        try:
            coco = read_coco(json_file)
            category_id_map(coco, json_file)
        except UserError as e:
            print(f"error    {e}")
            has_errors = True
            continue
        counts = f"{len(coco['images'])} images, {len(coco.get('annotations') or [])} annotations"
        print(f"{json_file}: {counts}")
        for finding in check_annotations(coco, args.image_root):
            print(f"{'error  ' if finding.is_error else 'warning'}  {finding.message}")
            has_errors |= finding.is_error
    return int(has_errors)


if __name__ == "__main__":
    sys.exit(main())
