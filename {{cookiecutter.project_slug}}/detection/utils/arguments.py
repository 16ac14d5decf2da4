"""
The command lines of train_net.py and predict.py, and the config and the overrides in any.

Nothing here imports torch, so that --help and mistakes are answered at once.
"""

import argparse
import glob
import os
import re
import signal
import sys
import time
from collections.abc import Callable

from detection.utils.cli import (
    add_config_file,
    command_parser,
    exit_status,
    non_negative_int,
    positive_int,
    unit_interval,
)
from detection.utils.errors import UserError
from detection.utils.paths import PROJECT_ROOT, in_project

# a config's names have no slash, so a text with one before its equals sign is a path
OVERRIDE = re.compile(
    r"(?=~|[^=]*=)(?P<mark>~|\+\+?)?(?P<key>[^\W\d][\w-]*(?:\.[\w-]+)*)(?:=(?P<value>.*))?",
    re.DOTALL,
)


def parse_args(argv: list[str] | None = None, doc: str = "") -> argparse.Namespace:
    """
    train_net.py's options, which are detectron2's and --fast-dev-run, and `opts`, the overrides.

    They may come in any order; upstream takes each option behind an override for another override.
    """
    parser = command_parser(doc)
    add_config_file(parser)
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint, if there is one"
    )
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate train.init_checkpoint; do not train"
    )
    parser.add_argument(
        "--fast-dev-run",
        action="store_true",
        help="train, evaluate, save and predict for a few iterations, to find what would fail",
    )
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="of each machine (default: %(default)s)"
    )
    parser.add_argument("--num-machines", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine's, from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",  # upstream's port per user is in use while another training runs
        help="where the processes meet: tcp://HOST:PORT of machine 0, or auto, a free port of "
        "this machine (default: %(default)s)",
    )
    parser.add_argument(
        "opts", nargs="*", metavar="key=value", help="overrides of the config; ~key removes a key"
    )
    parser.set_defaults(started=time.monotonic())  # for train.hours
    return parser.parse_intermixed_args(argv)


def parse_prediction_args(argv: list[str] | None, doc: str) -> argparse.Namespace:
    """predict.py's options; `images`, the one file or pattern, and `opts`, the overrides."""
    parser = command_parser(doc)
    add_config_file(parser, "of the training")
    parser.add_argument(
        "--checkpoint", help="best, last, a path, a URL or wandb-artifact://… (default: best)"
    )
    parser.add_argument(
        "--onnx",
        metavar="FILE",
        help="of tools/export.py, in place of a config and a checkpoint; needs no PyTorch",
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="images or key=value",
        help="a COCO json, a folder or a quoted glob pattern; and overrides of the config",
    )
    parser.add_argument(
        "--image-root",
        help="what the file_name of each image is relative to (default: image_root of the split "
        "that a json is, else dataset.val.image_root)",
    )
    parser.add_argument("--output", help="default: <output_dir>/predictions/<images>.json")
    parser.add_argument("--batch-size", type=positive_int, default=4, help="default: %(default)s")
    parser.add_argument(
        "--num-workers", type=non_negative_int, default=2, help="default: %(default)s"
    )
    parser.add_argument(
        "--min-score",
        type=unit_interval,
        help="leave out boxes below; mAP wants all (default: 0, or that of the ONNX file)",
    )
    parser.add_argument(
        "--max-per-image",
        type=positive_int,
        help="the best boxes kept (default: 100, or that of the ONNX file)",
    )
    args = parser.parse_intermixed_args(argv)
    files, args.opts = split_overrides(args.images)
    if len(files) != 1:
        named = "; not " + ", ".join(files) if files else ""
        parser.error(f"name the images by one json, folder or quoted pattern{named}")
    (args.images,) = files
    if args.onnx is None:
        defaults = {"checkpoint": "best", "min_score": 0.0, "max_per_image": 100}
        vars(args).update({k: v for k, v in defaults.items() if getattr(args, k) is None})
    elif given := [v for v in (args.config_file, args.checkpoint, *args.opts) if v]:
        parser.error(f"--onnx has its config and weights in the file; leave out {given[0]}")
    return args


def early_args(
    parse: Callable[[list[str] | None, str], argparse.Namespace], doc: str
) -> argparse.Namespace:
    """
    Parse the command line before slow imports; --help and mistakes in it end the program here.

    Args:
        parse: `parse_args` or `parse_prediction_args`.
        doc: the program's docstring.

    Returns:
        What `parse` returns: files that exist, and well-formed overrides.
    """
    args = argparse.Namespace()

    def check() -> None:
        vars(args).update(vars(parse(None, doc)))
        if not getattr(args, "onnx", None):
            find_config(args.config_file)
        for override in args.opts:
            split_override(override)
        images = getattr(args, "images", ".")
        if "://" not in images and not (os.path.exists(images) or glob.glob(images)):
            raise UserError(
                f"{images}: cannot be read (no such file); give a COCO json, a folder or a quoted "
                "pattern"
            )

    if status := exit_status(check):
        sys.exit(status)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C during the imports ends without a traceback; `exit_status` takes over
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return args


def split_overrides(positional: list[str]) -> tuple[list[str], list[str]]:
    """
    Files, and the overrides `key=value` or `~key` among them.

    Args:
        positional: arguments that are neither options nor values of options. One that names a
            file, such as "a=b.json", or matches some, such as "a=b/*.jpg", is not an override.
    """
    overrides = [
        text
        for text in positional
        if OVERRIDE.fullmatch(text) and next(glob.iglob(text), None) is None
    ]
    return [text for text in positional if text not in overrides], overrides


def find_config(config_file: str) -> str:
    """
    The path of a config file that is relative to the current folder, or else to the project;
    UserError if it is in neither.
    """
    if not config_file:
        names = sorted(p.name for p in (PROJECT_ROOT / "configs").glob("*.py"))
        raise UserError(f"--config-file is missing; configs/ has {', '.join(names)}")
    places = list(dict.fromkeys([os.path.abspath(config_file), in_project(config_file)]))
    if "://" in config_file or os.path.isfile(config_file):
        return config_file
    if not os.path.isfile(places[-1]):
        raise UserError(f"{config_file}: no such config file; neither {' nor '.join(places)} is")
    return places[-1]


def split_override(override: str) -> tuple[str, str, str]:
    """
    The mark (~, + or none), key and value of an override; UserError if it is neither key=value nor
    ~key.
    """
    parts = OVERRIDE.fullmatch(override)
    if not parts:
        raise UserError(f"cannot read the override {override!r}: it has to be key=value or ~key")
    return parts["mark"] or "", parts["key"], parts["value"] or ""
