"""Times a project's training beside detectron2's own, in one run.

    python benchmarks/training_speed.py PROJECT [--rounds 5] [--iterations 40] [--photo 1024]

PROJECT is a generated project; run it with that project's Python. All train the model of
configs/debug/smoke.py in 256 pixels, four images a batch, on JPEG photos as they come from a
camera (see loader_throughput.py), without worker processes:

- detectron2: the loop, hooks and writers of its tools/lazyconfig_train_net.py, with its loader
  and its DatasetMapper;
- its loop on the project's loader: what is left between this and the next is loop and hooks;
- the project's train_net.py, W&B offline, with the weights in memory as detectron2 has them;
- the same as it comes, channels last.

Each is a process of its own, with the same weights, photos and settings of threads; they take
turns. An iteration lasts from the start of its step to that of the next, hooks and writers
included; the median over all of them counts. The time of processor, of all threads, is told too:
on a machine that has other work it says more. The second and the third get the same batches and
random numbers, so their losses must be the same. OMP_WAIT_POLICY, which the project's Makefile
sets, is told apart: all run with it, and then the first and the last without.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LEAST_SPEEDUP, MOST_DIFFERENCE = 1.1, 1e-4
THEIRS, MIXED, ALIKE, OURS = (
    *("detectron2", "its loop, the project's loader"),
    *("the project, in their layout", "the project"),
)
WARM_UP = 5  # iterations that do not count


def make_data(folder: Path, side: int) -> None:
    """Write photos and a COCO json with the project's classes."""
    from detection.classes import CLASSES
    from loader_throughput import make_records

    records = make_records(folder, side)
    objects = [(record["image_id"], a) for record in records for a in record["annotations"]]
    coco = {
        "images": [
            {"id": r["image_id"], "file_name": Path(r["file_name"]).name, "width": side}
            | {"height": side}
            for r in records
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": a["category_id"] % len(CLASSES) + 1,
                "bbox": a["bbox"],
                "area": a["bbox"][2] * a["bbox"][3],
                "iscrowd": 0,
            }
            for number, (image_id, a) in enumerate(objects, start=1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)],
    }
    (folder / "photos.json").write_text(json.dumps(coco), encoding="utf-8")


def arguments(folder: Path, iterations: int) -> list[str]:
    """The command line that all train with."""
    return [
        *("--config-file", "configs/debug/smoke.py"),
        *(f"dataset.{split}.json_file={folder}/photos.json" for split in ("train", "val")),
        *(f"dataset.{split}.image_root={folder}" for split in ("train", "val")),
        *("train.device=cpu", f"train.max_iter={iterations}", "train.eval_period=0"),
        *(f"train.checkpointer.period={iterations}", "train.pictures.count=0"),
        *("dataloader.train.total_batch_size=4", "writers.wandb.mode=offline"),
        "dataloader.train.mapper.augmentations.0.short_edge_length=[256]",
        "dataloader.test.mapper.augmentations.0.short_edge_length=256",
    ]


def train(variant: str, argv: list[str], output_dir: Path) -> dict:
    """Train in this process; return the times, in seconds, and the loss of each iteration."""
    import train_net
    from detection.engine.trainer import Trainer
    from detection.utils.arguments import parse_args
    from detectron2.engine import SimpleTrainer

    is_ours = variant in (ALIKE, OURS)
    trainer_class = Trainer if is_ours else SimpleTrainer
    starts, processor, losses = [], [], []
    step = trainer_class.run_step

    def timed_step(trainer) -> None:
        starts.append(time.perf_counter())
        processor.append(time.process_time())
        step(trainer)
        losses.append(trainer.storage.latest()["total_loss"][0])

    trainer_class.run_step = timed_step
    args = parse_args([*argv, f"train.output_dir={output_dir}"])
    if variant == ALIKE:
        args.opts.append("train.channels_last=False")
    if is_ours:
        train_net.main(args)
    else:
        upstream_loop(args, with_their_loader=variant == THEIRS)
    seconds, on_processor = (
        [end - start for start, end in itertools.pairwise(times)][WARM_UP:]
        for times in (starts, processor)
    )
    return {"seconds": seconds, "on_processor": on_processor, "losses": losses}


def upstream_loop(args: argparse.Namespace, with_their_loader: bool) -> None:
    """What detectron2's tool does with a config: its trainer, hooks and writers."""
    import detectron2.data.transforms as T
    from detection.config import load_config
    from detection.engine.hooks import SeedIterations
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import LazyCall, instantiate
    from detectron2.data import DatasetMapper, build_detection_train_loader
    from detectron2.engine import SimpleTrainer, default_setup, default_writers, hooks

    cfg = load_config(args.config_file, args.opts)
    if with_their_loader:
        ours = cfg.dataloader.train
        cfg.dataloader.train = LazyCall(build_detection_train_loader)(
            dataset=ours.dataset,
            mapper=LazyCall(DatasetMapper)(
                is_train=True,
                augmentations=[
                    LazyCall(T.ResizeShortestEdge)(
                        short_edge_length=ours.mapper.augmentations[0].short_edge_length,
                        sample_style="choice",
                        max_size=1333,
                    ),
                    LazyCall(T.RandomFlip)(horizontal=True),
                ],
                image_format="BGR",
            ),
            total_batch_size=ours.total_batch_size,
            num_workers=0,
        )
    default_setup(cfg, args)
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), instantiate(cfg.optimizer))
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            None if with_their_loader else SeedIterations(cfg.train.seed),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.PeriodicWriter(writers, period=cfg.train.log_period),
        ]
    )
    trainer.train(0, cfg.train.max_iter)


def run(variant: str, folder: Path, iterations: int, passive: bool) -> dict:
    """Train in a process of its own, as `train` does."""
    environment = {**os.environ, "WANDB_ERROR_REPORTING": "false"}
    environment.pop("OMP_WAIT_POLICY", None)
    if passive:
        environment["OMP_WAIT_POLICY"] = "passive"
    with tempfile.TemporaryDirectory(dir=folder) as output:
        result = Path(output) / "result.json"
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            ".",
            "--train",
            variant,
            "--into",
            str(result),
        ]
        command += ["--data", str(folder), "--iterations", str(iterations)]
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        if process.returncode:
            sys.exit(process.stdout + process.stderr)
        return json.loads(result.read_text())


def compare(folder: Path, rounds: int, iterations: int) -> bool:
    """Print the median times and what each part gains; return whether the claims hold."""
    kinds = [(variant, True) for variant in (THEIRS, MIXED, ALIKE, OURS)]
    kinds += [(THEIRS, False), (OURS, False)]
    results = {kind: [] for kind in kinds}
    for _ in range(rounds):  # in turn, so that all see the same machine
        for variant, passive in kinds:
            results[variant, passive].append(run(variant, folder, iterations, passive))
    milliseconds, on_processor = (
        {
            kind: 1000 * statistics.median(s for r in runs for s in r[clock])
            for kind, runs in results.items()
        }
        for clock in ("seconds", "on_processor")
    )
    print(f"{rounds} rounds of {iterations} iterations; the median iteration:")
    for (variant, passive), value in milliseconds.items():
        waiting = "OMP_WAIT_POLICY=passive" if passive else "OMP_WAIT_POLICY unset"
        busy = on_processor[variant, passive]
        print(f"  {variant:32} {waiting:25} {value:8.1f} ms, {busy:8.1f} ms of processor")
    speedup = milliseconds[THEIRS, True] / milliseconds[OURS, True]
    print(f"  the project / detectron2, same threads: {speedup:.2f} times as fast, of which")
    print(f"    loader {milliseconds[THEIRS, True] / milliseconds[MIXED, True]:.2f}, ", end="")
    print(f"loop and hooks {milliseconds[MIXED, True] / milliseconds[ALIKE, True]:.2f}, ", end="")
    print(f"layout in memory {milliseconds[ALIKE, True] / milliseconds[OURS, True]:.2f}")
    gained = milliseconds[OURS, False] / milliseconds[OURS, True]
    print(f"  OMP_WAIT_POLICY=passive, beside that: {gained:.2f} times as fast")
    losses = [results[kind, True][0]["losses"] for kind in (MIXED, ALIKE)]
    difference = max(abs(a - b) for a, b in zip(*losses, strict=True))
    print(f"  largest difference of the losses, set alike: {difference:.1e}")
    return speedup >= LEAST_SPEEDUP and difference <= MOST_DIFFERENCE


def main() -> None:
    """Compare in the project's folder; exit with 1 if the claims do not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, help="folder of a generated project")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--photo", type=int, default=1024, help="side of the photos in pixels")
    parser.add_argument("--train", help=argparse.SUPPRESS)  # what `run` asks a process for
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.chdir(args.project)
    sys.path.insert(0, str(Path.cwd()))
    if args.train:
        argv = arguments(args.data, args.iterations)
        result = train(args.train, argv, args.into.with_name("output"))
        args.into.write_text(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        code = "import sys; from pathlib import Path; from training_speed import make_data; "
        code += "make_data(Path(sys.argv[1]), int(sys.argv[2]))"
        paths = os.pathsep.join([str(Path(__file__).resolve().parent), str(Path.cwd())])
        command = [sys.executable, "-c", code, folder, str(args.photo)]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=True)
        sys.exit(not compare(Path(folder), args.rounds, args.iterations))


if __name__ == "__main__":
    main()
