"""Completes, on resume, what a kill cut off between a checkpoint and the next iteration."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm

from detection.checkpoint.checkpointer import LAST_COMPLETE
from detection.engine.hooks import is_cut_off
from detection.utils.files import write_record

logger = logging.getLogger(__name__)

FLUSHED = 3  # seconds after which W&B's process has written the data it received
WINDOW = 100  # values kept per scalar; writers take the median of fewer


class Completion(HookBase):
    """
    Repeats, when a run is resumed, the evaluation and the log rows that a kill cut off.

    A checkpoint is saved before its iteration's evaluation, so that a crash there loses no
    training. It holds the scalars so far; `last_complete.json` names the last checkpointed
    iteration after which all hooks ran. If the checkpoint is newer, its hooks run again before
    training continues: each keeps or replaces what it wrote before. Must be the last hook.
    """

    def __init__(self, hooks: Sequence[HookBase | None], folder: str):
        """
        Args:
            hooks: the one that saves checkpoints, and those after it.
            folder: of the checkpoints.
        """
        self._hooks = [hook for hook in hooks if hook is not None]
        self._record = Path(folder) / LAST_COMPLETE
        self._saved_at = None
        self._completed = None  # (iteration, time), not yet recorded
        self._resumed = None

    def state_dict(self):
        self._saved_at = self.trainer.iter  # only a checkpoint calls this
        storage, scalars = self.trainer.storage, {}
        for name, is_smoothed in storage.smoothing_hints().items():
            values = storage.history(name).values()[-WINDOW:]
            values = [(v, at) for v, at in values if is_smoothed or at == self.trainer.iter]
            if values:
                scalars[name] = {"is_smoothed": is_smoothed, "values": values}
        return {"max_iter": self.trainer.max_iter, "scalars": scalars}

    def load_state_dict(self, state_dict):
        self._resumed = state_dict

    def before_train(self):
        start = self.trainer.start_iter
        if is_cut_off(self.trainer):
            self.trainer.iter = start - 1
        if self._resumed:
            self._restore_scalars()
        if is_cut_off(self.trainer):
            self._complete(start - 1)
        elif start > 0:
            self._note(start - 1)  # lower than before if an older checkpoint was used
        elif comm.is_main_process():
            self._record.unlink(missing_ok=True)

    def after_step(self):
        now = time.monotonic()
        if self._saved_at == self.trainer.iter:
            self._completed = self._saved_at, now
        if self._completed and now - self._completed[1] > FLUSHED:
            self._note_completed()

    def after_train(self):
        if self._completed:  # the writers are closed
            self._note_completed()

    def _note_completed(self) -> None:
        self._note(self._completed[0])
        self._completed = None

    def _restore_scalars(self) -> None:
        storage = self.trainer.storage
        for name, scalar in self._resumed["scalars"].items():
            for value, at in scalar["values"]:
                storage.iter = at
                storage.put_scalar(name, value, smoothing_hint=scalar["is_smoothed"])
        storage.iter = self.trainer.iter

    def _complete(self, iteration: int) -> None:
        trainer = self.trainer
        logger.info(f"iteration {iteration}: its evaluation or log was cut off; repeating it")
        max_iter = trainer.max_iter
        # of the run that was cut off: with a higher max_iter this is not the end
        trainer.max_iter = end = min(max_iter, self._resumed["max_iter"])
        for hook in self._hooks:
            hook.after_step()
        self._completed = iteration, time.monotonic()
        if trainer.max_iter == end:  # otherwise a hook has stopped the training early
            trainer.max_iter = max_iter
        trainer.iter = trainer.storage.iter = iteration + 1

    def _note(self, iteration: int) -> None:
        if comm.is_main_process():
            write_record(self._record, {"iteration": iteration})
