#!/usr/bin/env python
"""
Check a submission before uploading it, and score it where the json has annotations.

    python tools/check_submission.py submission.csv datasets/test.json --sample sample.csv
    python tools/check_submission.py submission.csv datasets/val.json

Columns, images, numbers, labels and boxes are compared with the json. If it has annotations, the
AP of what the file says is printed: it is that of the results it was made from.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.utils.cli import command_parser, tool
from detection.workshop.submission.checks import check_submission
from detection.workshop.submission.formats import DEFAULT_FORMAT, FORMATS


@tool
def main(argv: list[str] | None = None) -> int:
    """Print what was found; 1 if something is wrong, else 0."""
    parser = command_parser(__doc__)
    parser.add_argument("submission", help="the file to be uploaded")
    parser.add_argument("json_file", help="COCO json of its images")
    parser.add_argument(
        "--format", default=DEFAULT_FORMAT, help=f"{', '.join(FORMATS)} (default: %(default)s)"
    )
    parser.add_argument("--sample", help="the competition's sample submission, to compare with")
    parser.add_argument(
        "--score", action="store_true", help="refuse a json without annotations to score on"
    )
    args = parser.parse_args(argv)
    lines, is_sound = check_submission(
        args.submission, args.json_file, args.format, args.sample, args.score
    )
    print("\n".join(lines))
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
