"""Time and memory of a batch that goes through the model in parts, beside the whole batch.

    python benchmarks/accumulation.py PROJECT [--batch 8] [--turns 7]

PROJECT is a generated project; run it with that project's Python. The model of its
configs/debug/smoke.py takes training steps on random images of 256 pixels on one CPU thread, whole
batches and batches in 2 and 4 parts by turns. Memory is the most that autograd keeps for the
backward pass at any time (`saved_tensors_hooks`, each storage once). Ratios are of medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
PARTS = (1, 2, 4)
MOST_TIME = 1.03
FIXED = 0.05  # weights are kept too, whatever the batch


def make_batch(size: int) -> list[dict]:
    """Return model inputs: random pixels, each with four boxes."""
    import torch
    from detectron2.structures import Boxes, Instances

    torch.manual_seed(0)
    batch = []
    for _ in range(size):
        corner = 150 * torch.rand(4, 2)
        boxes = Boxes(torch.cat([corner, corner + 20 + 80 * torch.rand(4, 2)], dim=1))
        truth = Instances((256, 256), gt_boxes=boxes, gt_classes=torch.zeros(4, dtype=torch.int64))
        batch.append({"image": torch.randint(256, (3, 256, 256)), "instances": truth})
    return batch


def kept_bytes(run) -> int:
    """Return the largest number of bytes kept for the backward pass while `run` runs."""
    import torch

    alive: dict[int, list[int]] = {}
    most = 0

    class Kept:
        def __init__(self, tensor):
            nonlocal most
            self.tensor = tensor
            self.storage = tensor.untyped_storage().data_ptr()
            alive.setdefault(self.storage, [0, tensor.untyped_storage().nbytes()])[0] += 1
            most = max(most, sum(size for _, size in alive.values()))

        def __del__(self):
            alive[self.storage][0] -= 1
            if not alive[self.storage][0]:
                del alive[self.storage]

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        run()
    return most


def main() -> None:
    """Measure and print; exit with 1 if parts cost too much time or do not save memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, help="folder of a generated project")
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    os.chdir(args.project)
    sys.path.insert(0, str(Path.cwd()))
    import torch
    from detection.config import load_config
    from detection.engine.trainer import Trainer
    from detection.modeling.build import build_model
    from detectron2.utils.events import EventStorage

    torch.set_num_threads(1)
    model = build_model(load_config("configs/debug/smoke.py", ["train.device=cpu"])).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    batch = make_batch(args.batch)
    steps = {}
    for parts in PARTS:
        trainer = Trainer(model, iter(lambda: batch, None), optimizer, accumulate=parts)
        trainer.iter, trainer.storage = 0, EventStorage()
        steps[parts] = trainer

    def step(parts: int) -> None:
        with steps[parts].storage:
            steps[parts].run_step()

    memory = {parts: kept_bytes(lambda parts=parts: step(parts)) for parts in PARTS}
    times: dict[int, list[float]] = {parts: [] for parts in PARTS}
    for _ in range(args.turns):
        for parts in PARTS:
            start = time.process_time()
            step(parts)
            times[parts].append(time.process_time() - start)
    median = {parts: statistics.median(values) for parts, values in times.items()}
    print("parts  CPU s  of the whole batch  kept MB  of the whole batch")
    for parts in PARTS:
        slower, less = median[parts] / median[1], memory[parts] / memory[1]
        kept = memory[parts] / 1e6
        print(f"{parts:5}  {median[parts]:5.2f}  {slower:18.3f}  {kept:7.0f}  {less:.3f}")
    if any(
        median[p] > MOST_TIME * median[1] or memory[p] > (1 / p + FIXED) * memory[1] for p in PARTS
    ):
        sys.exit(f"more than {MOST_TIME} × the time, or no less memory")


if __name__ == "__main__":
    main()
