"""Trains with a project's default recipe and with detectron2's, and finds which part matters.

    python benchmarks/recipe_quality.py PROJECT --set NAME=TRAIN_JSON,VAL_JSON,IMAGES [--set …]
        [--variants ours detectron2 schedule …] [--seeds 3] [--iterations 200] [--batch 4]
        [--size 192] [--results FILE] [--opts key=value …]

Run it with the Python of PROJECT, a generated project with any classes: each set is trained in a
copy that has the set's own. All variants train the small detector of configs/debug/smoke.py from
the same random weights, through train_net.py, and are evaluated at the same size. `ours` is what
the leaves take from configs/common, `detectron2` is all that detectron2's own configs/common differ
in, and every other variant is `ours` with the one change that VARIANTS below has for it.

Finished runs are kept in FILE and not repeated, so a study can be interrupted and extended. The
table has each variant's mean AP, and the mean of its differences to `ours` for the same set and
seed with a 95% t interval: by set, and over all sets.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scipy.stats import t as student

BASE = """
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
train.max_iter = train.eval_period = train.checkpointer.period = {iterations}
train.pictures.count = 0
writers.wandb = writers.tensorboard = None
dataset.train.json_file, dataset.val.json_file = {train_json!r}, {val_json!r}
dataset.train.image_root = dataset.val.image_root = {images!r}
dataloader.train.total_batch_size = {batch}
dataloader.train.num_workers = dataloader.test.num_workers = 0
dataloader.test.mapper.augmentations[0].short_edge_length = {size}
resize = dataloader.train.mapper.augmentations[0]
resize.short_edge_length = tuple(s * {size} // 1024 for s in resize.short_edge_length)
"""

# detectron2's 1x: steps at 2/3 and 8/9, a warm-up of 1000 of 90,000 iterations
SCHEDULE = """
from detection.solver.schedule import cosine, multistep
from detectron2.config import LazyCall as L

lr_multiplier = L({target})({arguments})
"""
# detectron2's loader, sampler and DatasetMapper with Pillow's resizing, for sizes from 0.8 to 1
LOADER = """
import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, build_detection_train_loader, get_detection_dataset_dicts

dataloader.train = L(build_detection_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names=dataloader.train.dataset.names),
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
optimizer.lr.total_batch_size = {batch}
"""
COLOURS = """
from .common.augmentations import photometric

dataloader.train.mapper.transforms = photometric
"""
REPEATS = "\ndataloader.train.repeat_threshold = 0.3\n"


def schedule(target: str, arguments: str) -> str:
    return SCHEDULE.replace("{target}", target).replace("{arguments}", arguments)


STEPS, WARMUP = "[2 / 3, 8 / 9]", "1 / 90"
VARIANTS = {
    "ours": "",
    "detectron2": schedule("multistep", f"milestones={STEPS}, warmup={WARMUP}") + LOADER,
    "loader": LOADER,
    "schedule": schedule("multistep", f"milestones={STEPS}, warmup={WARMUP}"),
    "steps": schedule("multistep", f"milestones={STEPS}, warmup=lr_multiplier.warmup"),
    "warmup": f"\nlr_multiplier.warmup = {WARMUP}\n",
    "late": schedule("multistep", "milestones=[0.9], warmup=0.05"),
    "cosine": schedule("cosine", "warmup=0.05"),
    "one size": "\nresize.short_edge_length = ({size},)\n",
    "wide sizes": "\nresize.short_edge_length = tuple({size} * k // 8 for k in range(4, 11))\n",
    "no grouping": "\ndataloader.train.aspect_ratio_grouping = False\n",
    "repeats": REPEATS,
    "colours": COLOURS,
    "average": "\ntrain.ema.enabled = True\n",
    "half lr": "\noptimizer.lr.base_lr /= 2\n",
    "double lr": "\noptimizer.lr.base_lr *= 2\n",
    "decay norm": "\noptimizer.params.weight_decay_norm = None\n",
    "lr of 16": "\noptimizer.lr.power = 0.0\n",  # 0.02 whatever the batch, as detectron2 has it
    "sqrt lr": "\noptimizer.lr.power = 0.5\n",
}


def copy_with_classes(project: Path, train_json: str, folder: Path) -> Path:
    """Copy what a training needs to `folder`, with the classes of the annotations."""
    folder.mkdir(parents=True)
    for name in ("configs", "detection", "third_party"):
        if (project / name).is_dir():
            shutil.copytree(project / name, folder / name)
    for name in ("train_net.py", "pyproject.toml"):
        shutil.copy(project / name, folder)
    categories = json.loads(Path(train_json).read_text(encoding="utf-8"))["categories"]
    names = [c["name"] for c in sorted(categories, key=lambda c: c["id"])]
    (folder / "detection/classes.py").write_text(f"CLASSES = {names!r}\n", encoding="utf-8")
    return folder


def train(project: Path, text: str, seed: int, overrides: list[str]) -> dict:
    """Train by a config of this text; return the scores of its last evaluation."""
    config, output = project / "configs/recipe.py", project / "output"
    config.write_text(text, encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "train_net.py", "--config-file", str(config), f"train.seed={seed}"]
    run = subprocess.run(
        [*command, f"train.output_dir={output}", *overrides],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if run.returncode:
        raise SystemExit(run.stderr[-2000:])
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return [row for row in rows if "bbox/AP" in row][-1]


def interval(differences: list[float]) -> str:
    """The mean and the half width of its 95% t interval."""
    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return f"{mean:+5.1f}       "
    half = student.ppf(0.975, count - 1) * statistics.stdev(differences) / count**0.5
    return f"{mean:+5.1f} ±{half:4.1f}{'*' if abs(mean) > half else ' '}"


def print_table(scores: dict[tuple, dict], sets: list[str], variants: list[str]) -> None:
    """
    Print a row per variant: by set its mean AP and difference to ours, then that over all sets.

    Args:
        scores: {(set, variant, seed): {"AP": …, "AP50": …}}.
    """
    print(f"\n{'AP':12s}" + "".join(f"{name:>24s}" for name in sets) + f"{'all sets':>18s}")
    for variant in variants:
        cells, pooled = [], []
        for name in sets:
            own = {s: r["AP"] for (n, v, s), r in scores.items() if (n, v) == (name, variant)}
            base = {s: r["AP"] for (n, v, s), r in scores.items() if (n, v) == (name, "ours")}
            paired = [own[s] - base[s] for s in own if s in base and variant != "ours"]
            mean = f"{statistics.mean(own.values()):5.1f}" if own else ""
            cells.append(f"{mean:>10s} {interval(paired) if paired else '':13s}")
            pooled += paired
        whole = f"{interval(pooled)} n={len(pooled)}" if pooled else ""
        print(f"{variant:12s}{''.join(cells)}    {whole}")
    print(
        "Differences to ours, set by set and seed by seed; ± is the 95% t interval, * is outside."
    )


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", type=Path)
    parser.add_argument("--set", action="append", required=True, help="NAME=TRAIN,VAL,IMAGES")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["ours", "detectron2"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=192, help="shorter side in the evaluation")
    parser.add_argument("--opts", nargs="*", default=[], help="overrides in all trainings")
    parser.add_argument("--results", type=Path, default=Path("recipe_quality.jsonl"))
    args = parser.parse_args()
    sets = {}
    for given in args.set:
        name, _, paths = given.partition("=")
        sets[name] = [str(Path(path).resolve()) for path in paths.split(",")]
    settings = [args.iterations, args.batch, args.size, *args.opts]
    scores = {}
    if args.results.exists():
        rows = map(json.loads, args.results.read_text(encoding="utf-8").splitlines())
        scores = {(r["set"], r["variant"], r["seed"]): r for r in rows if r["settings"] == settings}
    with tempfile.TemporaryDirectory() as scratch:
        projects = {
            name: copy_with_classes(args.project.resolve(), paths[0], Path(scratch) / name)
            for name, paths in sets.items()
        }
        for seed in range(1, args.seeds + 1):
            for name, (train_json, val_json, images) in sets.items():
                for variant in args.variants:
                    if (name, variant, seed) in scores:
                        continue
                    text = (BASE + VARIANTS[variant]).format(
                        train_json=train_json, val_json=val_json, images=images, **vars(args)
                    )
                    row = train(projects[name], text, seed, args.opts)
                    row = {"AP": row["bbox/AP"], "AP50": row["bbox/AP50"]}
                    row |= {"set": name, "variant": variant, "seed": seed, "settings": settings}
                    scores[name, variant, seed] = row
                    with args.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    values = f"AP {row['AP']:5.1f}  AP50 {row['AP50']:5.1f}"
                    print(f"{name:10s} {variant:12s} seed {seed}  {values}", flush=True)
    print_table(scores, list(sets), args.variants)


if __name__ == "__main__":
    main()
