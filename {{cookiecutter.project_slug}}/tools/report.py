#!/usr/bin/env python
"""
Show what a model does wrong, and what that costs: one HTML page that opens offline.

    python tools/report.py output/<run>/predictions/val.json datasets/val.json --run output/<run>
    python tools/report.py --compare a=output/<run>/predictions/val.json b=… datasets/val.json

AP by class and size, kinds of errors, precision and recall, confusion, calibration, the curves of
the training, the worst images with what was annotated and detected, and probable errors of the
annotations, which are also in label_errors.csv beside the page. With --compare: AP by class and
kinds of errors of several results side by side, and which differences are within noise.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.checks.reviews import has_decisions, write_review
from detection.data.results import read_ground_truth_and_results
from detection.evaluation.competition_metrics import DEFAULT_METRIC, METRICS
from detection.evaluation.matching import match
from detection.utils.cli import command_parser, named_path, non_negative_int, tool
from detection.utils.files import refuse_to_overwrite
from detection.utils.paths import in_project
from detection.workshop.analysis.label_errors import find_label_errors
from detection.workshop.analysis.runs import check_classes, read_history, read_image_root

MAX_SUGGESTIONS = 300  # probable label errors, in a CSV beside the page


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "results", nargs="+", metavar="RESULTS", help="COCO results, as predict.py writes"
    )
    parser.add_argument("json_file", metavar="JSON", help="the annotations that they are on")
    parser.add_argument(
        "--compare", action="store_true", help="several [NAME=]RESULTS, the first to compare with"
    )
    parser.add_argument(
        "--metric", default=DEFAULT_METRIC, help=f"{', '.join(METRICS)} (default: %(default)s)"
    )
    parser.add_argument("--run", help="output folder of the training, for its curves")
    parser.add_argument(
        "--image-root",
        help="what the file_name of each image is relative to (default: as the training has it)",
    )
    parser.add_argument(
        "--output",
        help="the page (default: report.html in --run or output/, or output/comparison.html)",
    )
    parser.add_argument("--wandb", action="store_true", help="send it to the W&B project of --run")
    parser.add_argument(
        "--count",
        type=non_negative_int,
        default=24,
        help="pictures of the worst images, and of probable label errors (default: %(default)s)",
    )
    args = parser.parse_intermixed_args(argv)
    if args.wandb and (args.compare or not args.run):
        parser.error("--wandb needs the --run whose project the report goes to, and no --compare")
    if args.compare and args.run:
        parser.error("--run is of one training; leave it out with --compare")
    if args.compare:
        args.results = _by_name(parser, args.results)
        args.output = args.output or in_project("output/comparison.html")
        return args
    if len(args.results) > 1:
        parser.error("give one RESULTS and its JSON; --compare takes several")
    (args.results,) = args.results
    args.output = args.output or str(Path(args.run or in_project("output")) / "report.html")
    return args


def _by_name(parser: argparse.ArgumentParser, texts: list[str]) -> dict[str, str]:
    """{name: results file} of [NAME=]RESULTS arguments."""
    pairs = [named_path(text) for text in texts]
    if len(dict(pairs)) < max(len(pairs), 2):
        parser.error("--compare takes two results or more, each with a name of its own")
    return dict(pairs)


def compare(args: argparse.Namespace) -> list[str]:
    """
    Write the page that compares several results; returns its sentences; UserError if a file cannot
    be used.
    """
    refuse_to_overwrite(args.output, args.json_file, *args.results.values())
    loaded = {
        name: read_ground_truth_and_results(path, args.json_file)
        for name, path in args.results.items()
    }
    # slow to import
    from detection.workshop.reports.comparison import comparison
    from detection.workshop.reports.competition import competition_notes
    from detection.workshop.reports.page import render_page, write_page

    coco = next(iter(loaded.values()))[0]
    results = {name: found for name, (_, found) in loaded.items()}
    page = comparison(coco, results)
    page["notes"] = competition_notes(coco, results, args.metric) + page["notes"]
    page |= {"files": args.results, "json_file": args.json_file}
    write_page(args.output, render_page("comparison.html.jinja", **page))
    return page["notes"]


def report(args: argparse.Namespace) -> list[str]:
    """
    Write the page; returns its notes, sentences on what costs most; UserError if a file cannot be
    used, or nothing can be compared.
    """
    refuse_to_overwrite(args.output, args.json_file, args.results)
    if args.wandb:
        from detection.writers.wandb_beside import Beside  # slow to import

        training = Beside(args.run)
    coco, results = read_ground_truth_and_results(args.results, args.json_file)
    if args.run:
        check_classes(args.run, [category["name"] for category in coco["categories"]])
    curves = read_history(args.run) if args.run else {}
    # slow to import
    from detection.workshop.reports.competition import competition_section
    from detection.workshop.reports.crops import suggestion_section
    from detection.workshop.reports.errors import class_names, errors_section
    from detection.workshop.reports.page import render_page, write_page
    from detection.workshop.reports.training import run_section
    from detection.workshop.reports.worst_images import worst_images, worst_section

    matches = match(coco, results)
    page = errors_section(coco, results, matches)
    page |= run_section(curves) | competition_section(coco, results, args.metric)
    page["notes"] += page["run_notes"]
    image_root = args.image_root or read_image_root(args.results, args.json_file, args.run)
    shown = coco, class_names(coco), matches, image_root, args.count, page["min_score"]
    page["sheet"] = worst_section(*shown)
    page["csv_file"] = str(Path(args.output).with_name("label_errors.csv"))
    suggestions = find_label_errors(coco, matches)[:MAX_SUGGESTIONS]
    page["suggestions"] = suggestion_section(coco, suggestions, image_root, args.count)
    if has_decisions(page["csv_file"]):
        page["notes"].append(f"{page['csv_file']} has decisions in it and is left as it is.")
    else:
        names = {category["id"]: category["name"] for category in coco["categories"]}
        write_review(suggestions, names, page["csv_file"])
    title = Path(args.run).resolve().name if args.run else Path(args.results).stem
    page |= {"results_file": args.results, "json_file": args.json_file}
    page |= {"title": title, "images": len(coco["images"])}
    write_page(args.output, render_page("errors.html.jinja", **page))
    missing = page["sheet"]["missing"]
    lines = page["notes"] + ([missing] if missing else [])
    if args.wandb:
        from detection.workshop.reports.wandb import send_report

        logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
        lines += send_report(training, page, args.output, worst_images(*shown))
    return lines


@tool
def main(argv: list[str] | None = None) -> None:
    """Print what costs most and where the page is."""
    args = parse_args(argv)
    for line in compare(args) if args.compare else report(args):
        print(line)
    print(args.output)


if __name__ == "__main__":
    sys.exit(main())
