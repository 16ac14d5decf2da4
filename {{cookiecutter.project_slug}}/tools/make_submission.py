#!/usr/bin/env python
"""
Turn predictions into a submission.

    python predict.py --config-file configs/… datasets/test.json --output test.json
    python tools/make_submission.py test.json datasets/test.json

The formats are in detection/submission.py. By default every box goes in, since mAP counts those
with low scores too.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.errors import UserError
from detection.submission import DEFAULT_FORMAT, FORMATS, write_submission


def main(argv: list[str] | None = None) -> None:
    """Write the file and say what is in it; exit with status 2 and one line if that cannot be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", help="predictions in COCO's results format")
    parser.add_argument("json_file", help="COCO json of the images to submit")
    parser.add_argument("--output", help="default: submission.csv, for coco submission.json")
    parser.add_argument(
        "--format", default=DEFAULT_FORMAT, help=f"{', '.join(FORMATS)} (default: %(default)s)"
    )
    parser.add_argument(
        "--min-score", type=float, default=-math.inf, help="leave out boxes below (default: none)"
    )
    parser.add_argument(
        "--max-per-image", type=int, metavar="N", help="the N best boxes (default: all)"
    )
    args = parser.parse_args(argv)
    try:
        print(
            write_submission(
                args.results,
                args.json_file,
                args.output,
                args.format,
                min_score=args.min_score,
                max_per_image=args.max_per_image,
            )
        )
    except UserError as e:
        parser.exit(2, f"{parser.prog}: {e}\n")


if __name__ == "__main__":
    main()
