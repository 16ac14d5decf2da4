"""Records every number that a user of a generated project sees, or compares two such records.

    python benchmarks/same_numbers.py record PROJECT FILE
    python benchmarks/same_numbers.py compare BEFORE AFTER [--tolerance 1e-6]

PROJECT is a generated, installed project. `record` makes toy data, trains four models, resumes a
training, trains in two processes, predicts, and writes submissions and a report, all with fixed
seeds and through the project's commands alone, so that it runs whatever the project's modules are
called. FILE gets the losses, the hashes of final weights, W&B's rows, and what files contain.
`compare` ends with 1 where two records differ; without a tolerance, numbers must be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

LEAVES = (
    "faster_rcnn_R_50_FPN",
    "cascade_rcnn_R_50_FPN",
    "retinanet_R_50_FPN",
    "mask_rcnn_R_50_FPN",
)
# without open_images, whose labels have no blanks, as the default classes do
FORMATS = ("recycling_trash", "global_wheat", "rsna", "vinbigdata", "coco")
SMALL = ["train.device=cpu", "train.init_checkpoint=''", "dataloader.train.total_batch_size=2"]
SMALL += [f"dataloader.{part}.num_workers=0" for part in ("train", "test")]
SMALL += ["dataloader.train.mapper.augmentations.0.short_edge_length=[96]"]
SMALL += ["dataloader.test.mapper.augmentations.0.short_edge_length=96"]
VOLATILE = re.compile(r"time|eta_seconds|^_|images/s|predictions|pictures|mem")

WEIGHTS = """
import hashlib, sys, torch
state = torch.load(sys.argv[1], map_location="cpu", weights_only=True)["model"]
sha = hashlib.sha256()
for name in sorted(state):
    sha.update(name.encode()), sha.update(state[name].contiguous().numpy().tobytes())
print(sha.hexdigest())
"""


class Project:
    """Runs the commands of a generated project in its own folder."""

    def __init__(self, root: Path, work: Path):
        self.root, self.work = root.resolve(), work
        self.python = str(self.root / ".venv/bin/python")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        self.environment = environment | {
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "offline",
        }

    def run(self, *arguments: object) -> str:
        """Run Python on `arguments`; its standard output."""
        command = [self.python, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def train(self, config: str, output: Path, *arguments: str) -> None:
        """Train a config on the toy data for eight iterations, or as overrides say."""
        toy = self.work / "toy"
        data = [f"dataset.{s}.json_file={toy}/{s}.json" for s in ("train", "val")]
        data += [f"dataset.{s}.image_root={toy}/images" for s in ("train", "val")]
        steps = ["train.max_iter=8", "train.eval_period=4", "train.checkpointer.period=4"]
        steps += ["train.log_period=1", f"train.output_dir={output}"]
        self.run("train_net.py", "--config-file", config, *data, *SMALL, *steps, *arguments)

    def outcome(self, output: Path) -> dict:
        """What a training leaves: rows of metrics.json and of W&B, and its weights' hash."""
        (parts,) = {tuple(sorted(output.glob("wandb/offline-run-*/*.wandb")))}
        rows = []
        for part in parts:
            lines = self.run("-m", "wandb", "leet", "inspect", "--json", part).splitlines()
            records = map(json.loads, lines)
            rows += [r["history"]["item"] for r in records if r.get("type") == "history"]
        with (output / "metrics.json").open(encoding="utf-8") as file:
            metrics = [json.loads(line) for line in file]
        return {
            "metrics.json": [lasting(row) for row in metrics],
            "wandb": [lasting(row) for row in rows],
            "weights": self.run("-c", WEIGHTS, output / "model_final.pth").strip(),
        }


def lasting(row: dict) -> dict:
    """The numbers of a row that do not depend on the clock."""
    return {k: v for k, v in row.items() if not VOLATILE.search(k) and not isinstance(v, dict)}


def plant_results(json_file: Path, output: Path, seed: int) -> None:
    """Write detections that find most boxes of a json more or less well."""
    rng = random.Random(seed)
    coco = json.loads(json_file.read_text(encoding="utf-8"))
    classes = [category["id"] for category in coco["categories"]]
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    results = []
    for annotation in coco["annotations"] * 2:
        x, y, w, h = annotation["bbox"]
        width, height = sizes[annotation["image_id"]]
        x = min(max(0, x + rng.gauss(0, w / 8)), width - w)
        y = min(max(0, y + rng.gauss(0, h / 8)), height - h)
        label = annotation["category_id"] if rng.random() < 0.8 else rng.choice(classes)
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": label,
                "bbox": [round(number, 2) for number in (x, y, w, h)],
                "score": round(rng.random(), 4),
            }
        )
    output.write_text(json.dumps(results), encoding="utf-8")


def page_text(file: Path) -> list[str]:
    """The words of a page, without its pictures and styles."""
    text = re.sub(r"(?s)<(style|script).*?</\1>|<[^>]*>", " ", file.read_text(encoding="utf-8"))
    return html.unescape(text).split()


def record(root: Path, file: Path) -> None:
    """Write what the project at `root` computes to `file`."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        project, found = Project(root, work), {}
        toy = ("--train", "12", "--val", "6", "--size", "96")
        project.run("tools/make_toy_dataset.py", "--output", work / "toy", *toy)
        for leaf in LEAVES:
            print(leaf, flush=True)
            # random weights behind frozen BatchNorm diverge at the default rate
            project.train(f"configs/{leaf}.py", work / leaf, "optimizer.lr=1e-6")
            found[leaf] = project.outcome(work / leaf)
        print("resumed, two processes", flush=True)
        smoke, half = work / "smoke", work / "resumed"
        project.train("configs/debug/smoke.py", smoke)
        found["smoke"] = project.outcome(smoke)
        shutil.copytree(smoke, half, ignore=shutil.ignore_patterns("wandb*", "model_final*"))
        (half / "last_checkpoint").write_text("model_0000003.pth")
        project.train("configs/debug/smoke.py", half, "--resume")
        found["resumed"] = project.outcome(half) | {"wandb": None}
        project.train(
            "configs/debug/smoke.py", work / "two", "--num-gpus", "2", "--dist-url", "auto"
        )
        found["two processes"] = project.outcome(work / "two")

        print("predictions, submissions, report", flush=True)
        val = work / "toy/val.json"
        config = ("--config-file", "configs/debug/smoke.py")
        root_of_images = ("--image-root", work / "toy/images")
        predicted = work / "predicted.json"
        checkpoint = ("--checkpoint", smoke / "model_best.pth")
        project.run(
            *("predict.py", *config, *checkpoint, *root_of_images, val, "--output", predicted),
            *("train.device=cpu", *SMALL[-1:]),
        )
        found["predictions"] = json.loads(predicted.read_text())
        members = [work / "a.json", work / "b.json"]
        for seed, member in enumerate(members):
            plant_results(val, member, seed)
        for name in FORMATS:
            output = work / ("submission.json" if name == "coco" else "submission.csv")
            options = ("--format", name, "--output", output)
            project.run("tools/make_submission.py", members[0], val, *options)
            found[f"submission {name}"] = hashlib.sha256(output.read_bytes()).hexdigest()
        fused = work / "fused.json"
        found["ensemble"] = project.run(
            "tools/ensemble.py", val, *members, "--output", fused
        ).replace(folder, "")
        found["fused"] = json.loads(fused.read_text())
        found["score"] = project.run("tools/score_results.py", members[0], val).split()
        page = work / "report.html"
        options = (*root_of_images, "--run", smoke, "--output", page)
        project.run("tools/report.py", members[0], val, *options)
        found["report"] = [word.replace(folder, "") for word in page_text(page)]
        file.write_text(json.dumps(found, indent=1), encoding="utf-8")


def differences(a: object, b: object, tolerance: float, where: str = "") -> Iterator[str]:
    """Yield a line for each value that differs."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            if key in a and key in b:
                yield from differences(a[key], b[key], tolerance, f"{where}/{key}")
            else:
                yield f"{where}/{key}: only {'before' if key in a else 'after'}"
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, pair in enumerate(zip(a, b, strict=True)):
            yield from differences(*pair, tolerance, f"{where}[{number}]")
    elif isinstance(a, float | int) and isinstance(b, float | int):
        if a != b and not math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance):
            yield f"{where}: {a} -> {b}"
    elif a != b:
        yield f"{where}: {str(a)[:70]} -> {str(b)[:70]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("project", type=Path)
    recording.add_argument("file", type=Path)
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--tolerance", type=float, default=0.0)
    args = parser.parse_args()
    if args.command == "record":
        record(args.project, args.file)
        return
    before, after = (json.loads(path.read_text("utf-8")) for path in (args.before, args.after))
    lines = list(differences(before, after, args.tolerance))
    print("\n".join(lines[:100]))
    sys.exit(f"{len(lines)} values differ" if lines else 0)


if __name__ == "__main__":
    main()
