"""Loads all weights of a trained model, or none."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from detection.checkpoint import classes as checkpoint_classes
from detection.checkpoint.checkpointer import last_checkpoint, refuse_differences
from detection.checkpoint.files import SafeCheckpointer
from detection.utils.errors import UserError

logger = logging.getLogger(__name__)


def load_weights(
    model: torch.nn.Module, output_dir: str, checkpoint: str, classes: Sequence[str] | None = None
) -> str:
    """
    Load all weights of a trained model; their moving average if the checkpoint has one.

    If the checkpoint has the same classes in another order, the heads are reordered.

    Args:
        model: receives the weights.
        output_dir: of its training.
        checkpoint: "best" or "last" of that training; or a path, URL or wandb-artifact://.
        classes: the names of the model's classes, in order; None: CLASSES.

    Returns:
        The path of the loaded file.

    Raises:
        UserError: there is no such checkpoint, or it belongs to another model or other classes.
    """
    checkpointer = _WholeCheckpointer(model, output_dir, classes=classes)
    if checkpoint == "best":
        checkpoint = str(Path(output_dir) / "model_best.pth")
    elif checkpoint == "last":
        saved = last_checkpoint(output_dir)
        if saved is None:
            raise UserError(f"{output_dir}: no checkpoint there; train first, or name one")
        checkpoint = str(saved.path)
    if "://" not in checkpoint and not Path(checkpoint).is_file():
        raise UserError(f"{checkpoint}: no such checkpoint; train first, or name another")
    checkpointer.load(checkpoint, checkpointables=[])
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(
                f"{checkpoint}: {name} is not finite: the training has diverged; use an earlier "
                "checkpoint, or train with a lower optimizer.lr"
            )
    return checkpoint


class _WholeCheckpointer(SafeCheckpointer):
    """Refuses missing weights and other shapes, where detectron2's only warns."""

    def _with_own_classes(self, checkpoint):
        return checkpoint_classes.permuted(checkpoint, self.model, self.classes)

    def _load_model(self, checkpoint):
        if (average := averaged_weights(checkpoint)) is not None:
            logger.info("these are the averaged weights (train.ema)")
            checkpoint = {**checkpoint, "model": average}
        incompatible = super()._load_model(checkpoint)
        refuse_differences(incompatible)
        return incompatible


def averaged_weights(checkpoint: dict) -> dict[str, torch.Tensor] | None:
    """
    The averaged weights in a loaded checkpoint; None if it has none.

    detectron2 saves the state of a hook, here `solver.ema.EMAHook`, under its class's name.
    """
    hooks = checkpoint.get("trainer", {}).get("hooks", {})
    return hooks.get("EMAHook", {}).get("model")
