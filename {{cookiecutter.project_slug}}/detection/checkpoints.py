"""Looks at what a training has saved, without loading it."""

import json
from pathlib import Path

import torch
from fvcore.common.checkpoint import Checkpointer


def last_iteration(checkpointer: Checkpointer) -> int:
    """The iteration after which the last checkpoint was saved; -1 where there is none."""
    if not checkpointer.has_checkpoint():
        return -1
    # memory-mapped: the weights stay on the disk
    path = checkpointer.path_manager.get_local_path(checkpointer.get_checkpoint_file())
    return torch.load(path, map_location="cpu", mmap=True)["iteration"]


def read_best(output_dir: str | Path, metric: str) -> float | None:
    """The value of `metric` for which BestCheckpointer kept `model_best.pth`; None without one."""
    record = Path(output_dir) / "model_best.json"
    if not record.is_file():
        return None
    best = json.loads(record.read_text())
    return best["value"] if best["metric"] == metric else None
