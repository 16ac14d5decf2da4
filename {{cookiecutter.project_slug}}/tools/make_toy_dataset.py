#!/usr/bin/env python
"""
Draw a small COCO data set with this project's class names, to try everything out on.

    python tools/make_toy_dataset.py                     # datasets/toy: 400 train, 100 val
    python tools/make_toy_dataset.py --output datasets/tiny --train 8 --val 8 --size 128

The same arguments give the same files, byte for byte.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.data.toy import make_toy_dataset
from detection.utils.cli import command_parser, non_negative_int, positive_int, tool
from detection.utils.errors import UserError


@tool
def main(argv: list[str] | None = None) -> None:
    """Draw the data, and say how much there is."""
    parser = command_parser(__doc__)
    parser.add_argument("--output", default="datasets/toy", help="folder (default: %(default)s)")
    for option, kind, default, what in (
        ("--train", positive_int, 400, "training images"),
        ("--val", positive_int, 100, "validation images"),
        ("--size", int, 256, "side of the images in pixels"),
        ("--seed", non_negative_int, 0, "another one draws other images"),
    ):
        text = f"{what} (default: %(default)s)"
        parser.add_argument(option, type=kind, default=default, metavar="N", help=text)
    args = parser.parse_args(argv)
    if not 64 <= args.size <= 4096:
        raise UserError(f"--size must be between 64 and 4096, not {args.size}")
    made = make_toy_dataset(Path(args.output), args.train, args.val, args.size, args.seed)
    for split, coco in made.items():
        num_images, num_objects = len(coco["images"]), len(coco["annotations"])
        print(f"{Path(args.output) / split}.json: {num_images} images, {num_objects} objects")


if __name__ == "__main__":
    sys.exit(main())
