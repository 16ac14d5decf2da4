"""Learning rate multipliers with a linear warm-up, for `hooks.LRScheduler`."""

from collections.abc import Sequence

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)


def multistep(
    max_iter: int, milestones: Sequence[float], gamma: float = 0.1, warmup_iters: int = 500
) -> ParamScheduler:
    """
    Multiply the learning rate by `gamma` at each milestone.

    Args:
        max_iter: iterations in all.
        milestones: ascending fractions of `max_iter`, each in (0, 1).
        warmup_iters: iterations of linear warm-up, at most half of `max_iter`.

    Raises:
        ValueError: milestones that do not ascend within (0, 1).
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
        max_iter,
        warmup_iters,
    )


def cosine(max_iter: int, warmup_iters: int = 500, end: float = 0.0) -> ParamScheduler:
    """
    Half a cosine from 1 to `end` (Loshchilov & Hutter, 2017).

    Args:
        max_iter: iterations in all.
        warmup_iters: iterations of linear warm-up, at most half of `max_iter`.
        end: the multiplier at the last iteration.
    """
    return _warm_up(CosineParamScheduler(1.0, end), max_iter, warmup_iters)


def _warm_up(scheduler: ParamScheduler, max_iter: int, warmup_iters: int) -> ParamScheduler:
    # a short trial run must not consist of warm-up alone
    warmup_length = min(warmup_iters / max_iter, 0.5)
    return WarmupParamScheduler(
        scheduler, warmup_factor=0.001, warmup_length=warmup_length, warmup_method="linear"
    )
