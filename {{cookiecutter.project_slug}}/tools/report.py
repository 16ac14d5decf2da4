#!/usr/bin/env python
"""
What a model does wrong, and what that costs: one HTML page that opens offline.

    python tools/report.py output/<run>/predictions/val.json datasets/val.json --run output/<run>

AP by class and size, kinds of errors, precision and recall, confusion, calibration, the curves of
the training, and the worst images with what was annotated and detected.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.error_page import class_names, errors_section, run_section
from detection.errors import UserError
from detection.matching import load, match, to_boxes
from detection.pages import render_page, write_page
from detection.paths import IMAGE_ROOT, in_project
from detection.run_history import read_history
from detection.worst_images import worst_section


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", metavar="RESULTS", help="COCO results, as predict.py writes")
    parser.add_argument("json_file", metavar="JSON", help="the annotations that they are on")
    parser.add_argument("--run", help="output folder of the training, for its curves")
    parser.add_argument(
        "--image-root",
        default=in_project(IMAGE_ROOT),
        help="what the file_name of each image is relative to (default: %(default)s)",
    )
    parser.add_argument("--output", help="the page (default: report.html in --run, or here)")
    parser.add_argument("--count", type=int, default=24, help="worst images (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.count < 0:
        parser.error("--count must not be negative")
    args.output = args.output or str(Path(args.run or ".") / "report.html")
    return args


def report(args: argparse.Namespace) -> list[str]:
    """
    Write the page; returns its notes, sentences on what costs most.

    Raises:
        UserError: a file cannot be used, or there is nothing to tell.
    """
    coco, results = load(args.results, args.json_file)
    curves = read_history(args.run) if args.run else {}
    truth, detections = to_boxes(coco, results)
    matches = match(truth, detections, len(coco["images"]))
    page = errors_section(coco, results, truth, detections, matches)
    page |= run_section(curves)
    page["notes"] += page["run_notes"]
    page["sheet"] = worst_section(
        *(coco, class_names(coco), truth, detections, matches),
        *(args.image_root, args.count, page["min_score"]),
    )
    title = Path(args.run).resolve().name if args.run else Path(args.results).stem
    page |= {"results_file": args.results, "json_file": args.json_file}
    page |= {"title": title, "images": f"{len(coco['images']):,}"}
    write_page(args.output, render_page("errors.html.jinja", **page))
    missing = page["sheet"]["missing"]
    return page["notes"] + ([missing] if missing else [])


def main(argv: list[str] | None = None) -> int:
    """Print what costs most and where the page is; 1 if there can be none, else 0."""
    args = parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # class names are in any script
    try:
        lines = report(args)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    for line in lines:
        print(line)
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
