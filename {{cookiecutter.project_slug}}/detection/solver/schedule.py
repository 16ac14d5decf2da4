"""Learning rate multipliers with a linear warm-up, for `hooks.LRScheduler`; and epochs."""

import logging
import math
from collections.abc import Sequence

from detectron2.config import LazyConfig
from detectron2.solver import WarmupParamScheduler
from detectron2.utils import comm
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)
from torch.utils.data import DataLoader

from detection.utils.errors import UserError

logger = logging.getLogger("detectron2.detection")


def multistep(
    milestones: Sequence[float], gamma: float = 0.1, warmup: float = 0.05
) -> ParamScheduler:
    """
    Multiply the learning rate by `gamma` at each milestone.

    Args:
        milestones: ascending fractions of the training, each in (0, 1).
        warmup: the fraction of the training in which the rate rises linearly.

    Raises:
        ValueError: fractions out of their range, or milestones that do not ascend.
    """
    if list(milestones) != sorted(set(milestones)) or not all(0 < m < 1 for m in milestones):
        raise ValueError(f"milestones must ascend between 0 and 1, not {list(milestones)}")
    return _warm_up(
        MultiStepParamScheduler(
            values=[gamma**k for k in range(len(milestones) + 1)],
            # only their ratio to num_updates counts; a fine grid suits a run of any length
            milestones=[int(m * 100_000) for m in milestones],
            num_updates=100_000,
        ),
        warmup,
    )


def cosine(end: float = 0.0, warmup: float = 0.05) -> ParamScheduler:
    """
    Half a cosine from 1 to `end` (Loshchilov & Hutter, 2017).

    Args:
        end: the multiplier at the last iteration.
        warmup: the fraction of the training in which the rate rises linearly.

    Raises:
        ValueError: a warm-up out of its range.
    """
    return _warm_up(CosineParamScheduler(1.0, end), warmup)


def set_max_iter(cfg, loader: DataLoader) -> None:
    """
    Let `train.max_iter` follow from `train.epochs`, where the config has these.

    An epoch is what the loader takes for one: the images without those that `filter_empty` leaves
    out, each as often as `repeat_threshold` repeats it.

    Args:
        cfg: the whole config; it is saved anew.
        loader: of `detection.data.loader.build_train_loader`.

    Raises:
        UserError: another loader, which does not tell.
    """
    epochs, batch_size = cfg.train.epochs, cfg.dataloader.train.get("total_batch_size")
    if epochs is None:
        return
    size = getattr(getattr(loader, "batch_sampler", None), "epoch_size", None)
    if size is None:
        raise UserError(
            "train.epochs needs detection.data.loader.build_train_loader as dataloader.train; with "
            "another one set train.max_iter"
        )
    cfg.train.max_iter = max(1, math.ceil(epochs * size / batch_size))
    logger.info(
        f"{epochs:g} epochs of {size:.0f} images are {cfg.train.max_iter} iterations of "
        f"{batch_size}; one epoch is {size / batch_size:.1f}"
    )
    if comm.is_main_process():
        LazyConfig.save(cfg, f"{cfg.train.output_dir}/config.yaml")


def _warm_up(scheduler: ParamScheduler, warmup: float) -> ParamScheduler:
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be a fraction of the training, 0 to 1, not {warmup}")
    return WarmupParamScheduler(
        scheduler, warmup_factor=0.001, warmup_length=warmup, warmup_method="linear"
    )
