"""Runs a detector on images of several sizes so that no box depends on its batch."""

from collections import defaultdict

import torch


def detect(model: torch.nn.Module, batch: list[dict]) -> list[dict]:
    """
    Detect in each image, independently of the other images in the batch.

    detectron2 pads all images of a batch to the largest, and the padding changes scores. So only
    images of the same padded size share a batch here.

    Args:
        model: in evaluation mode.
        batch: detectron2's model inputs, with `image` (C, H, W).

    Returns:
        The model's outputs, in the order of the batch.
    """
    multiple = max(1, getattr(getattr(model, "backbone", None), "size_divisibility", 1))
    groups = defaultdict(list)
    for position, image in enumerate(batch):
        height, width = image["image"].shape[-2:]
        groups[-(-height // multiple), -(-width // multiple)].append(position)
    outputs = [None] * len(batch)
    for positions in groups.values():
        found = model([batch[position] for position in positions])
        for position, output in zip(positions, found, strict=True):
            outputs[position] = output
    return outputs
