#!/usr/bin/env python
"""
Turn predictions into a submission.

    python predict.py --config-file configs/… datasets/test.json --output test.json
    python tools/make_submission.py test.json datasets/test.json

The formats are in detection/workshop/submission/formats.py. Every box goes in where mAP counts
those with low scores too; for other metrics only those from the threshold on that
tools/find_threshold.py has saved beside the predictions. What was written is read back and
checked, and scored where the json has annotations; tools/check_submission.py does that for any
file.
"""

import math
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.data.results import read_models
from detection.evaluation.competition_metrics import METRICS
from detection.evaluation.score_threshold import FILE, read_threshold
from detection.utils.cli import command_parser, tool, unit_interval
from detection.utils.errors import UserError
from detection.utils.files import refuse_to_overwrite
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
        help=f"leave out boxes below (default: as {FILE} beside the results has it, or none)",
    )
    parser.add_argument(
        "--max-per-image", type=int, metavar="N", help="the N best boxes (default: all)"
    )
    parser.add_argument("--sample", help="the competition's sample submission, to compare with")
    args = parser.parse_args(argv)
    output = args.output or f"submission{find_format(args.format).suffix}"
    refuse_to_overwrite(output, args.results, args.json_file, args.sample)
    if args.sample is not None and not Path(args.sample).is_file():
        raise UserError(f"{args.sample}: no such file; --sample takes the competition's sample")
    min_score, note = choose_min_score(args)
    print(
        write_submission(
            args.results,
            args.json_file,
            output,
            args.format,
            min_score=min_score,
            max_per_image=args.max_per_image,
        )
    )
    if note:
        print(note)
    lines, is_sound = check_submission(output, args.json_file, args.format, args.sample)
    print("\n".join(lines))
    return 0 if is_sound else 1


def choose_min_score(args: Namespace) -> tuple[float, str]:
    """
    The score from which boxes go in, and a sentence on it; UserError if the saved threshold is of
    another metric, or of other predictions.
    """
    metric = find_format(args.format).metric
    if args.min_score is not None or not METRICS[metric].needs_threshold:
        return -math.inf if args.min_score is None else args.min_score, ""
    file = Path(args.results).parent / FILE
    if not file.is_file():
        every = f"every box counts in {metric}, and low scores cost"
        return -math.inf, f"warning: {every}: `make threshold` finds the best score to start from"
    threshold = read_threshold(file, metric, read_models(args.results))
    return threshold, f"boxes from a score of {threshold:.4f} on, as {file} says"


if __name__ == "__main__":
    sys.exit(main())
