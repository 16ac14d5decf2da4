#!/usr/bin/env python
r"""
Split annotations into folds that have the same mix of classes and share no image or group.

Images of equal pixels stay together, under whatever names.

    python tools/split_dataset.py                          # 5 folds of datasets/train.json
    python tools/split_dataset.py --val-fraction 0.2       # or one part held out
    python tools/split_dataset.py --group-by video_id      # all images of a video in one fold
    python tools/split_dataset.py --group-by 'file_name=(.*)_\d+'    # video3_0001.jpg, …
    python tools/split_dataset.py --near-duplicates        # images that look the same

Fold k is in folds/<k>/{train,val}.json beside the annotations, and is trained on with

    python train_net.py --config-file configs/… dataset.fold=<k>

What is held out is in folds/holdout/ in the same way, for dataset.fold=holdout. Ids stay as they
are, and so do the annotations that are split. The same seed gives the same files.
"""

import argparse
import os
import re
import shlex
import sys
import time
from pathlib import Path

import numpy as np
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.data.coco import read_coco
from detection.data.image_roots import COMMON, config_root, load_dataset
from detection.utils.cli import add_config_file, command_parser, tool
from detection.utils.errors import UserError
from detection.utils.files import write_json_files
from detection.utils.image_contents import label_equal
from detection.utils.paths import DATASETS, in_project
from detection.workshop.preparation.splits import (
    assign_folds,
    check_records,
    count_boxes,
    hold_out,
    label_by,
    merge_groups,
    random_folds,
    subset,
)


def group(coco: dict, args: argparse.Namespace) -> np.ndarray:
    """The group of each image (images,): what shares a file, an attribute or its looks."""
    images = coco["images"]
    labels = [label_by(images, "file_name", "", args.json_file)]
    for key in args.group_by:
        labels.append(label_by(images, *key.partition("=")[::2], args.json_file))
    print(f"comparing {len(images)} images in {args.image_root}", flush=True)
    paths = [os.path.join(args.image_root, image["file_name"]) for image in images]
    if args.near_duplicates is None:
        equal, unread = label_equal(paths)
        labels.append(equal)
        if unread:
            print(
                f"warning: {len(unread)} of {len(paths)} cannot be read, such as {unread[0]}: "
                "identical ones among them may be torn; --image-root says where they are"
            )
    else:
        from detection.workshop.preparation.near_duplicates import group_similar, hash_images

        labels.append(group_similar(hash_images(paths), args.near_duplicates))
    groups = merge_groups(*labels)
    sizes = np.bincount(groups)
    if len(sizes) < len(images):
        largest = images[int((groups == sizes.argmax()).argmax())]["file_name"]
        print(
            f"{(sizes > 1).sum()} groups of 2 to {sizes.max()} images, {(sizes == 1).sum()} images "
            f"alone; the largest has {largest}"
        )
        share = args.val_fraction or 1 / args.folds
        if sizes.max() > share * len(images):
            print(f"warning: it is larger than {share:.0%} of the images: parts cannot be even")
    else:
        print("no image belongs with another")
    return groups


def table(coco: dict, counts: np.ndarray, folds: np.ndarray, names: list, shuffled: np.ndarray):
    """
    What each fold holds, as text.

    Args:
        coco: the annotations that were split.
        counts: boxes (images, classes).
        folds: the fold of each image (images,).
        names: of the folds.
        shuffled: the folds of a plain shuffle (images,), to compare with.
    """
    labels = {category["name"]: counts[:, k] for k, category in enumerate(coco["categories"])}
    labels["all boxes"] = counts.sum(1)
    labels["images"] = np.ones(len(counts), int)
    labels["images without boxes"] = (counts.sum(1) == 0).astype(int)
    rows = []
    for label, values in labels.items():
        ours, random = (np.bincount(f, values, len(names)).astype(int) for f in (folds, shuffled))
        rows.append([label, values.sum(), *ours, " ".join(map(str, random))])
    headers = ["boxes of", "all", *names, "random split"]
    align = ("left", *["right"] * (len(names) + 1), "right")
    return tabulate(rows, headers, colalign=align, disable_numparse=True)


def run(args: argparse.Namespace) -> None:
    """
    Split, write and report; UserError if the files cannot be read or written, or the split is
    impossible.
    """
    start = time.perf_counter()
    coco = read_coco(args.json_file)
    check_records(coco, args.json_file)
    if args.image_root is None:
        args.image_root = config_root(load_dataset(args.config_file), args.json_file, "train")
    groups, counts = group(coco, args), count_boxes(coco)
    output = Path(args.output or Path(args.json_file).parent / "folds")
    if args.val_fraction is None:
        folds = assign_folds(counts, groups, args.folds, args.seed)
        shuffled = random_folds(len(folds), args.folds, args.seed)
        names = list(range(args.folds))
        parts = {output / str(k): folds == k for k in names}
        stale = [
            path
            for path in output.glob("*/*.json")
            if path.parent.name.isdigit() and path.parent not in parts
        ]
    else:
        folds = hold_out(counts, groups, args.val_fraction, args.seed)
        num_val = round(args.val_fraction * len(folds))
        order = np.random.default_rng(args.seed).permutation(len(folds))
        shuffled = (order < num_val).astype(int)
        names, stale = ["train", "val"], []
        parts = {output if args.output else output / "holdout": folds == 1}
    files = {}
    for folder, is_val in parts.items():
        files |= {folder / "train.json": subset(coco, ~is_val)}
        files |= {folder / "val.json": subset(coco, is_val)}
    if any(path.resolve() == Path(args.json_file).resolve() for path in files):
        raise UserError(f"{args.json_file}: would be overwritten; choose another --output")
    is_new = write_json_files(files, stale, args.force)

    print(table(coco, counts, folds, names, shuffled))
    for k, category in enumerate(coco["categories"]):
        without = [str(name) for f, name in enumerate(names) if not counts[folds == f, k].any()]
        if without:
            print(f"{category['name']}: no box in {', '.join(without)}, so no AP there")
    together = np.unique(np.column_stack([groups, shuffled]), axis=0)[:, 0]
    if torn := (np.bincount(together) > 1).sum():
        print(f"no group is torn; a random split tears {torn}")
    where = f"{output}/{{{names[0]}…{names[-1]}}}" if len(parts) > 1 else next(iter(parts))
    done = "written" if is_new else "unchanged"
    print(f"{where}/{{train,val}}.json {done} in {time.perf_counter() - start:.1f} s")
    if args.val_fraction is None or not args.output:
        overrides = [f"dataset.fold={'holdout' if len(parts) == 1 else names[0]}"]
        if output.resolve() != Path(in_project(f"{DATASETS}/folds")).resolve():
            overrides.append(f"dataset.folds={quoted(str(output.resolve()))}")
        print(f"train on {'it' if len(parts) == 1 else 'one'} with {shlex.join(overrides)}")


def quoted(path: str) -> str:
    """The path as the value of an override; with quotes if the grammar of overrides wants them."""
    return path if re.fullmatch(r"[A-Za-z0-9_./-]+", path) else f"'{path}'"


@tool
def main(argv: list[str] | None = None) -> None:
    """Split."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "json_file",
        nargs="?",
        default=in_project(f"{DATASETS}/train.json"),
        help="COCO annotations (default: %(default)s)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--folds", type=int, default=5, metavar="N", help="default: %(default)s")
    how.add_argument("--val-fraction", type=float, metavar="SHARE", help="one part, not folds")
    parser.add_argument(
        "--group-by",
        action="append",
        default=[],
        metavar="KEY[=REGEX]",
        help="keep images together that have the same KEY in the json, or the same first group of "
        "REGEX in it; may be repeated",
    )
    parser.add_argument(
        "--near-duplicates",
        type=int,
        nargs="?",
        const=40,
        metavar="BITS",
        help="keep images together whose perceptual hashes differ in at most so many of 256 bits "
        "(default: %(const)s)",
    )
    parser.add_argument(
        "--image-root",
        help="what the file_name of each image is relative to (default: image_root of the split "
        "that the json is in the config's dataset)",
    )
    add_config_file(parser, "for --image-root", COMMON)
    parser.add_argument("--seed", type=int, default=42, help="default: %(default)s")
    parser.add_argument("--output", help="folder to write to (default: folds, beside json_file)")
    parser.add_argument("--force", action="store_true", help="replace another split")
    args = parser.parse_args(argv)
    if args.folds < 2:
        raise UserError(f"--folds must be at least 2, not {args.folds}")
    if args.val_fraction is not None and not 0 < args.val_fraction < 1:
        raise UserError(f"--val-fraction must be between 0 and 1, not {args.val_fraction}")
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed must be a whole number from 0 to 2³² - 1, not {args.seed}")
    run(args)


if __name__ == "__main__":
    sys.exit(main())
