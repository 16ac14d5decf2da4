"""Trains with a project's default recipe and with detectron2's, and compares what they reach.

    python benchmarks/recipe_quality.py PROJECT TRAIN_JSON VAL_JSON IMAGES [--seeds 3]
        [--iterations 300] [--batch 4] [--size 240] [--ours "key=value …"]

PROJECT is a generated project with the classes of the data; run it with that project's Python. Both
train the same small detector (that of configs/debug/smoke.py) from the same random weights for as
many iterations, through the project's train_net.py, and are evaluated at the same size. They differ
in what the leaves take from configs/common: the learning rate and its schedule, averaging of
weights, the range of training sizes (as parts of the evaluation's), loading. detectron2's side is
that of its configs/common: SGD at 0.02 for 16 images, scaled to the batch; steps at 2/3 and 8/9
after a warm-up of 1/90 of the training; its loader, sampler and DatasetMapper; sizes from 0.8 to 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

COMMON = """
from .debug.smoke import model
from .faster_rcnn_R_50_FPN import (
    dataloader,
    dataset,
    lr_multiplier,
    optimizer,
    train,
    writers,
)

train.init_checkpoint = ""
train.max_iter = {iterations}
train.eval_period = {iterations}
train.checkpointer.period = {iterations}
train.pictures.count = 0
writers.wandb = writers.tensorboard = None
dataset.train.json_file, dataset.val.json_file = {train_json!r}, {val_json!r}
dataset.train.image_root = dataset.val.image_root = {images!r}
dataloader.train.total_batch_size = {batch}
dataloader.train.num_workers = dataloader.test.num_workers = 0
dataloader.test.mapper.augmentations[0].short_edge_length = {size}
"""
OURS = """
resize = dataloader.train.mapper.augmentations[0]
resize.short_edge_length = tuple(s * {size} // 1024 for s in resize.short_edge_length)
"""
THEIRS = """
import detectron2.data.transforms as T
import torch
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler

names = dataloader.train.dataset.names
dataloader.train = L(build_detection_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names=names),
    mapper=L(DatasetMapper)(
        is_train=True,
        augmentations=[
            L(T.ResizeShortestEdge)(
                short_edge_length=tuple(s * {size} // 800 for s in (640, 672, 704, 736, 768, 800)),
                sample_style="choice",
                max_size=1333,
            ),
            L(T.RandomFlip)(horizontal=True),
        ],
        image_format="BGR",
    ),
    total_batch_size={batch},
    num_workers=0,
)
dataloader.test.mapper.image_format = "BGR"
optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),
    lr=0.02 * {batch} / 16,
    momentum=0.9,
    weight_decay=1e-4,
)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[60000, 80000, 90000]
    ),
    warmup_length=1000 / 90000,
    warmup_method="linear",
    warmup_factor=0.001,
)
train.ema = dict(enabled=False, decay=0.9998, warmup=10)
"""


def train(project: Path, text: str, name: str, seed: int, overrides: list[str]) -> dict:
    """Train by a config of this text; return the scores of its last evaluation."""
    config, output = project / "configs" / f"{name}.py", project / "output" / f"{name}_{seed}"
    config.write_text(text, encoding="utf-8")
    command = [sys.executable, "train_net.py", "--config-file", str(config), f"train.seed={seed}"]
    try:
        subprocess.run(["rm", "-rf", str(output)], check=True)
        subprocess.run(
            [*command, f"train.output_dir={output}", *overrides],
            cwd=project,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    finally:
        config.unlink()
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return [row for row in rows if "bbox/AP" in row][-1]


def main() -> None:
    """Print AP50 and AP of each seed, and their means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", type=Path)
    for name in ("train_json", "val_json", "images"):
        parser.add_argument(name)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=240, help="shorter side in the evaluation")
    parser.add_argument("--ours", default="", help="overrides of the project's recipe, to try")
    parser.add_argument("--only", choices=("ours", "detectron2's"), help="train one of the two")
    args = parser.parse_args()
    values = vars(args)
    for name in ("train_json", "val_json", "images"):
        values[name] = str(Path(values[name]).resolve())
    sides = {"ours": (COMMON + OURS, args.ours.split()), "detectron2's": (COMMON + THEIRS, [])}
    sides = {side: sides[side] for side in ([args.only] if args.only else sides)}
    scores: dict[str, list] = {side: [] for side in sides}
    for seed in range(1, args.seeds + 1):
        for side, (text, overrides) in sides.items():
            name = f"recipe_{'ours' if side == 'ours' else 'theirs'}"
            row = train(args.project.resolve(), text.format(**values), name, seed, overrides)
            scores[side].append((row["bbox/AP50"], row["bbox/AP"]))
            ap50, ap = scores[side][-1]
            print(f"seed {seed}  {side:14s} AP50 {ap50:5.1f}  AP {ap:5.1f}", flush=True)
    for side, pairs in scores.items():
        ap50, ap = (statistics.mean(values) for values in zip(*pairs, strict=True))
        print(f"mean    {side:14s} AP50 {ap50:5.1f}  AP {ap:5.1f}")


if __name__ == "__main__":
    main()
