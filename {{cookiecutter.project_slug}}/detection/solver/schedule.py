"""Learning rate multipliers with a linear warm-up, for `hooks.LRScheduler`."""

from collections.abc import Callable, Sequence

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)


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
            # fractions on a fine grid, for a run of any length
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


class Paced(ParamScheduler):
    """Another schedule, whose progress a function of the fraction of the training chooses."""

    def __init__(self, schedule: ParamScheduler, pace: Callable[[float], float]):
        self._schedule = schedule
        self._pace = pace

    def __call__(self, where: float) -> float:
        return self._schedule(self._pace(where))


def _warm_up(scheduler: ParamScheduler, warmup: float) -> ParamScheduler:
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be a fraction of the training, 0 to 1, not {warmup}")
    return WarmupParamScheduler(
        scheduler, warmup_factor=0.001, warmup_length=warmup, warmup_method="linear"
    )
