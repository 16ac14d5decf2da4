"""Looks into checkpoints without loading them."""

import torch
from fvcore.common.checkpoint import Checkpointer


def last_iteration(checkpointer: Checkpointer) -> int:
    """The iteration after which the last checkpoint was saved; -1 where there is none."""
    if not checkpointer.has_checkpoint():
        return -1
    # memory-mapped: the weights stay on the disk
    path = checkpointer.path_manager.get_local_path(checkpointer.get_checkpoint_file())
    return torch.load(path, map_location="cpu", mmap=True)["iteration"]
