"""Builds the writers of a config."""

from detectron2.config import instantiate
from detectron2.utils import comm
from omegaconf import DictConfig

from detection.utils.errors import UserError
from detection.writers.writer import Writer


def build_writers(cfg: DictConfig) -> list[Writer]:
    """
    Build those of `cfg.writers` that are not None; none off the main process.

    Raises:
        UserError: one of them is not a writer, or cannot be built.
    """
    if not comm.is_main_process():
        return []
    writers = {name: instantiate(node) for name, node in cfg.writers.items() if node is not None}
    for name, writer in writers.items():
        if not isinstance(writer, Writer):
            raise UserError(
                f"writers.{name}: {type(writer).__name__} is not a writer: it needs the methods of "
                "detection/writers/writer.py"
            )
    return list(writers.values())
