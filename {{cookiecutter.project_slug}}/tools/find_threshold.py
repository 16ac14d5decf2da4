#!/usr/bin/env python
"""
Find the score below which detections are left out of the submission, for metrics that want one.

    python tools/find_threshold.py output/<run>/predictions/val.json datasets/val.json
    python tools/find_threshold.py fold0.json datasets/folds/0/val.json \\
        fold1.json datasets/folds/1/val.json

It is printed with what is lost beside it, and saved beside the first predictions, where
tools/make_submission.py finds it. Predictions of several folds together are out of fold.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.data.results import read_ground_truth_and_results, read_models
from detection.evaluation.competition_metrics import DEFAULT_METRIC, METRICS
from detection.evaluation.score_threshold import FILE, find_threshold, save_threshold
from detection.utils.cli import command_parser, tool
from detection.utils.files import refuse_to_overwrite
from tools.score_results import pairs_of, pool


@tool
def main(argv: list[str] | None = None) -> None:
    """Print and save the threshold."""
    parser = command_parser(__doc__)
    parser.add_argument("files", nargs="+", metavar="RESULTS JSON", help="pairs of files")
    parser.add_argument(
        "--metric", default=DEFAULT_METRIC, help=f"{', '.join(METRICS)} (default: %(default)s)"
    )
    parser.add_argument("--output", help=f"default: {FILE} beside the first predictions")
    args = parser.parse_args(argv)
    pairs = pairs_of(args.files)
    output = args.output or str(Path(args.files[0]).parent / FILE)
    refuse_to_overwrite(output, *args.files)
    models = [model for results_file, _ in pairs for model in read_models(results_file)]
    found = find_threshold(args.metric, *pool(pairs), models)
    if found is None:
        print(f"{args.metric} counts all detections: the submission keeps every box")
        return
    if len(pairs) > 1:  # a threshold that differs from fold to fold cannot be trusted
        for results_file, json_file in pairs:
            own = find_threshold(
                args.metric, *read_ground_truth_and_results(results_file, json_file)
            )
            print(f"{results_file}: {own.value:.4f} from {own.threshold:.4f}")
    save_threshold(found, output)
    print("\n".join([*found.describe(), output]))


if __name__ == "__main__":
    sys.exit(main())
