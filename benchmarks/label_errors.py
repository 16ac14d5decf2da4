"""Plants errors in annotations, and counts how many of them `tools/find_label_errors.py` finds.

    python benchmarks/label_errors.py PROJECT TRAIN_JSON IMAGES OUTPUT [--seed 0] [--part 0.02]
        [--folds 2] [--iterations 600] [--batch 4] [--size 240] [--results JSON …]

PROJECT is a generated project with the classes of the data; run it with that project's Python. A
part of the boxes gets the label of another class, and as many boxes are removed. On each fold of
the images the small detector of configs/debug/smoke.py predicts, trained on the other folds with
their errors in them. Of the N suggestions with the highest scores, N being the number of planted
errors, it counts those that are planted ones, beside N suggestions in a random order, for all and
for each kind. Errors that the data had before count as false: look at the page. With --results,
predictions on the planted json that exist already, nothing is trained.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
from pathlib import Path

LEAF = """
from .debug.smoke import dataloader, dataset, lr_multiplier, model, optimizer, train, writers

train.init_checkpoint = ""
train.max_iter = {iterations}
train.eval_period = train.checkpointer.period = {iterations}
train.pictures.count = 0
writers.wandb = writers.tensorboard = None
dataset.train.json_file, dataset.val.json_file = {train_json!r}, {val_json!r}
dataset.train.image_root = dataset.val.image_root = {images!r}
dataloader.train.total_batch_size = {batch}
dataloader.train.mapper.augmentations[0].short_edge_length = ({size},)
dataloader.test.mapper.augmentations[0].short_edge_length = {size}
"""


def plant(coco: dict, part: float, seed: int) -> tuple[dict, list[dict]]:
    """
    Change the labels of a part of the boxes, and remove as many others.

    Returns:
        The json with the errors, and the annotations as they were of those concerned; what was
        removed has `removed`.
    """
    rng = random.Random(seed)
    classes = [c["id"] for c in coco["categories"]]
    real = [a for a in coco["annotations"] if min(a["bbox"][2:]) > 0]
    count = round(part * len(real))
    chosen = rng.sample(real, 2 * count)
    relabelled = {a["id"] for a in chosen[:count]}
    removed = {a["id"] for a in chosen[count:]}
    annotations = []
    for annotation in coco["annotations"]:
        if annotation["id"] in relabelled:
            others = [k for k in classes if k != annotation["category_id"]]
            annotation = {**annotation, "category_id": rng.choice(others)}
        if annotation["id"] not in removed:
            annotations.append(annotation)
    planted = [{**a, "removed": a["id"] in removed} for a in chosen]
    return {**coco, "annotations": annotations}, planted


def predict_out_of_fold(args: argparse.Namespace, coco: dict, folder: Path) -> list[Path]:
    """Train on all folds but one and predict on that, for each; returns the results files."""
    project, results = Path(args.project).resolve(), []
    for fold in range(args.folds):
        is_val = {i["id"]: k % args.folds == fold for k, i in enumerate(coco["images"])}
        files = []
        for split, wanted in (("train", False), ("val", True)):
            part = {
                **coco,
                "images": [i for i in coco["images"] if is_val[i["id"]] == wanted],
                "annotations": [a for a in coco["annotations"] if is_val[a["image_id"]] == wanted],
            }
            files.append(folder / f"{split}_{fold}.json")
            files[-1].write_text(json.dumps(part))
        leaf = project / "configs" / f"label_errors_{fold}.py"
        leaf.write_text(
            LEAF.format(
                iterations=args.iterations,
                batch=args.batch,
                size=args.size,
                images=str(Path(args.images).resolve()),
                train_json=str(files[0].resolve()),
                val_json=str(files[1].resolve()),
            )
        )
        run, output = folder.resolve() / f"run_{fold}", folder.resolve() / f"results_{fold}.json"
        chosen = ["--config-file", str(leaf), f"train.output_dir={run}"]
        for command in (
            ["train_net.py", *chosen],
            ["predict.py", *chosen, str(files[1].resolve()), "--output", str(output)],
        ):
            subprocess.run([sys.executable, *command], cwd=project, check=True)
        results.append(output)
    return results


def is_found(suggestion: dict, planted: list[dict]) -> int | None:
    """The position in `planted` of the error that a row of the CSV names."""
    for position, error in enumerate(planted):
        if int(suggestion["image_id"]) != error["image_id"]:
            continue
        if error["removed"]:
            box = [float(suggestion[f"new_{side}"] or "nan") for side in ("x", "y", "w", "h")]
            if suggestion["kind"] == "missing box" and iou(box, error["bbox"]) >= 0.5:
                return position
        elif suggestion["kind"] == "wrong label" and suggestion["annotation_id"] == str(
            error["id"]
        ):
            return position
    return None


def iou(a: list[float], b: list[float]) -> float:
    """Of two boxes (x, y, w, h)."""
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("project", "train_json", "images", "output"):
        parser.add_argument(name)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", type=float, default=0.02)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--results", nargs="+", metavar="JSON")
    args = parser.parse_args()
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    coco, planted = plant(json.loads(Path(args.train_json).read_text()), args.part, args.seed)
    train_json = folder / "planted.json"
    train_json.write_text(json.dumps(coco))
    results = args.results or predict_out_of_fold(args, coco, folder)
    csv_file = folder.resolve() / "label_errors.csv"
    command = [sys.executable, "tools/find_label_errors.py", *map(str, results)]
    command += [str(train_json.resolve()), "--image-root", str(Path(args.images).resolve())]
    command += ["--output", str(csv_file.with_suffix(".html")), "--max", "100000"]
    subprocess.run(command, cwd=args.project, check=True)
    with csv_file.open(encoding="utf-8-sig", newline="") as file:
        suggestions = list(csv.DictReader(file))
    shuffled = random.Random(args.seed).sample(suggestions, len(suggestions))
    print(f"{len(planted)} errors planted, {len(suggestions)} suggestions")
    for title, kinds in (
        ("all", None),
        ("labels", ("wrong label",)),
        ("boxes", ("missing box",)),
    ):
        wanted = [e for e in planted if kinds is None or e["removed"] == (title == "boxes")]
        for way, rows in (("by score", suggestions), ("in random order", shuffled)):
            first = [r for r in rows if kinds is None or r["kind"] in kinds][: len(wanted)]
            found = {is_found(row, wanted) for row in first} - {None}
            part = len(found) / len(wanted)
            print(
                f"{title}: the first {len(first)} suggestions {way} name {len(found)} of "
                f"{len(wanted)} ({part:.0%})"
            )
    found = {is_found(row, planted) for row in suggestions} - {None}
    print(f"all suggestions together name {len(found)} ({len(found) / len(planted):.0%})")


if __name__ == "__main__":
    main()
