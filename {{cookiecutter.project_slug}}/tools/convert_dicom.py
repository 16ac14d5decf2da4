#!/usr/bin/env python
"""
Convert a folder of DICOM files, as of the RSNA's or VinBigData's competitions, to PNGs.

    python tools/convert_dicom.py datasets/stage_2_train_images datasets/images
    python tools/convert_dataset.py datasets/stage_2_train_labels.csv --images datasets/images

Grey levels are those that a radiologist sees: rescaled, in the file's window, and inverted where
low values are white. A file of more than 8 bits without a window goes from its lowest value to its
highest. Subfolders are kept. An interrupted run continues with the files that are missing. The
reader, pydicom, is optional: `uv pip install --group dicom`.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.utils.cli import command_parser, tool


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser(__doc__)
    parser.add_argument("source", type=Path, help="the folder of the DICOM files")
    parser.add_argument("output", type=Path, help="the folder of the PNGs")
    parser.add_argument(
        "--bits",
        type=int,
        choices=(8, 16),
        default=8,
        help="of grey levels; training reads 16 as 8, other programs may not (default: 8)",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out files that cannot be converted"
    )
    parser.add_argument("--force", action="store_true", help="write PNGs that are there again")
    return parser.parse_args(argv)


@tool
def main(argv: list[str] | None = None) -> None:
    """Convert, and say what was done."""
    args = parse_args(argv)
    from detection.workshop.preparation.dicom_folders import convert, find_files

    files = find_files(args.source)
    for line in convert(files, args.output, args.bits, args.skip_bad, args.force):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
