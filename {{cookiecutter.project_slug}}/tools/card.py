#!/usr/bin/env python
"""
Write the card of a trained model, for the Hugging Face Hub or the post of a solution.

    python tools/card.py output/<run>/predictions/val.json datasets/val.json --run output/<run>

Scores with 95 % intervals, AP by class, the data with its hashes, what the training's config
changes, its curves as pictures beside the card, the licenses of the weights that it began with, and
how to predict. `--license` says the model's own; these weights and the data may ask for one.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.data.results import read_ground_truth_and_results
from detection.evaluation.competition_metrics import DEFAULT_METRIC, METRICS
from detection.utils.arguments import find_config
from detection.utils.cli import add_config_file, command_parser, tool
from detection.utils.errors import UserError
from detection.utils.files import refuse_to_overwrite
from detection.utils.paths import PROJECT_ROOT
from detection.workshop.analysis.leaderboard import Run
from detection.workshop.analysis.runs import check_classes, read_config, read_history


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("results", metavar="RESULTS", help="COCO results, as predict.py writes")
    parser.add_argument("json_file", metavar="JSON", help="the annotations that they are on")
    parser.add_argument("--run", required=True, help="output folder of the training")
    add_config_file(parser, "to compare with (default: that of the run's name)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of that config")
    parser.add_argument(
        "--metric", default=DEFAULT_METRIC, help=f"{', '.join(METRICS)} (default: %(default)s)"
    )
    parser.add_argument(
        "--license", default="unknown", help="of the model, e.g. apache-2.0 (default: %(default)s)"
    )
    parser.add_argument("--output", help="the card (default: card.md in --run)")
    return parser.parse_intermixed_args(argv)


def plain_config(config_file: str, overrides: list[str]) -> dict:
    """A config as a training writes it; UserError if it cannot be loaded."""
    from detectron2.config import LazyConfig  # slow to import

    from detection.config import load_config

    with tempfile.TemporaryDirectory() as folder:
        LazyConfig.save(load_config(config_file, overrides), str(Path(folder) / "config.yaml"))
        return read_config(folder)


@tool
def main(argv: list[str] | None = None) -> None:
    """Print where the card is."""
    args = parse_args(argv)
    output = args.output or str(Path(args.run) / "card.md")
    refuse_to_overwrite(output, args.json_file, args.results)
    coco, results = read_ground_truth_and_results(args.results, args.json_file)
    check_classes(args.run, [category["name"] for category in coco["categories"]])
    if args.metric not in METRICS:
        raise UserError(f"--metric {args.metric}: there is none; there are {', '.join(METRICS)}")
    run = Run(Path(args.run).name, read_config(args.run), read_history(args.run))
    config_file = args.config_file or _config_of(run)
    default = plain_config(find_config(config_file), args.opts) if config_file else None
    from detection.workshop.reports.card import write_card  # slow to import

    write_card(
        *(output, run, args.run, coco, results, args.json_file, args.metric),
        *(config_file, default, args.license),
    )
    print(output)


def _config_of(run: Run) -> str:
    """The config that a run is named after; "" if there is none."""
    names = [p.relative_to(PROJECT_ROOT).as_posix() for p in PROJECT_ROOT.glob("configs/**/*.py")]
    fitting = [name for name in names if run.name.startswith(Path(name).stem)]
    return max(fitting, key=len, default="")


if __name__ == "__main__":
    sys.exit(main())
