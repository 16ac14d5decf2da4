#!/usr/bin/env python
"""
Score predictions as the competition does; those of several folds count as one, out of fold.

    python tools/score_results.py predictions.json datasets/val.json
    python tools/score_results.py fold0.json datasets/folds/0/val.json \\
        fold1.json datasets/folds/1/val.json

With --wandb the score goes to W&B, as a run in the group of the folds' trainings.
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.data.results import read_ground_truth_and_results
from detection.evaluation.average_precision import average_precision, results_table
from detection.evaluation.competition_metrics import DEFAULT_METRIC, METRICS, find_metric
from detection.evaluation.metric import describe
from detection.utils.cli import command_parser, tool
from detection.utils.errors import UserError


@tool
def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = command_parser(__doc__)
    parser.add_argument("files", nargs="+", metavar="RESULTS JSON", help="pairs of files")
    parser.add_argument(
        "--metric", default=DEFAULT_METRIC, help=f"{', '.join(METRICS)} (default: %(default)s)"
    )
    parser.add_argument(
        "--wandb", action="store_true", help="send it too; the results are in <run>/predictions"
    )
    args = parser.parse_args(argv)
    metric = find_metric(args.metric)
    pairs = pairs_of(args.files)
    if args.wandb:
        from detection.writers.wandb_folds import FoldsRun  # slow to import

        run = FoldsRun(pairs)
    coco, results = pool(pairs)
    averages, score = average_precision(coco, results), metric.score(coco, results)
    print(results_table(averages, coco))
    print(f"competition/{args.metric}: {describe(score)}")
    if args.wandb:
        logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
        for line in run.send(args.metric, score, coco, results, averages):
            print(line)


def pairs_of(files: list[str]) -> list[tuple[str, str]]:
    """(results file, json file) of arguments that take turns; UserError if one is missing."""
    if len(files) % 2:
        raise UserError("give pairs: COCO results, and the json that they are on")
    return list(zip(files[::2], files[1::2], strict=True))


def pool(pairs: list[tuple[str, str]]) -> tuple[dict, list[dict]]:
    """
    Several (results file, json file) as one COCO json and one list of results; UserError if a file
    is malformed, or a json has other categories than the first, or an image of one before it.
    """
    whole = {"images": [], "annotations": [], "categories": None}
    all_results, seen = [], {}
    for results_file, json_file in pairs:
        coco, results = read_ground_truth_and_results(results_file, json_file)
        names = {c["id"]: c["name"] for c in coco["categories"]}
        if whole["categories"] not in (None, names):
            raise UserError(f"{json_file}: numbers its categories otherwise than {pairs[0][1]}")
        whole["categories"] = names
        for image in coco["images"]:
            if image["id"] in seen:
                other = seen[image["id"]]
                raise UserError(f"{json_file}: its image {image['id']} is in {other} too")
        seen |= dict.fromkeys((image["id"] for image in coco["images"]), json_file)
        whole["images"] += coco["images"]
        whole["annotations"] += coco["annotations"]
        all_results += results
    whole["categories"] = coco["categories"]
    return whole, all_results


if __name__ == "__main__":
    sys.exit(main())
