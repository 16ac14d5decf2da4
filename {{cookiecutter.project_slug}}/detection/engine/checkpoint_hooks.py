"""Hooks that save checkpoints, keep the best one, stop early and log them to W&B."""

import logging
import math
import operator
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer

from detection.checkpoint.checkpointer import (
    FINAL,
    NUMBERED,
    interrupts_wait,
    read_best,
    repair_best,
    save_whole,
)
from detection.checkpoint.classes import KEY
from detection.engine.hooks import is_cut_off
from detection.utils.errors import UserError
from detection.utils.files import read_record, write_atomically, write_record
from detection.utils.paths import BEST_RESULTS, LAST_RESULTS
from detection.utils.wandb_runs import time_limit
from detection.writers.metric_names import MetricNames

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)


class ModelArtifacts(HookBase):
    """
    Logs the best and the last checkpoint to the W&B run, when training has reached its end.

    They are two versions of the artifact `model-<run id>`, of type "model", with the aliases `best`
    and `last`; their metadata are the metric, its value, the iteration, the class names and the
    run's config. A run that stopped early has none, since it can go on. Goes after the hooks that
    save checkpoints and before the writer that closes the run.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        val_metric: str,
        enabled: bool = True,
        link_to: str | None = None,
    ):
        """
        Args:
            checkpointer: its `save_dir` holds the checkpoints.
            val_metric: the name of the metric that picks the best, e.g. "competition/mAP50".
            enabled: False: nothing is logged, unless `link_to` is given.
            link_to: the collection of W&B's Registry that the best one is linked to, as
                "wandb-registry-model/trash", once it is uploaded, for which the run's
                `finish_timeout` is time; None: none.
        """
        self._enabled = (enabled or bool(link_to)) and comm.is_main_process()
        self._link_to = link_to
        self._checkpointer = checkpointer
        self._val_metric = val_metric

    def after_step(self):
        if not self._enabled or self.trainer.iter + 1 < self.trainer.max_iter:
            return
        # without a W&B writer, nothing has imported it
        self._run = getattr(sys.modules.get("wandb"), "run", None)
        if self._run is None:
            logger.warning("there is no W&B run, so no checkpoint was logged to it")
            return
        folder = Path(self._checkpointer.save_dir)
        last = {"metric": self._val_metric, "iteration": self.trainer.iter}
        latest = self.trainer.storage.latest()
        if self._val_metric in latest:
            last["value"] = latest[self._val_metric][0]
        artifact = None
        try:
            if best := read_record(folder / "model_best.json"):
                artifact = self._log(folder / "model_best.pth", best, "best")
            self._log(Path(self._checkpointer.get_checkpoint_file()), last, "last")
        except Exception as e:  # a training that is done must not end in an error
            logger.warning(f"W&B: checkpoints not logged ({e!r})")
        if self._link_to and artifact is not None:
            self._link(artifact)

    def _link(self, artifact: "wandb.Artifact") -> None:
        timeout = self._run.settings.finish_timeout
        try:
            if self._run.offline:
                raise ValueError("the run is offline")
            artifact.wait(int(timeout))
            with time_limit(timeout):
                self._run.link_artifact(artifact, self._link_to)
            logger.info(f"W&B: {artifact.name} is linked to {self._link_to}")
        except Exception as e:
            logger.warning(
                f"W&B: {artifact.name} is not linked to {self._link_to} ({e}); its page in W&B can"
            )

    def _log(self, path: Path, metadata: dict, alias: str) -> "wandb.Artifact":
        if classes := getattr(self._checkpointer, "classes", None):
            metadata = {**metadata, KEY: classes}
        import wandb

        metadata = {**metadata, "config": self._run.config.as_dict()}
        artifact = wandb.Artifact(f"model-{self._run.id}", type="model", metadata=metadata)
        # no copies of hundreds of MB: it is not written to any more
        artifact.add_file(str(path), policy="immutable", skip_cache=True)
        return self._run.log_artifact(artifact, aliases=[alias])


class BestCheckpointer(HookBase):
    """
    Keeps the weights with the best value of a metric as `model_best.pth`, and the evaluator's
    predictions with them as `inference/best.json`.

    Unlike upstream's, it remembers the best value over a resume (in `model_best.json`) and leaves
    `last_checkpoint` alone, so that a resume starts from the last checkpoint, not from the best.
    Goes after EvalHook, whose results it reads.
    """

    def __init__(self, checkpointer: Checkpointer, val_metric: str, mode: str = "max"):
        """
        Args:
            checkpointer: of the model that is evaluated; its `save_dir` is where.
            val_metric: a metric that EvalHook stores, e.g. "competition/mAP50".
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
            if (results := self._folder / LAST_RESULTS).is_file():
                write_atomically(str(self._folder / BEST_RESULTS), results.read_bytes())
            write_record(self._record, record)
        logger.info(f"best {self._val_metric} so far: {value:.4g}, kept as model_best.pth")


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
    ):
        """
        Args:
            checkpointer: saves the last weights as `model_final.pth`.
            val_metric: the metric of BestCheckpointer.
            eval_period: iterations between two evaluations.
            patience: that many evaluations in a row without a better value are the last; None:
                it never ends early.

        Raises:
            UserError: there are no evaluations before the end, or no patience at all.
        """
        if patience is not None and min(eval_period, patience) < 1:
            raise UserError("train.early_stopping needs train.eval_period and patience from 1 up")
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._eval_period = eval_period
        self._patience = patience

    def before_train(self):
        """
        Raises:
            UserError: the resumed run has been stopped before.
        """
        done = self.trainer.start_iter
        if done > 0 and not is_cut_off(self.trainer) and self._is_over(done):
            raise UserError(
                f"{self._checkpointer.save_dir}: stopped early after {done} iterations; a higher "
                "train.early_stopping.patience continues"
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


class PeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """
    Upstream's, but the checkpoints from before a resume count to those that are kept.

    What kills have left goes when training starts: half files, and checkpoints beyond
    `max_to_keep`.
    """

    def before_train(self):
        super().before_train()
        if not comm.is_main_process():
            return
        folder = Path(self.checkpointer.save_dir)
        for pattern in ("model_*.partial", "last_*.partial"):
            for partial in folder.glob(pattern):
                partial.unlink()
        numbers = {p: NUMBERED.fullmatch(p.name) for p in sorted(folder.glob("model_*.pth"))}
        self.recent_checkpoints = [
            str(path)
            for path, number in numbers.items()
            if number and int(number[1]) < self.trainer.start_iter  # of the resumed run
        ]
        if self.max_to_keep is not None:
            for path in self.recent_checkpoints[: -self.max_to_keep]:
                Path(path).unlink()
            self.recent_checkpoints = self.recent_checkpoints[-self.max_to_keep :]

    def after_step(self):
        if not comm.is_main_process():
            return
        done, self.max_iter = self.trainer.iter + 1, self.trainer.max_iter
        if done > self.trainer.start_iter:
            super().after_step()
        # Completion's call: it was resumed from this iteration's checkpoint
        elif done == self.trainer.max_iter and not self._is_final():
            self.checkpointer.save(FINAL, iteration=self.trainer.iter)

    def _is_final(self) -> bool:
        return Path(self.checkpointer.get_checkpoint_file()).name == f"{FINAL}.pth"
