"""The batch of a training loader that takes the most memory."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import detectron2.data.transforms as T
import numpy as np
import torch
from torch.utils.data import DataLoader

from detection.data.loader import ResumableBatchSampler


def largest_batch(loader: DataLoader) -> list[dict] | None:
    """
    The largest batch of `build_train_loader`: images of the largest training size, as the mapper
    makes them, padded as the largest images that may share a batch, with as many boxes as any.

    `mixing` and `transforms` act on it at random, as in training.

    Returns:
        As many model inputs as a process gets. None: of another loader it is not known.
    """
    sampler, dataset = getattr(loader, "batch_sampler", None), getattr(loader, "dataset", None)
    augmentations = getattr(getattr(dataset, "mapper", None), "augmentations", None)
    if not isinstance(sampler, ResumableBatchSampler) or augmentations is None:
        return None
    with at_their_largest(augmentations.augs):
        sizes = {}  # of an image: of the model's input
        groups = defaultdict(list)
        for index, record in enumerate(dataset.dataset):
            size = record["height"], record["width"]
            if size not in sizes:
                sizes[size] = _resized(augmentations.augs, *size)
            groups[sampler.is_wide[index] if sampler.is_wide else False].append(index)
        canvases = {}
        for is_wide, indices in groups.items():
            records = [dataset.dataset[index] for index in indices]
            inputs = [sizes[record["height"], record["width"]] for record in records]
            canvases[is_wide] = np.max(inputs, axis=0)
        is_wide = max(canvases, key=lambda group: canvases[group].prod())
        most = max(groups[is_wide], key=lambda i: len(dataset.dataset[i].get("annotations", ())))
        sample = dataset[0, most]
    height, width = np.maximum(canvases[is_wide] - sample["image"].shape[1:], 0).tolist()
    sample["image"] = torch.nn.functional.pad(sample["image"], (0, width, 0, height))
    return [deepcopy(sample) for _ in range(sampler.batch_size)]


@contextmanager
def at_their_largest(augmentations: Iterable[T.Augmentation]) -> Iterator[None]:
    """Let those that resize draw the largest of their sizes."""
    resizing = [a for a in augmentations if hasattr(a, "short_edge_length")]
    drawn = [a.short_edge_length for a in resizing]
    for augmentation in resizing:
        augmentation.short_edge_length = [max(augmentation.short_edge_length)] * 2
    try:
        yield
    finally:
        for augmentation, lengths in zip(resizing, drawn, strict=True):
            augmentation.short_edge_length = lengths


def _resized(augmentations: Iterable[T.Augmentation], height: int, width: int) -> tuple[int, int]:
    for augmentation in augmentations:
        if hasattr(augmentation, "short_edge_length"):
            blank = np.broadcast_to(np.uint8(0), (height, width, 3))
            transform = augmentation.get_transform(blank)
            height = getattr(transform, "new_h", height)
            width = getattr(transform, "new_w", width)
    return height, width
