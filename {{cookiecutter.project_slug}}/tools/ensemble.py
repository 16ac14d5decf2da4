#!/usr/bin/env python
"""
Fuse the predictions of several models, and score the ensemble beside its members.

    python tools/ensemble.py datasets/val.json \\
        r50=output/faster_rcnn_R_50_FPN/predictions/val.json \\
        cascade=output/cascade_rcnn_R_50_FPN/predictions/val.json --weight cascade=2

Score on validation data first: an ensemble can be worse than its best member. Then fuse the
predictions on the test images in the same way.

Scores of different kinds of models mean different things: a Faster R-CNN's 0.9 may be as good as a
DETR's 0.6. `--calibrate` replaces them by the probability that such a box is correct, shows what
that gains, and writes it beside the output; `--calibration` applies it to the test images:

    python tools/ensemble.py datasets/val.json rcnn=… detr=… --calibrate
    python tools/ensemble.py datasets/test.json rcnn=… detr=… \\
        --calibration output/ensemble.calibration.json --output output/test.json
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
from detection.evaluation.score_calibration import (
    calibrate,
    read_calibrations,
    save_calibrations,
)
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
    scores = parser.add_mutually_exclusive_group()
    scores.add_argument(
        "--calibrate",
        action="store_true",
        help="turn scores into probabilities by the annotations; writes OUTPUT.calibration.json",
    )
    scores.add_argument("--calibration", metavar="FILE", help="apply one that --calibrate wrote")
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
    elif args.calibrate:
        raise UserError(
            f"{args.json_file}: has no annotations to calibrate by; do that on validation images, "
            "and give --calibration FILE here"
        )
    members, models = {}, {}
    curves = Path(args.output).with_suffix(".calibration.json") if args.calibrate else None
    for output in filter(None, (args.output, curves)):
        refuse_to_overwrite(output, args.json_file, args.calibration)
    for name, path in map(named_path, args.members):
        refuse_to_overwrite(args.output, path)
        if name in members:
            raise UserError(f"two members are called {name}; write NAME={path}")
        members[name] = read_results(path, args.json_file, coco, category_ids)
        models[name] = read_models(path)
        if not members[name]:
            raise UserError(f"{path}: has no detections; leave it out, or predict again")

    weights = read_weights(args.weight, members)

    def fused(members: dict[str, list[dict]], title: str) -> list[dict]:
        return fuse_results(
            coco["images"],
            list(members.values()),
            partial(progress, total=len(coco["images"]), title=title),
            args.processes,
            method=args.method,
            iou_threshold=args.iou,
            weights=[weights[name] for name in members],
            max_boxes=args.max_per_image,
        )

    calibrated = calibrations = None
    if args.calibrate:
        pairs = {name: calibrate(coco, members[name], name, models[name]) for name in members}
        calibrations = {name: calibration for name, (calibration, _) in pairs.items()}
        calibrated = {name: results for name, (_, results) in pairs.items()}
    elif args.calibration:
        calibrations = read_calibrations(args.calibration, models)
        calibrated = {name: calibrations[name].apply(members[name]) for name in members}
    ensembles = {}
    if is_scored or not calibrated:
        ensembles["ensemble"] = fused(members, "fusing images")
    if calibrated:
        ensembles["calibrated"] = fused(calibrated, "fusing calibrated scores")
    results = ensembles["calibrated" if calibrated else "ensemble"]
    write_images(coco, args.output, [model for names in models.values() for model in names])
    write_json(results, args.output)
    if curves:
        save_calibrations(calibrations, curves)
    how = f"{args.method} of {len(members)}{', with calibrated scores' if calibrated else ''}"
    print(f"{args.output}: {how}, {len(results)} boxes")
    if curves:
        print(f"{curves}: for the test images, --calibration {curves}")
    if is_scored:
        print(table(coco, members, ensembles, args.metric))
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


def table(
    coco: dict, members: dict[str, list[dict]], ensembles: dict[str, list[dict]], metric: str
) -> str:
    """The scores of all, and what each ensemble gains over what is before it, with its interval."""
    also = ("AP", "AP50", "AP75")
    scored, rows = {}, []
    for name, results in [*members.items(), *ensembles.items()]:
        scored[name] = resample(metric, coco, results)
        scores = average_precision(coco, results)
        rows.append([name, scored[name].value, *map(scores.get, also)])
    lines = [
        tabulate(rows, ["", metric, *also], floatfmt=("", ".4f", *[".2f"] * 3), missingval="-")
    ]
    base = max(members, key=lambda name: scored[name].value)
    for name in ensembles:
        gain = difference(scored[base], scored[name])
        verdict = "helps" if gain.value > 0 else "hurts" if gain.value < 0 else "changes nothing"
        what = "this ensemble" if name == "ensemble" else "calibration"
        lines.append(f"{metric} against {base} alone: {gain}: {what} {verdict}")
        base = name
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
