"""A moving average of the weights, which scores better than the weights themselves."""

from copy import deepcopy

import torch
from detectron2.engine import HookBase
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMAHook(HookBase):
    """
    Averages the weights over the iterations: `average = decay × average + (1 − decay) × weights`.

    Statistics of BatchNorm are averaged too; counters are copied. The average is part of each
    checkpoint, beside the weights that training continues with. Must come before the hooks that
    evaluate or save.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        decay: float = 0.9998,
        warmup: float = 10,
        enabled: bool = True,
    ):
        """
        Args:
            model: what is trained, not wrapped for several processes.
            decay: the part of the average that an iteration keeps.
            warmup: after n iterations the decay is (1 + n) / (warmup + n), until that exceeds
                `decay`: the average then reaches over about the last n / (warmup - 1)
                iterations, whatever the length of the run.
            enabled: False: `self.model` is `model`, and the hook does nothing.
        """
        self._enabled = enabled
        # the average, ready to evaluate
        self.model = deepcopy(model).requires_grad_(False) if enabled else model
        self._source = model
        self._decay = decay
        self._warmup = warmup
        self._updates = 0

    def before_train(self):
        if self._enabled and self._updates == 0:  # not resumed
            self.model.load_state_dict(self._source.state_dict())

    @torch.no_grad()
    def after_step(self):
        if not self._enabled:
            return
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (self._warmup + self._updates))
        # a tensor with several names, such as tied weights, is averaged once
        states = (model.state_dict(keep_vars=True) for model in (self.model, self._source))
        values = zip(*(state.values() for state in states), strict=True)
        pairs = list({id(average): (average, value) for average, value in values}.values())
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        get_ema_multi_avg_fn(decay)(*map(list, zip(*averaged, strict=True)), None)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)
        # the running normalizer of RetinaNet's and FCOS's losses is no part of the state
        for average, source in zip(self.model.modules(), self._source.modules(), strict=True):
            if hasattr(source, "loss_normalizer"):
                average.loss_normalizer = source.loss_normalizer

    def state_dict(self):
        if not self._enabled:
            return {}  # which is not saved
        return {"model": self.model.state_dict(), "updates": self._updates}

    def load_state_dict(self, state_dict):
        if not self._enabled:
            return
        self.model.load_state_dict(state_dict["model"])
        self._updates = state_dict["updates"]
