#!/usr/bin/env python
"""
Write a folder to upload to Kaggle: a data set of wheels, code and weights, and a notebook.

    python tools/kaggle_folder.py output/faster_rcnn_R_50_FPN output/d_fine_M \\
        --competition SLUG tta.enabled=True
    python tools/kaggle_folder.py --train configs/d_fine_M.py --competition SLUG train.hours=8

The first notebook needs no network: it installs what Kaggle's image lacks from the wheels,
predicts on the hidden images with each run, fuses them if they are several, and writes a checked
submission. The second trains, and continues where the output of its last version, if that is among
its inputs, ends. What is no option is an override of the config.
"""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.utils.arguments import split_overrides
from detection.utils.cli import command_parser, positive_int, tool
from detection.utils.errors import UserError
from detection.utils.paths import in_project
from detection.workshop.kaggle.command import user_name
from detection.workshop.kaggle.folder import (
    Names,
    copy_project,
    find_weights,
    new_folder,
    project_name,
    size_of,
    slug,
    write_data_set,
    write_notebook,
)
from detection.workshop.kaggle.image import KAGGLE, read_image
from detection.workshop.kaggle.wheels import gather_wheels

NOT_FOR_PREDICTION = ("submitit", "wandb")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN or key=value",
        help="outputs of trainings, or checkpoints in them; and overrides of their configs",
    )
    parser.add_argument("--train", metavar="CONFIG", help="write the notebook that trains this")
    parser.add_argument("--competition", default="", help="its address after /competitions/")
    parser.add_argument("--user", help="your name on Kaggle (default: as its command has it)")
    parser.add_argument("--name", help="of the notebook (default: the project's)")
    parser.add_argument("--output", help="default: output/kaggle/predict or output/kaggle/train")
    parser.add_argument("--image", default=KAGGLE, help="a list of what is installed there")
    parser.add_argument("--docker-image", help="address of the image to stay with")
    parser.add_argument(
        "--wheel", action="append", default=[], metavar="FILE", help="used in place of a download"
    )
    of_predict = parser.add_argument_group("of predictions")
    of_predict.add_argument("--images", help="folder there (default: where the sample's are)")
    of_predict.add_argument(
        "--weight", action="append", default=[], metavar="NAME=FACTOR", help="in the ensemble"
    )
    of_predict.add_argument("--method", help="of the ensemble (default: wbf)")
    of_predict.add_argument("--iou", help="of the ensemble (default: 0.55)")
    of_predict.add_argument("--calibration", help="of `tools/ensemble.py --calibrate`")
    of_predict.add_argument(
        "--threshold", help="of tools/find_threshold.py (default: that of a single run)"
    )
    of_predict.add_argument("--max-per-image", type=positive_int, help="boxes (default: 100)")
    of_predict.add_argument(
        "--categories", help="annotation file with the ids of the classes (default: the run's)"
    )
    of_training = parser.add_argument_group("of trainings")
    of_training.add_argument("--stop-after", type=float, help="hours of a session (default: 11.5)")
    of_training.add_argument(
        "--continue",
        action="store_true",
        dest="is_continued",
        help="the output of the notebook's last version is among its inputs",
    )
    args = parser.parse_intermixed_args(argv)
    args.runs, args.overrides = split_overrides(args.runs)
    if bool(args.runs) == bool(args.train):
        parser.error("give the outputs of trainings, or --train CONFIG")
    return args


@tool
def main(argv: list[str] | None = None) -> None:
    """Write the folder, and say how it is uploaded."""
    args = parse_args(argv)
    kind = "train" if args.train else "predict"
    image = read_image(args.image)
    names = Names(
        user=args.user or user_name() or _no_user(),
        name=slug(args.name or project_name(), kind),
        competition=args.competition,
    )
    for run in args.runs:
        find_weights(run)  # or fail now
    output = Path(args.output or in_project(f"output/kaggle/{kind}"))
    with new_folder(output) as folder:
        data, notebook = folder / "dataset", folder / "notebook"
        for part in (data, data / "wheels", notebook):
            part.mkdir()
        copy_project(data / "project")
        # slow to import, and after what is quick to fail
        from detection.workshop.kaggle import contents

        if args.train:
            text = contents.add_training(data, args, names.name)
        else:
            text = contents.add_runs(data, args, names.name)
        print(f"wheels for Python {image.python}", flush=True)
        without = () if args.train else NOT_FOR_PREDICTION
        pins = gather_wheels(data / "wheels", image, without, args.wheel)
        write_data_set(data, names, pins)
        write_notebook(
            notebook,
            names,
            text,
            internet=bool(args.train),  # pretrained weights, W&B
            docker_image=args.docker_image,
            earlier_output=args.is_continued,
        )
    sizes = {part: size_of(output / "dataset" / part) / 1e6 for part in ("wheels", "runs")}
    total = size_of(output) / 1e6
    print(f"{output}: {total:.1f} MB, of which {len(pins)} wheels {sizes['wheels']:.1f} MB")
    data, notebook = (shlex.quote(str(output / part)) for part in ("dataset", "notebook"))
    print(f"  kaggle datasets create -p {data} --dir-mode zip")
    print(f"  kaggle kernels push -p {notebook} --accelerator NvidiaTeslaT4")
    print(f"and after changes  kaggle datasets version -p {data} --dir-mode zip -m MESSAGE")


def _no_user() -> None:
    raise UserError("your name on Kaggle is not known; give --user NAME")


if __name__ == "__main__":
    sys.exit(main())
