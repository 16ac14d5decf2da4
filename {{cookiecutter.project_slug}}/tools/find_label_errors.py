#!/usr/bin/env python
"""
Find probable errors in annotations: wrong labels, missing boxes, loose boxes.

    python tools/find_label_errors.py        # by the trainings on folds, in datasets/train.json
    python tools/find_label_errors.py output/<run>/predictions/val.json datasets/val.json

The predictions have to be of models that were not trained on the images, as those of folds are
(make split, make train FOLD=0 …). It writes a page with crops, and a CSV beside it: put fix, keep
or drop into its first column, and tools/check_dataset.py --review writes a corrected copy.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.checks.reviews import has_decisions, write_review
from detection.data.results import read_ground_truth_and_results
from detection.evaluation.matching import match
from detection.utils.arguments import find_config
from detection.utils.cli import (
    DEFAULT_CONFIG,
    add_config_file,
    command_parser,
    non_negative_int,
    positive_int,
    tool,
)
from detection.utils.errors import UserError
from detection.utils.files import refuse_to_overwrite
from detection.utils.paths import DATASETS, in_project
from detection.workshop.analysis.label_errors import find_label_errors
from detection.workshop.analysis.runs import read_image_root

# in output/, as `make labels` writes them
OF_FOLDS = "{}_fold[0-9]*/predictions/folds_[0-9]*_val.json"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "files",
        nargs="*",
        metavar="RESULTS … JSON",
        help="COCO results, and the annotations that they are on (default: of --config-file's "
        f"trainings on folds, and {DATASETS}/train.json)",
    )
    add_config_file(parser, "whose trainings on folds to take", DEFAULT_CONFIG)
    parser.add_argument(
        "--image-root",
        help="what the file_name of each image is relative to (default: as the training has it)",
    )
    parser.add_argument(
        "--output",
        default=in_project("output/label_errors.html"),
        help="the page; the CSV is named like it (default: %(default)s)",
    )
    parser.add_argument(
        "--max", type=positive_int, default=300, help="suggestions (default: %(default)s)"
    )
    parser.add_argument(
        "--count", type=non_negative_int, default=100, help="pictures (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if len(args.files) == 1:
        parser.error("give RESULTS and the JSON that they are on, or neither")
    return args


def find(args: argparse.Namespace) -> list[str]:
    """
    Write the page and the CSV; returns lines on what they hold; UserError if a file cannot be used,
    or there are no predictions.
    """
    find_config(args.config_file)
    files = args.files or [*_of_folds(args.config_file), in_project(f"{DATASETS}/train.json")]
    *results_files, json_file = files
    csv_file = str(Path(args.output).with_suffix(".csv"))
    for output in (args.output, csv_file):
        refuse_to_overwrite(output, json_file, *results_files)
    if has_decisions(csv_file):
        raise UserError(f"{csv_file}: has decisions in it; choose another --output or move it away")
    results = []
    for file in results_files:
        coco, found = read_ground_truth_and_results(file, json_file)
        seen = {r["image_id"] for r in results}
        if both := seen & {r["image_id"] for r in found}:
            raise UserError(f"{file}: predicts on image {min(both)}, as an earlier file does")
        results += found
    # slow to import
    from detection.workshop.reports.crops import suggestion_section
    from detection.workshop.reports.page import render_page, write_page

    suggestions = find_label_errors(coco, match(coco, results))[: args.max]
    root = args.image_root or read_image_root(results_files[0], json_file)
    categories = sorted(coco["categories"], key=lambda c: c["id"])
    section = suggestion_section(coco, suggestions, root, args.count)
    write_review(suggestions, {c["id"]: c["name"] for c in categories}, csv_file)
    page = render_page(
        "labels.html.jinja",
        title=Path(json_file).stem,
        results_files=results_files,
        json_file=json_file,
        csv_file=csv_file,
        section=section,
        classes=[{"label": k, "name": c["name"]} for k, c in enumerate(categories)],
    )
    write_page(args.output, page)
    lines = [f"{kind}: {count:,}" for kind, count in section["counts"].items()]
    return lines + ([section["missing"]] if section["missing"] else []) + [csv_file]


def _of_folds(config_file: str) -> list[str]:
    pattern = OF_FOLDS.format(Path(config_file).stem)
    files = sorted(map(str, Path(in_project("output")).glob(pattern)))
    if not files:
        raise UserError(
            f"output/{pattern}: there are no predictions of folds; run make split, make train "
            "FOLD=0 and so on, and make labels, or give RESULTS and their JSON"
        )
    return files


@tool
def main(argv: list[str] | None = None) -> None:
    """Print how much is suspicious and where it is."""
    args = parse_args(argv)
    print(*find(args), args.output, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
