#!/usr/bin/env python
"""
Fuse the predictions of several models, and score the ensemble beside its members.

    python tools/ensemble.py datasets/val.json \\
        r50=output/faster_rcnn_R_50_FPN/predictions/val.json \\
        cascade=output/cascade_rcnn_R_50_FPN/predictions/val.json --weight cascade=2

Score on validation data first: an ensemble can be worse than its best member. Then fuse the
predictions on the test images in the same way.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from tabulate import tabulate

from detection.data.coco import category_id_map, read_coco, validate, write_json
from detection.data.results import check_ground_truth, read_models, read_results, write_images
from detection.evaluation.average_precision import average_precision
from detection.evaluation.competition_metrics import DEFAULT_METRIC, METRICS, find_metric
from detection.evaluation.intervals import difference, resample
from detection.inference.fusion import METHODS, fuse_results
from detection.utils.cli import command_parser, named_path, positive_int, tool, unit_interval
from detection.utils.errors import UserError
from detection.utils.files import refuse_to_overwrite
from detection.utils.progress import progress


@tool
def main(argv: list[str] | None = None) -> None:
    """Write the fused results, and print their scores."""
    parser = command_parser(__doc__)
    parser.add_argument("json_file", help="COCO json of the images; scored if it has annotations")
    parser.add_argument("members", nargs="+", metavar="[NAME=]RESULTS", help="COCO results")
    parser.add_argument("--output", default="output/ensemble.json", help="default: %(default)s")
    parser.add_argument("--method", default="wbf", choices=METHODS, help="default: %(default)s")
    parser.add_argument(
        "--iou",
        type=unit_interval,
        default=0.55,
        help="boxes of a class that overlap more are one object (default: %(default)s)",
    )
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="NAME=FACTOR",
        help="of a member's scores (default: 1)",
    )
    parser.add_argument(
        "--max-per-image",
        type=positive_int,
        default=100,
        help="the best boxes kept (default: %(default)s)",
    )
    parser.add_argument(
        "--metric",
        default=DEFAULT_METRIC,
        help=f"to compare by: {', '.join(METRICS)} (default: %(default)s)",
    )
    parser.add_argument("--processes", type=positive_int, help="default: up to all processors")
    args = parser.parse_args(argv)
    fuse_and_score(args)


def fuse_and_score(args: argparse.Namespace) -> None:
    """Fuse, write and score."""
    find_metric(args.metric)
    coco = read_coco(args.json_file)
    category_ids = category_id_map(coco, args.json_file)
    validate(coco, args.json_file)
    is_scored = bool(coco.get("annotations"))
    if is_scored:
        check_ground_truth(coco, args.json_file)
    members = {}
    refuse_to_overwrite(args.output, args.json_file)
    for name, path in map(named_path, args.members):
        refuse_to_overwrite(args.output, path)
        if name in members:
            raise UserError(f"two members are called {name}; write NAME={path}")
        members[name] = read_results(path, args.json_file, coco, category_ids)
        if not members[name]:
            raise UserError(f"{path}: has no detections; leave it out, or predict again")

    weights = read_weights(args.weight, members)
    fused = fuse_results(
        coco["images"],
        list(members.values()),
        partial(progress, total=len(coco["images"]), title="fusing images"),
        args.processes,
        method=args.method,
        iou_threshold=args.iou,
        weights=[weights[name] for name in members],
        max_boxes=args.max_per_image,
    )
    models = [model for _, path in map(named_path, args.members) for model in read_models(path)]
    write_images(coco, args.output, models)
    write_json(fused, args.output)
    print(f"{args.output}: {args.method} of {len(members)}, {len(fused)} boxes")
    if is_scored:
        print(table(coco, members, fused, args.metric))
    else:
        print(f"{args.json_file} has no annotations: nothing is scored")


def read_weights(texts: list[str], names: dict) -> dict[str, float]:
    """
    {name: factor} of all members.

    Raises:
        UserError: a factor is not a positive number, or no member has that name.
    """
    weights = dict.fromkeys(names, 1.0)
    for text in texts:
        name, _, factor = text.rpartition("=")
        if name not in weights:
            raise UserError(f"--weight {text}: the members are {', '.join(names)}")
        try:
            weights[name] = float(factor)
        except ValueError:
            weights[name] = -1
        if not 0 < weights[name] < float("inf"):
            raise UserError(f"--weight {text}: the factor has to be a number over 0")
    return weights


def table(coco: dict, members: dict[str, list[dict]], fused: list[dict], metric: str) -> str:
    """The scores of all, and what the ensemble gains over its best member, with its interval."""
    also = ("AP", "AP50", "AP75")
    scored, rows = {}, []
    for name, results in [*members.items(), ("ensemble", fused)]:
        scored[name] = resample(metric, coco, results)
        scores = average_precision(coco, results)
        rows.append([name, scored[name].value, *map(scores.get, also)])
    text = tabulate(rows, ["", metric, *also], floatfmt=("", ".4f", *[".2f"] * 3), missingval="-")
    best = max(members, key=lambda name: scored[name].value)
    gain = difference(scored[best], scored["ensemble"])
    verdict = "helps" if gain.value > 0 else "hurts" if gain.value < 0 else "changes nothing"
    return f"{text}\n{metric} against {best} alone: {gain}: this ensemble {verdict}"


if __name__ == "__main__":
    sys.exit(main())
