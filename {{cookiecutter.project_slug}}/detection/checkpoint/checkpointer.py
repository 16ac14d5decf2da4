"""What a training has saved: looked at without loading it, or loaded whole."""

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
from detection.utils.files import read_record, write_record, write_whole
from detection.utils.text import listed

logger = logging.getLogger("detectron2.detection")


NUMBERED = re.compile(r"model_(\d{7,})\.pth")  # a checkpoint, by its iteration


FINAL = "model_final"


LAST_COMPLETE = "last_complete.json"


class WholeFileCheckpointer(SafeCheckpointer):
    """Saves whole files or none, also at a kill; resumes the same model and classes alone."""

    _is_resumed = False

    def resume(self, path: Path) -> None:
        """
        Load all of a checkpoint in `save_dir`, which becomes the last one.

        Raises:
            UserError: the weights cannot be loaded, or are of another model.
        """
        self._is_resumed = True
        self.load(str(path))
        if self.save_to_disk and path.parent == Path(self.save_dir):
            self.tag_last_checkpoint(path.name)

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
        write_whole(Path(self.save_dir) / "last_checkpoint", last_filename_basename.encode())


def build_checkpointer(cfg, model: torch.nn.Module, **checkpointables) -> WholeFileCheckpointer:
    """Build what saves a model, its class names and `checkpointables` in `train.output_dir`."""
    return WholeFileCheckpointer(
        model, cfg.train.output_dir, classes=class_names(cfg), **checkpointables
    )


def save_whole(data: dict, path: Path) -> None:
    """
    `torch.save` that leaves the file as it was until all is written.

    Raises:
        UserError: it cannot be written.
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


class SavedCheckpoint(NamedTuple):
    """A checkpoint of a training, looked at without loading its weights."""

    path: Path
    iteration: int  # after which it was saved
    is_cut_off: bool  # a kill cut off the evaluation, or the log, of that iteration


def has_checkpoints(folder: str | Path) -> bool:
    """Whether a training has saved any checkpoint in a folder."""
    return (Path(folder) / "last_checkpoint").exists() or bool(_find_checkpoints(Path(folder)))


def last_checkpoint(folder: str | Path) -> SavedCheckpoint | None:
    """
    The checkpoint to resume from; None where there is none.

    It is the one that the file `last_checkpoint` names. Where that one cannot be loaded it is the
    latest that can, and a warning says so.

    Raises:
        UserError: there are checkpoints, but none can be loaded.
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
        elif checkpoint := _look_at(folder / name):
            return checkpoint
        else:
            problem = f"names {name}, which {_problem(folder / name)}"
    others = list(filter(None, map(_look_at, _find_checkpoints(folder))))
    if not others:
        raise UserError(
            f"{tag} {problem}, and no other checkpoint there can be loaded; "
            "train.output_dir=… starts another run"
        )
    latest = max(others, key=lambda checkpoint: checkpoint.iteration)
    logger.warning(f"{tag} {problem}: using {latest.path.name}, the latest that can be loaded")
    return latest


def _find_checkpoints(folder: Path) -> list[Path]:
    names = [path.name for path in folder.glob("model_*.pth")]
    return [folder / n for n in names if NUMBERED.fullmatch(n) or n == f"{FINAL}.pth"]


def _look_at(path: Path) -> SavedCheckpoint | None:
    try:
        # memory-mapped: the weights stay on the disk
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        iteration, hooks = saved["iteration"], saved.get("trainer", {}).get("hooks", {})
    except Exception:  # there is no saying what torch makes of a damaged file
        return None
    complete = read_record(path.parent / LAST_COMPLETE).get("iteration")
    is_complete = isinstance(complete, int) and complete >= iteration
    return SavedCheckpoint(path, iteration, "Completion" in hooks and not is_complete)


def _problem(path: Path) -> str:
    """Why a checkpoint, or last_checkpoint, cannot be used; "" for the latter where it can."""
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
    return "is no checkpoint of a training" if zipfile.is_zipfile(path) else "is truncated"


def read_best(output_dir: str | Path, metric: str) -> dict | None:
    """`value` and `iteration` for which BestCheckpointer kept `model_best.pth`; None without it."""
    best = read_record(Path(output_dir) / "model_best.json")
    return best if best.get("metric") == metric and is_best(best) else None


def is_best(record: dict) -> bool:
    """Whether it is what BestCheckpointer writes."""
    value, iteration = record.get("value"), record.get("iteration")
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return isinstance(record.get("metric"), str) and is_number and isinstance(iteration, int)


def repair_best(folder: Path) -> None:
    """Write a damaged `model_best.json` again as `model_best.pth` has it, or remove it."""
    path = folder / "model_best.json"
    if not path.exists() or is_best(read_record(path)):
        return
    try:
        best = torch.load(folder / "model_best.pth", "cpu", mmap=True, weights_only=True)
        record = {key: value for key, value in best.items() if key != "model"}
    except Exception:  # there is no saying what torch makes of a damaged file
        record = {}
    if is_best(record):
        logger.warning(f"{path} is damaged: written again from model_best.pth")
        write_record(path, record)
    else:
        logger.warning(f"{path} is damaged: the best model so far is not known")
        path.unlink()


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
        raise UserError(
            f"the checkpoint is of another model than the config: {listed(problems, 1, 300)}; "
            "give the config, and the class list, that it was trained with"
        )
