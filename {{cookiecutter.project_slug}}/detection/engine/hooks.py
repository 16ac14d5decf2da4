"""Hooks that upstream lacks, or whose state does not survive a resume there."""

import logging
import math
import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.common.checkpoint import Checkpointer
from torch import distributed
from torch.nn.modules.batchnorm import _BatchNorm

from detection.checkpoint.checkpointer import (
    FINAL,
    interrupts_wait,
    read_best,
    repair_best,
    save_whole,
)
from detection.checkpoint.classes import KEY
from detection.utils.errors import UserError
from detection.utils.files import write_record
from detection.writers.metric_names import MetricNames

logger = logging.getLogger("detectron2.detection")


class SeedIterations(HookBase):
    """
    Makes the random numbers of an iteration follow from the seed, the iteration and the process.

    So a resumed run draws what an uninterrupted one would have drawn, on any number of processes,
    and nothing has to be saved.
    """

    def __init__(self, seed: int):
        """
        Args:
            seed: negative leaves the random numbers alone.
        """
        self._seed = seed

    def before_step(self):
        if self._seed >= 0:
            torch.manual_seed(hash((self._seed, self.trainer.iter, comm.get_rank())))


class PreciseBN(hooks.PreciseBN):
    """Upstream's, but on the same batches each time, so that a resumed run computes the same."""

    def update_stats(self):
        self._data_iter = None
        super().update_stats()
        self._data_iter = None


class SharedStatistics(HookBase):
    """
    Averages BatchNorm's statistics, and loss normalizers, over the processes.

    Each process has statistics of its own images, and the main one's are saved: without this the
    others would evaluate, and go on with, a model that is not the one in the checkpoint.
    """

    def __init__(self, models: Sequence[torch.nn.Module], *periods: int):
        """
        Args:
            models: whose statistics are averaged.
            periods: of evaluations and of checkpoints, before which it goes; 0: none.
        """
        self._models = models
        self._periods = periods

    def after_step(self):
        done = self.trainer.iter + 1
        is_due = done == self.trainer.max_iter or any(p and done % p == 0 for p in self._periods)
        if not is_due or comm.get_world_size() == 1:
            return
        for module in (module for model in self._models for module in model.modules()):
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                for statistic in (module.running_mean, module.running_var):
                    distributed.all_reduce(statistic)
                    statistic /= comm.get_world_size()
            if hasattr(module, "loss_normalizer"):
                module.loss_normalizer = np.mean(comm.all_gather(module.loss_normalizer)).item()


class EvalHook(hooks.EvalHook):
    """
    Upstream's, but the last evaluation belongs to the last iteration like every other.

    Upstream runs it after training and stores it at `max_iter`, an iteration that never was: a
    later resume with a higher `max_iter` would log that iteration twice.
    """

    def after_step(self):
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0):
            self._do_eval()

    def after_train(self):
        """Nothing is left to do: unlike upstream's, it has evaluated the last iteration."""


class BestCheckpointer(HookBase):
    """
    Keeps the weights with the best value of a metric as `model_best.pth`.

    Unlike upstream's, it remembers the best value over a resume (in `model_best.json`) and leaves
    `last_checkpoint` alone, so that a resume starts from the last checkpoint, not from the best.
    Goes after EvalHook, whose results it reads.
    """

    def __init__(self, checkpointer: Checkpointer, val_metric: str, mode: str = "max"):
        """
        Args:
            checkpointer: of the model that is evaluated; its `save_dir` is where.
            val_metric: a metric that EvalHook stores, e.g. "bbox/AP50".
            mode: "max" or "min".
        """
        self._model = checkpointer.model
        classes = getattr(checkpointer, "classes", None)
        self._classes = {KEY: classes} if classes else {}
        self._folder = Path(checkpointer.save_dir)
        self._val_metric = val_metric
        self._is_better = {"max": operator.gt, "min": operator.lt}[mode]
        self._record = self._folder / "model_best.json"
        self._best = None
        self._is_told = False

    def before_train(self):
        if self.trainer.start_iter > 0:
            if comm.is_main_process():
                repair_best(self._folder)
            record = read_best(self._folder, self._val_metric)
            self._best = record and record["value"]
        else:
            self._record.unlink(missing_ok=True)

    def after_step(self):
        latest = self.trainer.storage.latest()
        if self._val_metric not in latest:
            if not self._is_told and any(map(MetricNames.is_evaluation, latest)):
                self._is_told = True
                logger.warning(f"the evaluation has no {self._val_metric}: no model_best.pth")
            return
        value, iteration = latest[self._val_metric]
        is_finite = iteration == self.trainer.iter and math.isfinite(value)
        if not is_finite or not (self._best is None or self._is_better(value, self._best)):
            return
        self._best = value
        record = {"metric": self._val_metric, "value": value, "iteration": iteration}
        record |= self._classes
        # a kill while saving must not cost the best model so far
        with interrupts_wait():
            save_whole(
                {"model": self._model.state_dict(), **record}, self._folder / "model_best.pth"
            )
            write_record(self._record, record)
        logger.info(f"best {self._val_metric} so far: {value:.2f}, kept as model_best.pth")


class EarlyStopping(HookBase):
    """
    Ends the training when evaluations no longer get better.

    It keeps no count of its own but asks BestCheckpointer's record, after which it goes: so a
    resumed run stops where an uninterrupted one would have.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        val_metric: str,
        eval_period: int,
        patience: int | None,
        is_cut_off: bool = False,
    ):
        """
        Args:
            checkpointer: saves the last weights as `model_final.pth`.
            val_metric: the metric of BestCheckpointer.
            eval_period: iterations between two evaluations.
            patience: that many evaluations in a row without a better value are the last; None:
                it never ends early.
            is_cut_off: as of `Completion`.

        Raises:
            UserError: there are no evaluations before the end, or no patience at all.
        """
        if patience is not None and min(eval_period, patience) < 1:
            raise UserError("train.early_stopping needs train.eval_period and patience from 1 up")
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._eval_period = eval_period
        self._patience = patience
        self._is_cut_off = is_cut_off

    def before_train(self):
        """
        Raises:
            UserError: the resumed run has been stopped before.
        """
        done = self.trainer.start_iter
        if done > 0 and not self._is_cut_off and self._is_over(done):
            raise UserError(
                f"{self._checkpointer.save_dir}: stopped early after {done} iterations; a higher "
                "train.early_stopping.patience goes on"
            )

    def after_step(self):
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter or not self._is_over(done):
            return
        logger.info(
            f"stops early after {done} iterations: {self._val_metric} was not better in the last "
            f"{self._patience} evaluations"
        )
        if comm.is_main_process():
            # PeriodicCheckpointer came before the evaluation, and could not know
            self._checkpointer.save(FINAL, iteration=self.trainer.iter)
        self.trainer.max_iter = done  # not before: the checkpoint holds it

    def _is_over(self, done: int) -> bool:
        """The same on all processes, of which the main one alone has the results."""
        if self._patience is None or done % self._eval_period:
            return False
        best = read_best(self._checkpointer.save_dir, self._val_metric)
        late = best is not None and done - 1 - best["iteration"] >= (
            self._patience * self._eval_period
        )
        return comm.all_gather(late)[0]


class LossNormalizer(HookBase):
    """Saves the running normalizer of RetinaNet's and FCOS's losses, which upstream forgets."""

    def __init__(self, model: torch.nn.Module):
        self._modules = dict(model.named_modules())

    def state_dict(self):
        return {
            name: module.loss_normalizer
            for name, module in self._modules.items()
            if hasattr(module, "loss_normalizer")
        }

    def load_state_dict(self, state_dict):
        for name, value in state_dict.items():
            self._modules[name].loss_normalizer = value


class PeriodicWriter(hooks.PeriodicWriter):
    """
    Upstream's, for one writer at its own `period`, told beforehand where training starts.

    It writes after each evaluation too, whose results a kill could else take away.
    """

    def __init__(self, writer: EventWriter, cfg, is_cut_off: bool = False):
        """
        Args:
            writer: written every `writer.period` iterations, or every `cfg.train.log_period` if
                it has no such attribute; its `start(start_iter, cfg)` is called before training.
            cfg: the whole config.
            is_cut_off: as of `Completion`; the writer then starts with the iteration before.
        """
        super().__init__([writer], period=getattr(writer, "period", cfg.train.log_period))
        self._cfg = cfg
        self._eval_period = cfg.train.get("eval_period", 0)
        self._is_cut_off = is_cut_off
        self._started = False

    def before_train(self):
        first = self.trainer.start_iter - (1 if self._is_cut_off else 0)
        for writer in self._writers:
            if hasattr(writer, "start"):
                writer.start(first, self._cfg)
        self._started = True

    def after_step(self):
        done = self.trainer.iter + 1
        periods = (self._period, self._eval_period)
        if done == self.trainer.max_iter or any(p > 0 and done % p == 0 for p in periods):
            for writer in self._writers:
                writer.write()

    def after_train(self):
        if self._started:  # not when another hook failed before training began
            super().after_train()
