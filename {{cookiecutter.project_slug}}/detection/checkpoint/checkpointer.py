"""Saves checkpoints atomically, finds the one to resume from, and resumes."""

import logging
import math
import os
import re
import signal
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from fvcore.common.checkpoint import _IncompatibleKeys

from detection.checkpoint import classes as checkpoint_classes
from detection.checkpoint.files import SafeCheckpointer
from detection.data.datasets import class_names
from detection.utils.errors import UserError
from detection.utils.files import read_record, write_atomically, write_record
from detection.utils.text import listed

logger = logging.getLogger(__name__)

NUMBERED = re.compile(r"model_(\d{7,})\.pth")  # the number is the iteration
FINAL = "model_final"
LAST_COMPLETE = "last_complete.json"


class WholeFileCheckpointer(SafeCheckpointer):
    """Saves whole files or none, even if killed; resumes only the same model and classes."""

    _is_resumed = False

    def load_or_resume(self, path: str, *, last: Path | None) -> None:
        """
        Load a whole checkpoint of `save_dir`, which becomes the last one, or only weights.

        Args:
            path: of the weights to start from.
            last: the checkpoint to resume from, in place of `path`; None: there is none.

        Raises:
            UserError: the weights cannot be loaded, or belong to another model.
        """
        if last is None:
            self.load(path, checkpointables=[])
            return
        self._is_resumed = True
        self.load(str(last))
        if self.save_to_disk and last.parent == Path(self.save_dir):
            self.tag_last_checkpoint(last.name)

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
        if not self.save_dir or not self.save_to_disk:
            return
        with interrupts_wait():
            kwargs |= {checkpoint_classes.KEY: self.classes}
            parts = {key: part.state_dict() for key, part in self.checkpointables.items()}
            path = Path(self.save_dir) / f"{name}.pth"
            logger.info(f"saving {path}")
            save_whole({"model": self.model.state_dict(), **parts, **kwargs}, path)
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_atomically(Path(self.save_dir) / "last_checkpoint", last_filename_basename.encode())


def build_checkpointer(cfg, model: torch.nn.Module, **checkpointables) -> WholeFileCheckpointer:
    """Build the checkpointer of `train.output_dir`, which saves the class names too."""
    return WholeFileCheckpointer(
        model, cfg.train.output_dir, classes=class_names(cfg), **checkpointables
    )


def save_whole(data: dict, path: Path) -> None:
    """
    `torch.save` to a file that stays as it was until everything is written.

    Raises:
        UserError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        torch.save(data, partial)
        partial.replace(path)
    except OSError as e:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({e.strerror or e})") from e


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Delay Ctrl-C: within `torch.save` it would leave half a file and a RuntimeError."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals arrive in the main thread only
        return
    interrupts = []
    handler = signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if interrupts:
        signal.raise_signal(signal.SIGINT)  # a run in the background ignores it


class SavedCheckpoint(NamedTuple):
    """What is known of a training's checkpoint without loading its weights."""

    path: Path
    iteration: int  # after which it was saved
    is_cut_off: bool  # a kill cut off the evaluation or the log of that iteration


def has_checkpoints(folder: str | Path) -> bool:
    """Whether a training has saved any checkpoint in a folder."""
    return (Path(folder) / "last_checkpoint").exists() or bool(_find_checkpoints(Path(folder)))


def last_checkpoint(folder: str | Path) -> SavedCheckpoint | None:
    """
    Find the checkpoint to resume from; None if there is none.

    It is the one that the file `last_checkpoint` names, or the newest that loads if that one does
    not; a warning says so.

    Raises:
        UserError: there are checkpoints, but none of them loads.
    """
    folder = Path(folder)
    if not has_checkpoints(folder):
        return None
    tag = folder / "last_checkpoint"
    problem = _problem(tag)
    if not problem:
        name = tag.read_bytes().decode("utf-8", "replace").strip()
        if not re.fullmatch(r"[^\0\n]{1,200}", name):
            problem = "names no file"
        elif checkpoint := _inspect(folder / name):
            return checkpoint
        else:
            problem = f"names {name}, which {_problem(folder / name)}"
    others = list(filter(None, map(_inspect, _find_checkpoints(folder))))
    if not others:
        raise UserError(
            f"{tag} {problem}, and no other checkpoint there loads; "
            "train.output_dir=… starts another run"
        )
    latest = max(others, key=lambda checkpoint: checkpoint.iteration)
    logger.warning(f"{tag} {problem}: using {latest.path.name}, the newest that loads")
    return latest


def _find_checkpoints(folder: Path) -> list[Path]:
    names = [path.name for path in folder.glob("model_*.pth")]
    return [folder / n for n in names if NUMBERED.fullmatch(n) or n == f"{FINAL}.pth"]


def _inspect(path: Path) -> SavedCheckpoint | None:
    try:
        # memory-mapped, so that the weights stay on disk
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        iteration, hooks = saved["iteration"], saved.get("trainer", {}).get("hooks", {})
    except Exception:  # torch raises anything on a damaged file
        return None
    complete = read_record(path.parent / LAST_COMPLETE).get("iteration")
    is_complete = isinstance(complete, int) and complete >= iteration
    return SavedCheckpoint(path, iteration, "Completion" in hooks and not is_complete)


def _problem(path: Path) -> str:
    """Why a checkpoint or `last_checkpoint` cannot be used; "" if the latter can."""
    if not path.exists():
        return "is missing"
    if path.is_dir():
        return "is a folder"
    if not os.access(path, os.R_OK):
        return "cannot be read"
    if not path.stat().st_size:
        return "is empty"
    if path.name == "last_checkpoint":
        return ""
    return "is not a checkpoint of a training" if zipfile.is_zipfile(path) else "is truncated"


def read_best(output_dir: str | Path, metric: str) -> dict | None:
    """The `value` and `iteration` of `model_best.pth` by `metric`; None without it."""
    best = read_record(Path(output_dir) / "model_best.json")
    return best if best.get("metric") == metric and is_best(best) else None


def is_best(record: dict) -> bool:
    """Whether a record has what BestCheckpointer writes."""
    value, iteration = record.get("value"), record.get("iteration")
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return isinstance(record.get("metric"), str) and is_number and isinstance(iteration, int)


def repair_best(folder: Path) -> None:
    """Restore a damaged `model_best.json` from `model_best.pth`, or remove it."""
    path = folder / "model_best.json"
    if not path.exists() or is_best(read_record(path)):
        return
    try:
        best = torch.load(folder / "model_best.pth", "cpu", mmap=True, weights_only=True)
        record = {key: value for key, value in best.items() if key != "model"}
    except Exception:  # torch raises anything on a damaged file
        record = {}
    if is_best(record):
        logger.warning(f"{path} is damaged: restored from model_best.pth")
        write_record(path, record)
    else:
        logger.warning(f"{path} is damaged: the best model so far is unknown")
        path.unlink()


def refuse_differences(incompatible: _IncompatibleKeys) -> None:
    """
    Refuse weights that lack parameters of the model.

    Raises:
        UserError: a parameter is missing, or has another shape.
    """
    problems = [
        f"{name} is {tuple(found)}, not {tuple(wanted)}"
        for name, found, wanted in incompatible.incorrect_shapes
    ]
    problems += [f"{name} is missing" for name in incompatible.missing_keys]
    if problems:
        raise UserError(
            f"the checkpoint belongs to another model than the config: {listed(problems, 1, 300)}; "
            "give the config and the class list that it was trained with"
        )
