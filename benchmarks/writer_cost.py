"""Times a project's W&B writer beside other ways to log, and beside JSONWriter, in one run.

    python benchmarks/writer_cost.py PROJECT [--iterations 2000] [--runs 5]

PROJECT is a generated project; run it with that project's Python. First, the microseconds an
iteration that each writer takes while it logs what a training puts into the EventStorage: 31
scalars and, four times, an evaluation; offline, the writers in turn, medians over the runs. Then a
real training on toy data, with and without W&B in turn: what of its time goes into the writer, and
how much longer an iteration takes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCALARS = ["total_loss", "lr", "time", "data_time", "eta_seconds"]
SCALARS += [f"loss_{k}" for k in range(26)]
UNSMOOTHED = ("lr", "eta_seconds")
EVALUATION = ["bbox/AP", "bbox/AP50", "bbox/AP75", "bbox/APs", "bbox/APm", "bbox/APl"]
EVALUATIONS = 4
PERIOD = 20  # the default


class MedianWriter:
    """As written by hand: at each iteration a median over every history, formatted."""

    period = 1

    def __init__(self, folder: str):
        import wandb

        self._run = wandb.init(dir=folder, mode="offline", settings=quiet())

    def write(self) -> None:
        """Log all there is, new or not."""
        from detectron2.utils.events import get_event_storage

        storage = get_event_storage()
        row = {name: f"{h.median(20):.6f}" for name, h in storage.histories().items()}
        self._run.log(row, step=storage.iter)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class PerKeyWriter:
    """One `log` call for each new scalar, with the step at which it was put."""

    def __init__(self, folder: str, period: int):
        import wandb

        self.period = period
        self._run = wandb.init(dir=folder, mode="offline", settings=quiet())
        self._last = -1

    def write(self) -> None:
        """Log what is new."""
        from detectron2.utils.events import get_event_storage

        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(20)
        for name, (value, iteration) in latest.items():
            if iteration > self._last:
                self._run.log({name: value}, step=iteration)
        self._last = storage.iter

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def quiet():
    """Settings with which W&B prints and captures nothing."""
    import wandb

    return wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True
    )


def ours(folder: str, period: int):
    """The project's W&B writer."""
    from detection.writers.metric_names import MetricNames
    from detection.writers.wandb_writer import WandbWriter
    from detectron2.data import MetadataCatalog

    MetadataCatalog.get("benchmark").thing_classes = [f"class {k}" for k in range(10)]
    names = MetricNames("mmdet2", "benchmark")
    return WandbWriter(folder, names, period=period, mode="offline")


def upstream_json(folder: str, period: int):
    """detectron2's own JSONWriter."""
    from detectron2.utils.events import JSONWriter

    writer = JSONWriter(f"{folder}/metrics.json")
    writer.period = period
    return writer


def our_json(folder: str, period: int):
    """The project's JSONWriter."""
    from detection.writers.files import JSONWriter

    return JSONWriter(f"{folder}/metrics.json", period)


WRITERS = {
    "median of all, each iteration": lambda folder: MedianWriter(folder),
    "a log call a key, period 1": lambda folder: PerKeyWriter(folder, 1),
    "a log call a key, period 20": lambda folder: PerKeyWriter(folder, PERIOD),
    "detectron2's JSONWriter, period 1": lambda folder: upstream_json(folder, 1),
    "detectron2's JSONWriter, period 20": lambda folder: upstream_json(folder, PERIOD),
    "the project's JSONWriter, period 1": lambda folder: our_json(folder, 1),
    "the project's JSONWriter, period 20": lambda folder: our_json(folder, PERIOD),
    "the project's W&B writer, period 1": lambda folder: ours(folder, 1),
    "the project's W&B writer, period 20": lambda folder: ours(folder, PERIOD),
}


def cost(make_writer, iterations: int) -> float:
    """Microseconds an iteration in the writer's `write`; opening and closing do not count."""
    import numpy as np
    from detectron2.utils.events import EventStorage
    from omegaconf import OmegaConf

    values = np.random.default_rng(0).uniform(0.1, 2, (iterations, len(SCALARS)))
    with tempfile.TemporaryDirectory() as folder:
        writer = make_writer(folder)
        if hasattr(writer, "start"):
            writer.start(0, OmegaConf.create())
        spent = 0.0
        with EventStorage() as storage:
            for at in range(iterations):
                storage.iter = at
                for name, value in zip(SCALARS, values[at].tolist(), strict=True):
                    storage.put_scalar(name, value, smoothing_hint=name not in UNSMOOTHED)
                if (at + 1) % (iterations // EVALUATIONS) == 0:
                    for name in EVALUATION:
                        storage.put_scalar(name, 100 * at / iterations, smoothing_hint=False)
                if (at + 1) % writer.period == 0:
                    start = time.perf_counter()
                    writer.write()
                    spent += time.perf_counter() - start
        writer.close()
    return 1e6 * spent / iterations


def compare(iterations: int, runs: int) -> None:
    """Print the cost of each writer, and the ratios that are claimed."""
    costs = {name: [] for name in WRITERS}
    for _ in range(runs):  # in turn, so that all see the same machine
        for name, make_writer in WRITERS.items():
            costs[name].append(cost(make_writer, iterations))
    median = {name: statistics.median(values) for name, values in costs.items()}
    print(f"{iterations} iterations, {len(SCALARS)} scalars, {EVALUATIONS} evaluations, ", end="")
    print(f"offline; the median of {runs} runs")
    for name, value in median.items():
        print(f"  {name:38}{value:8.1f} µs an iteration")
    for period in (1, PERIOD):
        our = median[f"the project's W&B writer, period {period}"]
        json_writer = median[f"detectron2's JSONWriter, period {period}"]
        print(f"  ours / detectron2's JSONWriter, period {period}: {our / json_writer:.2f}")
    naive = median["median of all, each iteration"]
    print(f"  median of all / ours at its default period: {naive / our:.1f}")


def train(iterations: int, runs: int) -> None:
    """Print the share of W&B in a training, and the ratio of the times with and without it."""
    import torch
    from detection.config import load_config
    from detection.engine.hooks import PeriodicWriter
    from detectron2.config import instantiate
    from detectron2.engine import SimpleTrainer, hooks

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "tools/make_toy_dataset.py", "--output", folder]
        subprocess.run(
            [*command, "--train", "64", "--val", "2"], check=True, stdout=subprocess.DEVNULL
        )
        overrides = [
            f"dataset.{split}.{key}='{folder}/{value}'"
            for split in ("train", "val")
            for key, value in (("json_file", f"{split}.json"), ("image_root", "images"))
        ]
        cfg = load_config(
            "configs/debug/smoke.py",
            [*overrides, f"train.output_dir='{folder}/output'", "writers.wandb.mode=offline"],
        )
        torch.manual_seed(0)
        model = instantiate(cfg.model)
        cfg.optimizer.params.model = model
        optimizer = instantiate(cfg.optimizer)
        cfg.optimizer.params.pop("model")

        seconds, in_writer = {True: [], False: []}, 0.0
        for run in range(2 * runs):
            with_wandb = run % 2 == 0
            loader = instantiate(cfg.dataloader.train)  # the same batches in each run
            trainer = SimpleTrainer(model, loader, optimizer)
            hooks_list = [hooks.IterationTimer(), make_laps()]
            if with_wandb:
                writer = instantiate(cfg.writers.wandb)
                spent = {"write": 0.0}
                writer.write = timed(writer.write, spent)
                hooks_list.append(PeriodicWriter(writer, cfg))
            trainer.register_hooks(hooks_list)
            trainer.train(0, iterations)
            seconds[with_wandb].append(hooks_list[1].seconds)
            if with_wandb:
                in_writer += spent["write"]
    whole = sum(map(sum, seconds[True]))
    print(f"training of configs/debug/smoke.py, {runs} times {iterations} iterations with W&B")
    print(f"  in the writer: {100 * in_writer / whole:.3f} % of the time")
    # the least of each iteration over the runs: what it takes when nothing else runs
    least = {k: sum(map(min, zip(*laps, strict=True))) for k, laps in seconds.items()}
    print(f"  time with W&B / without: {least[True] / least[False]:.4f}")


def make_laps():
    """A hook that keeps the seconds from the start of each iteration to that of the next."""
    from detectron2.engine import HookBase

    class Laps(HookBase):
        def before_train(self):
            self.seconds, self._start = [], time.perf_counter()

        def before_step(self):
            now = time.perf_counter()
            if self.trainer.iter > self.trainer.start_iter:
                self.seconds.append(now - self._start)
            self._start = now

    return Laps()


def timed(function, seconds: dict[str, float]):
    """Return `function`, adding its time to `seconds["write"]`."""

    def run(*args):
        start = time.perf_counter()
        result = function(*args)
        seconds["write"] += time.perf_counter() - start
        return result

    return run


def main() -> None:
    """Compare, then train, in the project's folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, help="folder of a generated project")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--training-iterations", type=int, default=60)
    parser.add_argument("--training-runs", type=int, default=4)
    args = parser.parse_args()
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    os.chdir(args.project)
    sys.path.insert(0, str(Path.cwd()))
    compare(args.iterations, args.runs)
    train(args.training_iterations, args.training_runs)


if __name__ == "__main__":
    main()
