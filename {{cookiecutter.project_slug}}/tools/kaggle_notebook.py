#!/usr/bin/env python
"""
What the notebooks on Kaggle run; tools/kaggle_folder.py writes them.

    python tools/kaggle_notebook.py FOLDER --output /kaggle/working/submission.csv tta.enabled=True
    python tools/kaggle_notebook.py FOLDER --output /kaggle/working --train configs/d_fine_M.py

FOLDER is the uploaded data set. The first predicts on the images that the sample submission asks
for, or on those of a folder, and writes a checked submission. The second trains, and continues the
training of the same name whose output is among the inputs.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.utils.cli import command_parser, positive_int, tool
from detection.utils.errors import UserError
from detection.utils.paths import in_project


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("folder", help="the uploaded data set")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the config")
    parser.add_argument("--inputs", default="/kaggle/input", help="default: %(default)s")
    parser.add_argument("--output", required=True, help="the submission, or a training's folder")
    parser.add_argument("--train", metavar="CONFIG", help="train this")
    parser.add_argument(
        "--stop-after",
        type=float,
        default=11.5,
        help="hours until a training is stopped, to be continued (default: %(default)s)",
    )
    parser.add_argument("--images", help="the folder of the images (default: by the sample)")
    parser.add_argument("--sample", help="the sample submission (default: the one there is)")
    parser.add_argument("--weight", action="append", default=[], metavar="NAME=FACTOR")
    parser.add_argument("--method", help="of the ensemble")
    parser.add_argument("--iou", help="of the ensemble")
    parser.add_argument("--max-per-image", type=positive_int, default=100, help="boxes")
    return parser.parse_intermixed_args(argv)


@tool
def main(argv: list[str] | None = None) -> None:
    """Write the submission, or train."""
    args = parse_args(argv)
    for folder in (args.folder, args.inputs):
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder")
    if args.train:
        from detection.config import load_config  # slow to import
        from detection.workshop.kaggle.session import train

        cfg = load_config(args.train, args.overrides)
        arguments = ["--config-file", args.train, *args.overrides]
        train(cfg, arguments, args.inputs, args.folder, Path(args.output), args.stop_after)
        return
    from detection.workshop.kaggle.scoring import Settings, write_submission

    of_ensemble = [f"--weight={weight}" for weight in args.weight]
    for name in ("method", "iou"):
        if value := getattr(args, name):
            of_ensemble.append(f"--{name}={value}")
    write_submission(
        Settings(
            folder=Path(args.folder),
            inputs=args.inputs,
            work=Path(in_project("output/scoring")),
            output=args.output,
            images=args.images,
            sample=args.sample,
            of_predict=args.overrides,
            of_ensemble=of_ensemble,
            max_per_image=args.max_per_image,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
