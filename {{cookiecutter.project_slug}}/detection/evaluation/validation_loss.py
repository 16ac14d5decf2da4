"""The training's losses on validation images: when they rise, the model overfits."""

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy

import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.nn.modules.batchnorm import _BatchNorm

from detection.data.samples import require_masks
from detection.data.tiles import Tiles, tile_records
from detection.utils.errors import UserError
from detection.utils.signals import outliving_stop

logger = logging.getLogger(__name__)


def with_validation_losses(
    cfg, model: torch.nn.Module, test: Callable[[], dict]
) -> Callable[[], dict]:
    """
    Add the losses on its images to an evaluation, if `train.val_loss.enabled`.

    With `tiles.enabled` they are of the tiles with objects, as in training.

    Args:
        cfg: the training's config.
        model: the one that is evaluated.
        test: returns {task: {metric: value}}.

    Returns:
        `test` itself, or a function that returns the same and the losses as `val_loss`.

    Raises:
        UserError: the model wants masks, and an annotation has none.
    """
    if not cfg.train.val_loss.enabled:
        return test
    annotated = deepcopy(cfg.dataloader.test)
    # mapped as in training, but resized as in evaluation
    annotated.mapper = deepcopy(cfg.dataloader.train.mapper)
    annotated.mapper.augmentations = cfg.dataloader.test.mapper.augmentations
    for randomness in {"mixing", "transforms", "albumentations"} & annotated.mapper.keys():
        annotated.mapper[randomness] = []
    if "augment_until" in annotated.mapper:  # what the model itself would augment
        annotated.mapper.augment_until = 0.0
    if annotated.mapper.get("masks"):
        names = instantiate(annotated.dataset.names)
        require_masks(instantiate(annotated.dataset), MetadataCatalog.get(names).json_file)
    if cfg.tiles.enabled:
        annotated.dataset = LazyCall(_tiles_with_objects)(
            images=annotated.dataset, settings=cfg.tiles
        )
    loader = outliving_stop(instantiate(annotated))
    return lambda: {**test(), "val_loss": validation_losses(model, loader)}


def _tiles_with_objects(images: list[dict], settings: Mapping) -> list[dict]:
    return tile_records(images, Tiles.of(settings))[0]


def validation_losses(model: torch.nn.Module, loader: Iterable[list[dict]]) -> dict[str, float]:
    """
    The mean losses over the images of `loader`, and their sum as `total_loss`.

    Each image goes through the model on its own, with one seed for its proposals: the same weights
    give the same losses, whatever the batches and their order, and the training's random numbers
    and states do not change.

    Args:
        model: in training or evaluation mode, which it keeps.
        loader: this process's batches, with `instances`.

    Returns:
        {loss: mean}; {} except on the main process.

    Raises:
        UserError: detectron2 finds predictions that are not finite.
    """
    logger.info("validation losses …")
    sums, images = Counter(), 0
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    # what the model itself stores, such as its accuracy, is not the training's
    with torch.random.fork_rng(devices), torch.no_grad(), EventStorage():
        for image in itertools.chain.from_iterable(loader):
            torch.manual_seed(0)
            try:
                with _as_in_training(model):
                    losses = model([image])
            except FloatingPointError as e:
                raise UserError(
                    f"validation losses: {str(e).splitlines()[0]} Try a lower optimizer.lr or "
                    "train.clip_grad.norm=1"
                ) from e
            for name, loss in losses.items():
                sums[name] += loss.item()
            images += 1
    parts = comm.gather((dict(sums), images))
    if not comm.is_main_process():
        return {}
    images = sum(part[1] for part in parts)
    losses = {name: sum(part[0].get(name, 0.0) for part in parts) / images for name in sums}
    return {"total_loss": sum(losses.values()), **losses}


@contextmanager
def _as_in_training(model: torch.nn.Module) -> Iterator[None]:
    """Make a model return losses, its layers as in evaluation; undo all that this changes."""
    modules = list(model.modules())
    # the mode, and numbers such as the running normalizer of RetinaNet's losses
    before = [dict(vars(module)) for module in modules]
    try:
        for module in modules:
            # dropout is a leaf; modules that compute losses are not, nor is timm's BatchNorm
            computes = any(True for _ in module.children()) and not isinstance(module, _BatchNorm)
            module.training = module is model or computes
        yield
    finally:
        for module, state in zip(modules, before, strict=True):
            vars(module).clear()
            vars(module).update(state)
