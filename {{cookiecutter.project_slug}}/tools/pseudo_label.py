#!/usr/bin/env python
"""
Turn confident predictions on images without annotations into annotations to train on.

    python tools/pseudo_label.py output/<run>/predictions/test.json datasets/test.json \\
        --validated output/<run>/predictions/val.json datasets/val.json
    python tools/pseudo_label.py … --min-score 0.8 --class-score Battery=0.6
    python train_net.py --config-file configs/… dataset.pseudo.json_file=datasets/pseudo.json

With --validated each class gets the score that is best on validation data: for F1, since what has
no label is background to the training, or for a precision; and the precision and recall of such
labels there are printed. Of boxes that overlap, whatever their classes, the one of the best score
is kept. Check that the competition's rules allow training on its test images.
"""

import argparse
import math
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from tabulate import tabulate

from detection.data.coco import category_id_map, read_coco, validate
from detection.data.results import read_ground_truth_and_results, read_results
from detection.utils.cli import command_parser, tool, unit_interval
from detection.utils.errors import UserError
from detection.utils.files import refuse_to_overwrite, write_json_files
from detection.utils.paths import DATASETS
from detection.workshop.preparation.pseudo_labels import (
    Quality,
    balanced_scores,
    precise_scores,
    pseudo_labels,
    quality,
)

LOW = 0.7  # precision


@tool
def main(argv: list[str] | None = None) -> None:
    """Write the json, and print what each class gave."""
    parser = command_parser(__doc__)
    parser.add_argument("results", help="predictions on the images, in COCO's results format")
    parser.add_argument("json_file", help="COCO json of the images")
    parser.add_argument("--output", default=f"{DATASETS}/pseudo.json", help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="replace another file there")
    parser.add_argument(
        "--min-score",
        type=unit_interval,
        help="the lowest to keep (default: 0.8; none with --validated, whose scores it can raise)",
    )
    parser.add_argument(
        "--class-score",
        action="append",
        default=[],
        metavar="CLASS=SCORE",
        help="the lowest to keep of one class, over all else",
    )
    parser.add_argument(
        "--validated",
        nargs=2,
        metavar=("RESULTS", "JSON"),
        help="of the same model on validation data: each class gets the score of the best F1 there",
    )
    parser.add_argument(
        "--precision", type=float, help="or the lowest score that is so precise there, up to 1"
    )
    args = parser.parse_args(argv)
    label(args)


def label(args: argparse.Namespace) -> None:
    """
    Make the annotations, write them and print what each class gave; UserError if a file cannot be
    used, no detection is kept, or another file is in the way.
    """
    if args.precision is not None and args.validated is None:
        raise UserError("--precision needs --validated, to be measured on")
    if args.precision is not None and not 0 < args.precision <= 1:
        raise UserError(f"--precision {args.precision}: it has to be over 0, and 1 at most")
    refuse_to_overwrite(args.output, args.results, args.json_file, *(args.validated or ()))
    coco = read_coco(args.json_file)
    names = {c["id"]: c["name"] for c in coco["categories"]}
    category_ids = category_id_map(coco, args.json_file)
    validate(coco, args.json_file)
    results = read_results(args.results, args.json_file, coco, category_ids)
    validated = args.validated
    validation = read_ground_truth_and_results(*validated) if validated else None
    min_scores = choose_scores(args, names, validation)
    qualities = measure(names, min_scores, validation)
    labelled = pseudo_labels(coco, results, min_scores)
    annotations = labelled["annotations"]
    if not annotations:
        raise UserError(f"{args.results}: no detection is that confident; choose lower scores")
    is_new = write_json_files({Path(args.output): labelled}, force=args.force)

    detected = Counter(result["category_id"] for result in results)
    kept = Counter(annotation["category_id"] for annotation in annotations)
    rows = [
        [
            name,
            "none is enough" if math.isinf(min_scores[id_]) else f"{min_scores[id_]:.3f}",
            *map(percent, qualities[id_]),
            detected[id_],
            kept[id_],
            len({a["image_id"] for a in annotations if a["category_id"] == id_}),
        ]
        for id_, name in sorted(names.items())
    ]
    rows.append(["all", "", *map(percent, qualities[None]), len(results), len(annotations)])
    rows[-1].append(len(labelled["images"]))
    headers = ["class", "from score", "precision", "recall", "detections", "kept", "in images"]
    print(tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", *6 * ["right"])))
    images = f"{len(labelled['images'])} of {len(coco['images'])} images"
    state = "" if is_new else ", as it was"
    print(f"{args.output}: {len(annotations)} boxes on {images}{state}")
    for line in doubts(names, kept, qualities, args):
        print(line)
    print(f"train on them too with dataset.pseudo.json_file={args.output}")


def measure(
    names: dict[int, str], min_scores: dict[int, float], validation: tuple[dict, list[dict]] | None
) -> dict[int | None, Quality]:
    """{category id, None for all: quality on the validation data}; nan without any."""
    if validation is None:
        return dict.fromkeys([*names, None], Quality(math.nan, math.nan))
    coco, results = validation
    ids = {name: id_ for id_, name in names.items()}
    own = {c["id"]: ids[c["name"]] for c in coco["categories"]}
    measured = quality(coco, results, {id_: min_scores[own[id_]] for id_ in own})
    return {own.get(id_): of_class for id_, of_class in measured.items()}


def percent(part: float) -> str:
    return "-" if math.isnan(part) else f"{100 * part:.0f} %"


def doubts(
    names: dict[int, str],
    kept: dict[int, int],
    qualities: dict[int | None, Quality],
    args: argparse.Namespace,
) -> list[str]:
    """Lines on what may be wrong with the labels."""
    if not args.validated:
        return ["how many of them are right is unknown: --validated RESULTS JSON measures it"]
    lines = [f"precision and recall are those on {args.validated[1]}"]
    low = {id_: qualities[id_].precision for id_ in kept if qualities[id_].precision < LOW}
    if low:
        named = ", ".join(f"{names[id_]} {percent(low[id_])}" for id_ in sorted(low, key=low.get))
        wrong = 1 - qualities[None].precision
        lines.append(
            f"warning: precision is low ({named}); {percent(wrong)} of all labels there are wrong, "
            "and training learns them: --precision 0.9 or --class-score keeps the surer ones"
        )
    return lines


def choose_scores(
    args: argparse.Namespace, names: dict[int, str], validation: tuple[dict, list[dict]] | None
) -> dict[int, float]:
    """
    {category id: the lowest score to keep}; UserError if --class-score has an unknown class, or not
    a number.
    """
    lowest = args.min_score
    by_name = dict.fromkeys(names.values(), 0.8 if lowest is None else lowest)
    if validation:
        coco, results = validation
        of_validation = {c["id"]: c["name"] for c in coco["categories"]}
        if args.precision is None:
            of_ids = balanced_scores(coco, results)
        else:
            of_ids = precise_scores(coco, results, args.precision)
        for id_, score in of_ids.items():
            by_name[of_validation[id_]] = max(score, lowest or 0.0)
    for text in args.class_score:
        name, _, score = text.rpartition("=")
        if name not in by_name:
            raise UserError(f"--class-score {text}: the classes are {', '.join(by_name)}")
        try:
            by_name[name] = float(score)
        except ValueError:
            by_name[name] = math.nan
        if math.isnan(by_name[name]):
            raise UserError(f"--class-score {text}: {score!r} is not a number")
    return {id_: by_name[name] for id_, name in names.items()}


if __name__ == "__main__":
    sys.exit(main())
