"""Hooks for seeding, BatchNorm statistics, evaluation and writers; all resume exactly."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.engine import HookBase, TrainerBase, hooks
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from omegaconf import DictConfig
from torch import distributed
from torch.nn.modules.batchnorm import _BatchNorm

from detection.data.loader import with_start_iter_0
from detection.writers.writer import StartedWriter, Writer


def is_cut_off(trainer: TrainerBase) -> bool:
    """Whether the evaluation before the first iteration is still due; see `Trainer.train`."""
    return getattr(trainer, "is_cut_off", False)


class SeedIterations(HookBase):
    """
    Seeds each iteration from the seed, the iteration and the process.

    A resumed run therefore draws the same random numbers as an uninterrupted one, and no random
    state is saved.
    """

    def __init__(self, seed: int):
        """
        Args:
            seed: of the run; negative: do not seed.
        """
        self._seed = seed

    def before_step(self):
        if self._seed >= 0:
            torch.manual_seed(hash((self._seed, self.trainer.iter, comm.get_rank())))


class PreciseBN(hooks.PreciseBN):
    """Recomputes BatchNorm's statistics, on the same batches each time: a resume is exact."""

    @classmethod
    def build(cls, cfg: DictConfig, model: torch.nn.Module) -> "PreciseBN | None":
        """The hook of `train.precise_bn`; None if it is off or no BatchNorm is trained."""
        if not cfg.train.precise_bn.enabled or not get_bn_modules(model):
            return None
        loader = instantiate(with_start_iter_0(cfg.dataloader.train))
        return cls(cfg.train.eval_period, model, loader, cfg.train.precise_bn.num_iter)

    def update_stats(self):
        self._data_iter = None
        super().update_stats()
        self._data_iter = None


class SyncStatistics(HookBase):
    """
    Averages BatchNorm's statistics and loss normalizers over the processes, and saves what the
    model itself does not.

    Each process has statistics of its own images, and only the main one's are saved: without this
    hook the others would evaluate, and continue with, a model that differs from the checkpoint.
    All processes take part in `after_step`. Before a stop (see CleanStop), which must change
    nothing, each one's are saved. The normalizers, of RetinaNet's and FCOS's losses, are no part of
    upstream's checkpoints.
    """

    def __init__(self, models: Sequence[torch.nn.Module], *periods: int):
        """
        Args:
            models: whose statistics are averaged, each once.
            periods: iterations between evaluations, and between checkpoints; 0: none.
        """
        models = {id(model): model for model in models}.values()
        modules = [module for model in models for module in model.modules()]
        self._norms = [
            m for m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None
        ]
        self._normalized = [m for m in modules if hasattr(m, "loss_normalizer")]
        self._periods = periods
        self._gathered = None

    def after_step(self):
        done = self.trainer.iter + 1
        is_due = done == self.trainer.max_iter or any(p and done % p == 0 for p in self._periods)
        if not is_due or comm.get_world_size() == 1:
            return
        for statistic in self._running():
            distributed.all_reduce(statistic)
            statistic /= comm.get_world_size()
        for module in self._normalized:
            module.loss_normalizer = np.mean(comm.all_gather(module.loss_normalizer)).item()

    def gather(self) -> None:
        """Let the next checkpoint have each process's statistics; called in all of them."""
        own = {"running": [statistic.cpu() for statistic in self._running()], **self._normalizers()}
        self._gathered = comm.gather(own)

    def state_dict(self):
        return {"processes": self._gathered or [self._normalizers()]}

    def load_state_dict(self, state_dict):
        processes = state_dict["processes"]
        own = processes[comm.get_rank() if len(processes) == comm.get_world_size() else 0]
        for module, value in zip(self._normalized, own["normalizers"], strict=True):
            module.loss_normalizer = value
        # none: the model has them
        for statistic, value in zip(self._running(), own.get("running", ()), strict=False):
            statistic.copy_(value)

    def _running(self) -> list[torch.Tensor]:
        return [s for norm in self._norms for s in (norm.running_mean, norm.running_var)]

    def _normalizers(self) -> dict:
        return {"normalizers": [module.loss_normalizer for module in self._normalized]}


class EvalHook(hooks.EvalHook):
    """
    Evaluates every `eval_period` iterations, and after the last iteration as part of it.

    Upstream's stores the last evaluation at `max_iter`, after training: a later resume with a
    higher `max_iter` would log that iteration twice.
    """

    def after_step(self):
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            self._do_eval()

    def after_train(self):
        """Do nothing: the last iteration has been evaluated, unlike upstream's."""


class PeriodicWriter(hooks.PeriodicWriter):
    """
    Runs one writer at its own `period` and after each evaluation.

    `detection/writers/writer.py` says what a writer has.
    """

    def __init__(self, writer: Writer, cfg):
        """
        Args:
            writer: written every `writer.period` iterations, or every `cfg.train.log_period` if
                it has no such attribute.
            cfg: the whole config.
        """
        super().__init__([], period=getattr(writer, "period", cfg.train.log_period))
        self._writers = [writer]  # upstream's asserts that it is an EventWriter
        self._cfg = cfg
        self._eval_period = cfg.train.get("eval_period", 0)
        self._started = False

    def before_train(self):
        # includes the iteration before, if its evaluation is still due
        first = self.trainer.start_iter - is_cut_off(self.trainer)
        for writer in self._writers:
            if isinstance(writer, StartedWriter):
                writer.start(first, self._cfg)
        self._started = True

    def after_step(self):
        done = self.trainer.iter + 1
        periods = (self._period, self._eval_period)
        if done == self.trainer.max_iter or any(p > 0 and done % p == 0 for p in periods):
            for writer in self._writers:
                if hasattr(writer, "max_iter"):
                    writer.max_iter = self.trainer.max_iter
                writer.write()

    def after_train(self):
        if self._started:  # else another hook has failed before training
            super().after_train()
