#!/usr/bin/env python
"""
Download a competition's data, and submit to it, by Kaggle's official command.

    python tools/kaggle_competition.py download SLUG
    python tools/kaggle_competition.py submit SLUG --run output/faster_rcnn_R_50_FPN
    python tools/kaggle_competition.py submit SLUG --run … --kernel NAME/NOTEBOOK --version 3

SLUG is what the competition's address has after /competitions/. The message of a submission is the
run's name and its best score. A code competition takes the output of a notebook's version.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.utils.cli import command_parser, positive_int, tool
from detection.utils.errors import UserError
from detection.utils.files import read_record
from detection.utils.paths import DATASETS, in_project
from detection.workshop.kaggle.command import run_kaggle
from detection.workshop.kaggle.download import unpack
from detection.workshop.submission.formats import DEFAULT_FORMAT, FORMATS


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    download = parts.add_parser("download", help="the competition's data, unpacked")
    submit = parts.add_parser("submit", help="a file, or a notebook's output")
    for part in (download, submit):
        part.add_argument("competition", metavar="SLUG")
    download.add_argument("--output", default=in_project(DATASETS), help="default: datasets")
    submission = f"submission{FORMATS[DEFAULT_FORMAT].suffix}"
    submit.add_argument("--file", default=submission, help="default: %(default)s")
    submit.add_argument("--run", help="the training's output, for the message")
    submit.add_argument("--message", help="in place of the run's name and score")
    submit.add_argument("--kernel", help="NAME/NOTEBOOK, whose output --file is")
    submit.add_argument("--version", type=positive_int, help="of the notebook")
    args = parser.parse_args(argv)
    if not args.competition.strip():
        raise UserError("no competition is named; give COMPETITION=… (its address after …/)")
    args.competition = args.competition.rstrip("/").rpartition("/")[2]  # an address too
    return args


@tool
def main(argv: list[str] | None = None) -> None:
    """Download or submit."""
    args = parse_args(argv)
    if args.part == "download":
        folder = Path(args.output)
        folder.mkdir(parents=True, exist_ok=True)
        command = ["competitions", "download", args.competition, "--path", str(folder)]
        run_kaggle(*command, competition=args.competition)
        for line in unpack(folder / f"{args.competition}.zip"):
            print(line)
        return
    message = args.message or describe(args.run)
    command = ["competitions", "submit", args.competition, "--file", args.file]
    command += ["--message", message]
    if bool(args.kernel) != bool(args.version):
        raise UserError("a code competition needs --kernel NAME/NOTEBOOK and its --version")
    if args.kernel:
        command += ["--kernel", args.kernel, "--version", str(args.version)]
    elif not Path(args.file).is_file():
        raise UserError(f"{args.file}: no such file; `make submission` writes it")
    print(run_kaggle(*command, competition=args.competition).strip())
    print(f"{args.competition}: submitted as {message!r}")


def describe(run: str | None) -> str:
    """
    The name of a run and the best score that it has recorded.

    Raises:
        UserError: there is no such run.
    """
    if run is None:
        raise UserError("give --run OUTPUT, the training's, or --message TEXT")
    folder = Path(run)
    best = read_record(folder / "model_best.json")
    if not folder.is_dir():
        raise UserError(f"{run}: no such run; give --message TEXT, or the output of a training")
    name = folder.resolve().name
    if not isinstance(best.get("value"), int | float):
        return name
    return f"{name} {str(best.get('metric')).rpartition('/')[2]} {best['value']:.4f}"


if __name__ == "__main__":
    sys.exit(main())
