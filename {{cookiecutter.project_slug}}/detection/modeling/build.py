"""Builds a model from its config node and puts it on its device."""

import logging

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from detection.classes import CLASSES
from detection.modeling.class_loss import set_class_loss
from detection.modeling.freezing import freeze
from detection.utils.devices import set_device
from detection.utils.logging import quiet_console

logger = logging.getLogger(__name__)


def build_model(cfg: DictConfig, pretrained: bool = True) -> torch.nn.Module:
    """
    Build `cfg.model` on `train.device`, freeze what `train.freeze` names, and list it in log.txt.

    Args:
        cfg: the whole config.
        pretrained: whether the backbone downloads its weights; False: all come from a checkpoint.

    Raises:
        UserError: the device does not work, `train.freeze` names nothing or leaves nothing to
            train, or `train.class_loss` does not fit.
    """
    set_device(cfg)
    model = instantiate(cfg.model if pretrained else without_pretrained_download(cfg.model))
    with quiet_console():
        logger.info(f"Model:\n{model}")
    to_device(model, cfg.train.device, cfg.train.channels_last)
    freeze(model, cfg.train.freeze)
    set_class_loss(model, CLASSES, **cfg.train.class_loss)
    return model


def without_pretrained_download(model: DictConfig) -> DictConfig:
    """The config of a model whose weights all come from a checkpoint: none are downloaded."""
    model = model.copy()
    if OmegaConf.select(model, "backbone.bottom_up.pretrained"):
        model.backbone.bottom_up.pretrained = False
    return model


def to_device(model: torch.nn.Module, device: str, channels_last: bool | None) -> torch.nn.Module:
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
