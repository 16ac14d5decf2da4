"""Builds the writers of a config."""

from detectron2.config import instantiate
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from omegaconf import DictConfig


def build_writers(cfg: DictConfig) -> list[EventWriter]:
    """Build those of `cfg.writers` that are not None; none off the main process."""
    if not comm.is_main_process():
        return []
    return [instantiate(writer) for writer in cfg.writers.values() if writer is not None]
