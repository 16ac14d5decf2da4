"""What a training has saved: looked at without loading it, or loaded whole."""

import json
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from fvcore.common.checkpoint import Checkpointer, _IncompatibleKeys
from omegaconf import DictConfig, OmegaConf

from detection import checkpoint_classes
from detection.ema import averaged_weights
from detection.errors import UserError
from detection.weight_files import SafeCheckpointer

logger = logging.getLogger("detectron2.detection")


class WholeFileCheckpointer(SafeCheckpointer):
    """Lets Ctrl-C wait until a checkpoint is on the disk; resumes the same model and classes."""

    _is_resumed = False

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """
        Raises:
            UserError: the weights cannot be loaded, or a resumed run's are of another model.
        """
        self._is_resumed = resume and self.has_checkpoint()
        return super().resume_or_load(path, resume=resume)

    def _with_own_classes(self, checkpoint):
        if not self._is_resumed:
            return super()._with_own_classes(checkpoint)
        checkpoint_classes.require_same(checkpoint, self.classes)
        return checkpoint

    def _load_model(self, checkpoint):
        incompatible = super()._load_model(checkpoint)
        if self._is_resumed:
            refuse_differences(incompatible)
        return incompatible

    def save(self, name: str, **kwargs) -> None:
        with interrupts_wait():
            super().save(name, **{checkpoint_classes.KEY: self.classes}, **kwargs)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait: within `torch.save` it would leave half a file, and a RuntimeError."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals do not come here
        return
    interrupts = []
    handler = signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if interrupts:
        signal.raise_signal(signal.SIGINT)  # which a run in the background ignores


def last_iteration(checkpointer: Checkpointer) -> int:
    """
    The iteration after which the last checkpoint was saved; -1 where there is none.

    Raises:
        UserError: the checkpoint is gone or damaged.
    """
    if not checkpointer.has_checkpoint():
        return -1
    path = checkpointer.path_manager.get_local_path(checkpointer.get_checkpoint_file())
    try:
        # memory-mapped: the weights stay on the disk
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)["iteration"]
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, UnpicklingError) as e:
        reason = (str(e).splitlines() or ["cut off"])[0]
        raise UserError(
            f"{path}: cannot be resumed from ({reason}); write the name of an older model_*.pth of "
            "that folder into last_checkpoint"
        ) from e


def read_best(output_dir: str | Path, metric: str) -> dict | None:
    """`value` and `iteration` for which BestCheckpointer kept `model_best.pth`; None without it."""
    record = Path(output_dir) / "model_best.json"
    if not record.is_file():
        return None
    best = json.loads(record.read_text())
    return best if best["metric"] == metric else None


def load_weights(
    model: torch.nn.Module, output_dir: str, checkpoint: str, classes: Sequence[str] | None = None
) -> str:
    """
    Load all weights of a trained model; their moving average, where the checkpoint has one.

    Where the checkpoint has the same classes in another order, the heads are reordered.

    Args:
        model: gets them.
        output_dir: of its training.
        checkpoint: "best" or "last" of that training; or a path, URL or wandb-artifact://.
        classes: the names of the model's classes, in order; None: CLASSES.

    Returns:
        The path that was loaded.

    Raises:
        UserError: there is no such checkpoint, or it is of another model or other classes.
    """
    checkpointer = _WholeCheckpointer(model, output_dir, classes=classes)
    if checkpoint == "best":
        checkpoint = str(Path(output_dir) / "model_best.pth")
    elif checkpoint == "last":
        checkpoint = checkpointer.get_checkpoint_file()
        if not checkpoint:
            raise UserError(f"{output_dir}: no checkpoint there; train first, or name another")
    if "://" not in checkpoint and not Path(checkpoint).is_file():
        raise UserError(f"{checkpoint}: no such checkpoint; train first, or name another")
    checkpointer.load(checkpoint, checkpointables=[])
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(
                f"{checkpoint}: {name} is not finite, the training has diverged; take an earlier "
                "checkpoint, or train with a lower optimizer.lr"
            )
    return checkpoint


def without_pretrained(model: DictConfig) -> DictConfig:
    """The config of a model whose weights all come from a checkpoint: none are downloaded."""
    model = model.copy()
    if OmegaConf.select(model, "backbone.bottom_up.pretrained"):
        model.backbone.bottom_up.pretrained = False
    return model


class _WholeCheckpointer(SafeCheckpointer):
    """Refuses what upstream's only warns of: weights that are missing or of another shape."""

    def _with_own_classes(self, checkpoint):
        return checkpoint_classes.permuted(checkpoint, self.model, self.classes)

    def _load_model(self, checkpoint):
        if (average := averaged_weights(checkpoint)) is not None:
            logger.info("these are the averaged weights (train.ema)")
            checkpoint = {**checkpoint, "model": average}
        incompatible = super()._load_model(checkpoint)
        refuse_differences(incompatible)
        return incompatible


def refuse_differences(incompatible: _IncompatibleKeys) -> None:
    """
    Raises:
        UserError: weights of the model are missing from what was loaded, or of another shape.
    """
    problems = [
        f"{name} is {tuple(found)}, not {tuple(wanted)}"
        for name, found, wanted in incompatible.incorrect_shapes
    ]
    problems += [f"{name} is missing" for name in incompatible.missing_keys]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise UserError(
            f"the checkpoint is of another model than the config: {problems[0]}{more}; "
            "give the config, and the class list, that it was trained with"
        )
