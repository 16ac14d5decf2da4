"""Builds a model from its config node and puts it on its device."""

import torch
from omegaconf import DictConfig, OmegaConf


def without_pretrained(model: DictConfig) -> DictConfig:
    """The config of a model whose weights all come from a checkpoint: none are downloaded."""
    model = model.copy()
    if OmegaConf.select(model, "backbone.bottom_up.pretrained"):
        model.backbone.bottom_up.pretrained = False
    return model


def on_device(model: torch.nn.Module, device: str, channels_last: bool | None) -> torch.nn.Module:
    """
    Move a model to a device, where its convolutions work in one of two layouts.

    Args:
        model: changed in place, and returned.
        device: e.g. "cuda".
        channels_last: images and feature maps as (N, H, W, C) in memory; None: on CPUs.
    """
    if channels_last is None:
        channels_last = device == "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(device).to(memory_format=layout)
