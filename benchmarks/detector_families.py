"""Trains a small Faster R-CNN and a small D-FINE on toy data for as many CPU seconds, and compares.

    python benchmarks/detector_families.py PROJECT OUTPUT [--seeds 3] [--seconds 90]
        [--pretraining 150] [--size 128]

PROJECT is a generated project; run it with that project's Python. Each detector is trained from
random weights, and from weights that it learned on other toy data, whose classes have other
textures and other names, so that its class layers start fresh. The iterations are as many as fit
into the seconds of user time at the speed of a first short training, data loading included, start
and evaluation not. Both are scored on 100 images; a 95 % interval is over draws of the seeds and of
these images together.

Seen with `--seconds 70 --pretraining 120` on a core that other work slowed: Faster R-CNN 0.099 from
scratch and 0.318 fine-tuned (155 iterations), D-FINE 0.228 and 0.415 (226 iterations); D-FINE gains
0.129 (0.098 to 0.173) and 0.097 (0.064 to 0.133).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

LEAVES = {
    "faster_rcnn": """
from .debug.smoke import dataloader, dataset, lr_multiplier, model, optimizer, train, writers
""",
    "d_fine": """
from .common.schedule import lr_multiplier_cosine as lr_multiplier
from .d_fine_L import dataloader, dataset, model, optimizer, train, writers

# a step on the CPU takes about as long as that of the small Faster R-CNN
model.multi_scale = []
model.config.update(
    freeze_backbone_batch_norms=False,
    d_model=64,
    encoder_hidden_dim=64,
    encoder_ffn_dim=128,
    decoder_ffn_dim=128,
    decoder_layers=3,
    decoder_in_channels=[64, 64, 64],
    encoder_in_channels=[96, 128, 192],
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    num_queries=50,
    num_denoising=40,
    depth_mult=0.34,
)
model.config.backbone_config.update(
    hidden_sizes=[64, 96, 128, 192],
    stem_channels=[3, 16, 16],
    stage_in_channels=[16, 64, 96, 128],
    stage_mid_channels=[16, 24, 32, 48],
    stage_out_channels=[64, 96, 128, 192],
    stage_num_blocks=[1, 1, 2, 1],
    stage_numb_of_layers=[3, 3, 3, 3],
)
optimizer.lr = 1e-3
optimizer.weight_decay = 1e-4
optimizer.params.backbone_lr_factor = 1.0
train.ema.decay = 0.995
lr_multiplier.warmup = 0.1
dataloader.train.mapper.transforms = []
for split in ("train", "test"):
    dataloader[split].num_workers = 0
""",
}
COMMON = """
train.init_checkpoint = {weights!r}
train.max_iter = {iterations}
train.eval_period = 0
train.checkpointer.period = 100000
train.pictures.count = 0
train.log_period = 100
writers.wandb = writers.tensorboard = None
dataset.train.json_file, dataset.val.json_file = {train_json!r}, {val_json!r}
dataset.train.image_root = dataset.val.image_root = {images!r}
for split in ("train", "test"):
    dataloader[split].mapper.augmentations[0].short_edge_length = {size}
"""
RENAMED = """
from detection import classes

classes.CLASSES[:] = [f"other {k}" for k in range(len(classes.CLASSES))]
"""
# other textures than the classes of the project have
OTHER_TOYS = """
import sys
from detection import classes
from detection.data import toy

number, look = len(classes.CLASSES), toy.class_look
classes.CLASSES[:] = [f"other {k}" for k in range(number)]
toy.class_look = lambda label: look(label + number)
toy.make_toy_dataset(toy.Path(sys.argv[1]), num_train=400, num_val=50, seed=1)
"""
START = 40  # iterations of the first short training


class Bench:
    """A project, toy data in a folder, and the trainings on it."""

    def __init__(self, project: Path, output: Path, size: int):
        self.project, self.output, self.size = project.resolve(), output.resolve(), size
        self._python(
            [str(self.project / "tools/make_toy_dataset.py"), "--output", self.toys(False)]
        )
        self._python(["-c", OTHER_TOYS, self.toys(True)])

    def toys(self, is_other: bool) -> str:
        return str(self.output / ("other" if is_other else "toy"))

    def _python(self, command: list[str]) -> float:
        """Run the project's Python; returns the user time in seconds."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.project)}
        ran = subprocess.run(
            [sys.executable, *command],
            cwd=self.project,
            env=environment,
            capture_output=True,
            encoding="utf-8",
        )
        if ran.returncode:
            sys.exit(ran.stdout[-2000:] + ran.stderr[-2000:])
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    def train(
        self, family: str, iterations: int, seed: int, weights: str = "", is_other: bool = False
    ) -> tuple[float, Path]:
        """Train and evaluate; returns the seconds of user time and the folder of the run."""
        toys = self.toys(is_other)
        name = f"families_{family}_{'other' if is_other else 'tuned' if weights else 'scratch'}"
        run = self.output / f"{name}_{iterations}_{seed}"
        leaf = self.project / "configs" / f"{name}.py"
        text = (RENAMED if is_other else "") + LEAVES[family] + COMMON
        leaf.write_text(
            text.format(
                k="{k}",
                weights=weights,
                iterations=iterations,
                size=self.size,
                images=f"{toys}/images",
                train_json=f"{toys}/train.json",
                val_json=f"{toys}/val.json",
            )
        )
        chosen = ["--config-file", str(leaf), f"train.output_dir={run}", f"train.seed={seed}"]
        try:
            return self._python(["train_net.py", *chosen]), run
        finally:
            leaf.unlink()

    def step_seconds(self, family: str) -> float:
        """The user time of an iteration."""
        short, long = (self.train(family, k, 0)[0] for k in (2, 2 + START))
        return (long - short) / START


def main() -> None:
    """Print each training's AP50, and the gains with their intervals."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--pretraining", type=float, default=150, help="seconds of it")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    args = parser.parse_args()
    bench = Bench(args.project, args.output, args.size)
    sys.path.insert(0, str(args.project.resolve()))
    from detection.evaluation.intervals import resample

    coco = json.loads(Path(bench.toys(False), "val.json").read_text())
    draws: dict[tuple[str, str], list] = {}
    for family in LEAVES:
        step = bench.step_seconds(family)
        print(f"{family}: {step:.3f} s of user time an iteration", flush=True)
        iterations = round(args.pretraining / step)
        _, run = bench.train(family, iterations, 0, is_other=True)
        weights = str(run / "model_best.pth")
        print(f"{family}: pretrained for {iterations} iterations", flush=True)
        iterations = round(args.seconds / step)
        for seed in range(1, args.seeds + 1):
            for kind, start in (("scratch", ""), ("fine-tuned", weights)):
                seconds, run = bench.train(family, iterations, seed, start)
                results = json.loads((run / "inference/coco_instances_results.json").read_text())
                draws.setdefault((family, kind), []).append(resample("mAP50", coco, results))
                what = f"{family:12s} {kind:10s} seed {seed}  {iterations} iterations"
                score = draws[family, kind][-1].value
                print(f"{what}  {seconds:4.0f} s  mAP50 {score:.4f}", flush=True)
    print(f"\n{'':24s}mAP50: mean of {args.seeds} seeds, 95 % interval")
    for (family, kind), found in draws.items():
        print(f"{family:12s} {kind:10s}  {interval(found)}")
    for kind in ("scratch", "fine-tuned"):
        one, other = (draws[family, kind] for family in LEAVES)
        print(f"d_fine against faster_rcnn, {kind}: {interval(other, one)}")


def interval(found: list, base: list | None = None, seed: int = 0) -> str:
    """The mean over seeds, or its gain over that of `base`, with its 95 % interval."""
    rng = np.random.default_rng(seed)

    def drawn(runs: list) -> np.ndarray:
        table = np.array([run.values for run in runs])  # (seeds, draws of images)
        chosen = rng.integers(len(runs), size=(table.shape[1], len(runs)))
        return np.take_along_axis(table.T, chosen, axis=1).mean(axis=1)

    mean = np.mean([run.value for run in found])
    samples = drawn(found)
    if base is not None:
        mean, samples = mean - np.mean([run.value for run in base]), samples - drawn(base)
    low, high = np.percentile(samples, [2.5, 97.5])
    sign = "+" if base is not None else ""
    return f"{mean:{sign}.4f} ({low:{sign}.4f} to {high:{sign}.4f})"


if __name__ == "__main__":
    main()
