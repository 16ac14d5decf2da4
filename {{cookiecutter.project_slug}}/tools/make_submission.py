#!/usr/bin/env python
"""
Turn predictions into a submission.

    python predict.py --config-file configs/… datasets/test.json --output test.json
    python tools/make_submission.py test.json datasets/test.json

The formats are in detection/workshop/submission/formats.py. By default every box goes in, since
mAP counts those with low scores too. The file is read back and checked, and scored where the
json has annotations; tools/check_submission.py does that for any file.
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.utils.cli import command_parser, tool, unit_interval
from detection.utils.errors import UserError
from detection.utils.files import keep_inputs
from detection.workshop.submission.checks import check_submission
from detection.workshop.submission.formats import DEFAULT_FORMAT, FORMATS
from detection.workshop.submission.writing import find_format, write_submission


@tool
def main(argv: list[str] | None = None) -> int:
    """Write the file, say what is in it and check it; 1 if something is wrong with it, else 0."""
    parser = command_parser(__doc__)
    parser.add_argument("results", help="predictions in COCO's results format")
    parser.add_argument(
        "json_file",
        help="COCO json of the images to submit; of a folder, predict.py's ….images.json",
    )
    parser.add_argument("--output", help="default: submission.csv, for coco submission.json")
    parser.add_argument(
        "--format", default=DEFAULT_FORMAT, help=f"{', '.join(FORMATS)} (default: %(default)s)"
    )
    parser.add_argument(
        "--min-score",
        type=unit_interval,
        default=-math.inf,
        help="leave out boxes below (default: none)",
    )
    parser.add_argument(
        "--max-per-image", type=int, metavar="N", help="the N best boxes (default: all)"
    )
    parser.add_argument("--sample", help="the competition's sample submission, to compare with")
    args = parser.parse_args(argv)
    output = args.output or f"submission{find_format(args.format).suffix}"
    keep_inputs(output, args.results, args.json_file, args.sample)
    if args.sample is not None and not Path(args.sample).is_file():
        raise UserError(f"{args.sample}: no such file; --sample takes the competition's sample")
    print(
        write_submission(
            args.results,
            args.json_file,
            output,
            args.format,
            min_score=args.min_score,
            max_per_image=args.max_per_image,
        )
    )
    lines, is_sound = check_submission(output, args.json_file, args.format, args.sample)
    print("\n".join(lines))
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
