"""Fetches weight files, loads them safely, and reports what was not loaded."""

import logging
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import Detectron2Handler, PathManager
from iopath.common.file_io import get_cache_dir

from detection.checkpoint import classes as checkpoint_classes
from detection.checkpoint.hub import WEIGHTS  # registers hf:// too
from detection.checkpoint.reading import read_weights
from detection.classes import CLASSES
from detection.utils.errors import UserError
from detection.utils.logging import quiet_console
from detection.utils.text import listed

logger = logging.getLogger(__name__)

_HEURISTICS = "?matching_heuristics=True"  # upstream main: names as in other libraries

# those whose outputs are counted in anchors: the RPN's, and RetinaNet's
_ANCHOR_LAYER = re.compile(r"(objectness_logits|anchor_deltas|^head\.bbox_pred)\.(weight|bias)$")

DOWNLOAD_TIMEOUT = 60  # seconds to wait for a server that sends nothing


def fetch(path: str) -> str:
    """
    Return the local path of a file, of the weights in a folder, or of a downloaded URL.

    Raises:
        UserError: the file is missing, or cannot be downloaded.
    """
    if "://" not in path:
        if Path(path).is_dir():  # of `save_pretrained`, or what was fetched from the hub
            path = str(Path(path) / WEIGHTS)
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file of weights")
        return path
    limit = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)  # iopath sets none
    try:
        return PathManager.get_local_path(path)
    except (OSError, ValueError) as e:  # a URL that cannot be opened is an OSError
        url = path
        if path.startswith(Detectron2Handler.PREFIX):
            url = Detectron2Handler.S3_DETECTRON2_PREFIX + path[len(Detectron2Handler.PREFIX) :]
        cached = os.path.join(get_cache_dir(), urlparse(url).path.lstrip("/"))
        reason = str(e).splitlines()[0]
        raise UserError(
            f"cannot fetch {url} ({reason}); download it elsewhere and put it at {cached}, or "
            "name a local file instead"
        ) from e
    finally:
        socket.setdefaulttimeout(limit)


class SafeCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer for files that cannot run code; it matches classes by name."""

    def __init__(
        self,
        model: torch.nn.Module,
        save_dir: str = "",
        *,
        classes: Sequence[str] | None = None,
        **kwargs,
    ):
        """
        Args:
            model: receives the weights.
            save_dir: folder of the checkpoints.
            classes: the names of the model's classes, in order; None: CLASSES.
            kwargs: passed on to DetectionCheckpointer.
        """
        super().__init__(model, save_dir, **kwargs)
        self.classes = list(CLASSES if classes is None else classes)

    def load(self, path: str, *args, **kwargs) -> dict:
        """
        Raises:
            UserError: the file cannot be fetched, or does not hold weights.
        """
        if not path:
            return {}
        if path.startswith("wandb-artifact://"):  # W&B is imported where it is used
            from detection.checkpoint import artifacts  # noqa: F401  registers the prefix
        self._has_other_names = path.endswith(_HEURISTICS)
        path = fetch(path.removesuffix(_HEURISTICS))
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename):
        loaded = read_weights(filename)
        if hasattr(self.model, "own_names"):
            loaded = self.model.own_names(loaded, filename)
        if self._has_other_names:
            loaded["matching_heuristics"] = True
        return loaded

    def _load_model(self, checkpoint):
        checkpoint = self._with_own_classes(checkpoint)
        is_unrecorded = checkpoint_classes.are_unrecorded(checkpoint, self.model)
        with quiet_console():  # a table of all parameters, where names are guessed
            incompatible = super()._load_model(checkpoint)
        if is_unrecorded:
            logger.warning(
                "the weights do not record their class names: these have to be the ones in "
                "detection/classes.py, in that order"
            )
        return incompatible

    def _with_own_classes(self, checkpoint: dict) -> dict:
        return checkpoint_classes.taken_by_name(checkpoint, self.model, self.classes)

    def _log_incompatible_keys(self, incompatible) -> None:
        """
        Log one line per kind of difference, instead of one per tensor.

        Raises:
            UserError: nothing in the file fits the model.
        """
        names = {n for n in self.model.state_dict() if not n.endswith("num_batches_tracked")}
        differing = {name: shapes for name, *shapes in incompatible.incorrect_shapes}
        missing = names & set(incompatible.missing_keys) - set(differing)
        loaded = names - missing - set(differing)
        if not loaded - {"pixel_mean", "pixel_std"}:
            raise UserError(
                "nothing in these weights fits the model: they belong to another one, or to a "
                "backbone alone; see train.init_checkpoint"
            )
        fresh = {name for name, shapes in differing.items() if _is_of_classes(name, *shapes)}
        by_anchors = {
            name
            for name, (found, wanted) in differing.items()
            if _ANCHOR_LAYER.search(name) and tuple(found[1:]) == tuple(wanted[1:])
        }
        if "head.bbox_pred.bias" in by_anchors:  # RetinaNet: anchors × classes
            by_anchors |= fresh
        if by_anchors:
            logger.info(
                "start fresh, since the weights are for another number of anchors "
                f"(configs/common/anchors.py): {_parts(by_anchors, loaded)}"
            )
        if fresh := fresh - by_anchors:
            logger.info(
                f"start fresh, since the weights are for another number of classes than "
                f"{len(self.classes)}: {_parts(fresh, loaded)}"
            )
        if other := set(differing) - fresh - by_anchors:
            name = min(other)
            found, wanted = differing[name]
            logger.warning(
                f"start fresh, since the weights have other shapes: {_parts(other, loaded)} "
                f"({name} has {tuple(found)}, and the model {tuple(wanted)})"
            )
        if missing:
            logger.warning(f"start fresh, since the weights lack them: {_parts(missing, loaded)}")
        if incompatible.unexpected_keys:
            unused = _parts(set(incompatible.unexpected_keys), names)
            logger.info(f"weights not used, since the model lacks them: {unused}")


def _is_of_classes(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return checkpoint_classes.is_of_classes(name) and tuple(found[1:]) == tuple(wanted[1:])


def _parts(names: set[str], others: set[str]) -> str:
    """Name the modules that hold these parameters and none of `others`; a few of them."""
    modules = {}  # in order, each once
    for name in sorted(names):
        steps = name.split(".")
        prefixes = (".".join(steps[:depth]) for depth in range(1, len(steps) + 1))
        modules[next((p for p in prefixes if not _holds(p, others)), name)] = None
    return listed(list(modules), 6)


def _holds(module: str, names: set[str]) -> bool:
    return any(name.startswith(f"{module}.") or name == module for name in names)
