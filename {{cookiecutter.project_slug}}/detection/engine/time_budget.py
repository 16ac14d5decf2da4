"""Ends a training in time: `train.hours` plans its iterations from their measured speed."""

import logging
import math
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from detectron2.config import LazyConfig
from detectron2.engine import HookBase
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig

from detection.checkpoint.checkpointer import save_whole
from detection.solver.schedule import Paced
from detection.utils.errors import UserError

logger = logging.getLogger(__name__)

SETTLE = 5  # iterations after a start that are not timed: caches and loading processes fill up
MEASURED = 20  # iterations that are timed, at least, and at least
PART = 0.01  # this part of the budget, before the training is planned
MARGIN = 0.02  # of the budget, kept free; less than half of it left: planned again
CHECKS = 200  # of the plan, evenly spread over the training


class TimeBudget(HookBase):
    """
    Chooses `max_iter` so that a training ends, its learning rate decayed, within some hours.

    The first iterations, one evaluation and the writing of a checkpoint are timed. The training
    is then planned, and stays as planned unless it falls behind: what is left of the schedule is
    then compressed into the iterations for which there is time. The clock of the main process
    decides. Plan, speed and hours used are part of each checkpoint; after a resume the hours add
    up, with its start and without what was lost by the kill. A run that is resumed at the same
    plan computes what an uninterrupted one does; when a plan is made, and how many iterations it
    has, depends on the clock, and images that processes have loaded ahead follow the plan before.
    Must be the first hook.
    """

    def __init__(
        self, cfg: DictConfig, started: float, checkpointer: Checkpointer, test: Callable[[], dict]
    ):
        """
        Args:
            cfg: the whole config; `train.hours=None` switches all of this off. `train.max_iter`
                is set and config.yaml is written again with each plan.
            started: `time.monotonic()` when the program started, which counts.
            checkpointer: one that saves all the training's state.
            test: evaluates.
        """
        train = cfg.train
        self._cfg = cfg
        self._seconds = None if train.hours is None else 3600 * train.hours
        self._started = started
        self._checkpointer = checkpointer
        self._test = test
        self._periods = train.eval_period, train.checkpointer.period
        self._used = 0.0  # before this start
        # the progress of the schedule is linear from (iteration, progress) to (end, 1)
        self._plan = 0, 0.0, max(train.max_iter, 1000)
        self._speed = 0, 0.0  # iterations timed since the plan, and their seconds
        self._pauses = None  # seconds of an evaluation and of a checkpoint, once measured
        self._begun = None

    def paced(self, schedule: ParamScheduler) -> ParamScheduler:
        """The schedule at the pace of the plan."""
        if self._seconds is None:
            return schedule
        return Paced(schedule, lambda where: self._progress(round(where * self._scale)))

    def state_dict(self):
        if self._seconds is None:
            return {}
        return {
            "seconds": self._seconds,
            "used": self._seconds_used(),
            "plan": self._plan,
            "speed": self._speed,
            "pauses": self._pauses,
        }

    def load_state_dict(self, state_dict):
        if self._seconds is None:
            return
        self._used, self._plan = state_dict["used"], tuple(state_dict["plan"])
        self._speed, self._pauses = state_dict["speed"], state_dict["pauses"]
        self._is_changed = state_dict["seconds"] != self._seconds

    _is_changed = False

    def before_train(self):
        """
        Raises:
            UserError: the training is at its end, or too late for another iteration.
        """
        if self._seconds is None:
            return
        start = self.trainer.start_iter
        if self._progress(start) >= 1 and not getattr(self.trainer, "is_cut_off", False):
            raise UserError(
                f"{self._cfg.train.output_dir}: already trained for {start} iterations, to the end "
                "of its schedule; train.init_checkpoint=… with another train.output_dir starts "
                "from its weights"
            )
        if self._pauses:
            self._apply()
            if self._is_changed and self._progress(start) < 1:
                self._set_end(self._affordable(), "with another train.hours")
        else:
            self.trainer.max_iter = self._plan[2]
        self._scale = self.trainer.max_iter

    def before_step(self):
        """
        Raises:
            UserError: the budget is too short for an evaluation and a checkpoint.
        """
        if self._seconds is None:
            return
        self._measure()
        done = self.trainer.iter
        if self._pauses is None:
            self._begin()
        elif done % max(1, self._plan[2] // CHECKS) == 0:
            end = self._seconds_used() + self._cost(self._plan[2])
            is_late = end > (1 - MARGIN / 2) * self._seconds
            if comm.all_gather(is_late)[0]:
                self._set_end(min(self._affordable(), self._plan[2]), "slower than planned")
        self._begun = time.monotonic()

    def _measure(self) -> None:
        """Time the iteration before this one: its speed, or its evaluation or checkpoint."""
        last = self.trainer.iter - 1
        if self._begun is None:
            return
        spent, (count, seconds) = time.monotonic() - self._begun, self._speed
        is_eval, is_saved = (p > 0 and (last + 1) % p == 0 for p in self._periods)
        if is_eval or is_saved:
            if self._pauses and count:
                pause = max(0.0, spent - seconds / count)
                test, save = self._pauses
                self._pauses = (
                    (max(0.0, pause - is_saved * save), save) if is_eval else (test, pause)
                )
        elif last >= self.trainer.start_iter + SETTLE:
            self._speed = count + 1, seconds + spent
        elif self._pauses is None:
            self._speed = 1, spent  # until there is a better one

    def _begin(self) -> None:
        """Plan once enough is measured; before that, a first estimate paces the warm-up."""
        count, seconds = self._speed
        half, is_enough = self._seconds / 2, seconds > PART * self._seconds and count > MEASURED
        is_due = count > 0 and (is_enough or self._seconds_used() > half)
        guess = self.trainer.iter + int(half * count / seconds) if count == SETTLE else None
        is_due, guess = comm.all_gather((is_due, guess))[0]
        if is_due:
            self._time_pauses()
            self._set_end(self._affordable(), "as measured")
        elif guess:
            self._plan = self.trainer.iter, self._progress(self.trainer.iter), guess
            self._apply()

    def _time_pauses(self) -> None:
        logger.info("train.hours: timing an evaluation and a checkpoint")
        times = [time.monotonic()]
        self._test()
        times.append(time.monotonic())
        if comm.is_main_process():
            path = Path(self._cfg.train.output_dir) / "model_timed.partial"
            model, trainer = self._checkpointer.model, self.trainer
            save_whole({"model": model.state_dict(), "trainer": trainer.state_dict()}, path)
            path.unlink()
        comm.synchronize()
        test, save = times[1] - times[0], time.monotonic() - times[1]
        self._pauses = test + save, save  # the best one is saved after an evaluation

    def _seconds_used(self) -> float:
        return self._used + time.monotonic() - self._started

    def _progress(self, iteration: int) -> float:
        start, progress, end = self._plan
        if iteration >= end:
            return 1.0
        return progress + (1 - progress) * (iteration - start) / (end - start)

    def _cost(self, end: int) -> float:
        """The seconds from this iteration to iteration `end`, what comes at the end included."""
        done, (count, seconds) = self.trainer.iter, self._speed
        pauses = zip(self._pauses, self._periods, strict=True)
        times = (pause * (end // p - done // p) for pause, p in pauses if p > 0)
        return (end - done) * seconds / count + sum(times) + sum(self._pauses)

    def _affordable(self) -> int:
        """The end for which there is time, at least one iteration from here."""
        done, (count, seconds) = self.trainer.iter, self._speed
        pauses = zip(self._pauses, self._periods, strict=True)
        each = seconds / count + sum(pause / p for pause, p in pauses if p > 0)
        left = (1 - MARGIN) * self._seconds - self._seconds_used() - sum(self._pauses)
        return max(done + 1, done + math.floor(left / each))

    def _set_end(self, end: int, reason: str) -> None:
        """Plan, on all processes, to end after iteration `end` - 1 of the main one."""
        done, (count, seconds) = self.trainer.iter, self._speed
        each, used, test, save, end = comm.all_gather(
            (seconds / count, self._seconds_used(), *self._pauses, end)
        )[0]
        is_first = reason == "as measured"
        needed = used + sum((test, save))
        if is_first and needed > self._seconds:
            raise UserError(
                f"train.hours={self._cfg.train.hours:g} is too short: "
                f"{timedelta(seconds=round(used))} are used, and an evaluation and a checkpoint "
                f"take {test + save:.3g} s; "
                f"{_hours(needed + 100 * each)} have room for about 100 iterations of {each:.3g} s"
            )
        self._plan = done, self._progress(done), end
        # the speed is measured from here on; what is known counts as a few iterations
        count = min(count, MEASURED)
        self._speed, self._pauses = (count, count * each), (test, save)
        log = logger.info if is_first else logger.warning
        log(
            f"train.hours={self._cfg.train.hours:g}, {reason}: {end} iterations in all; "
            f"{timedelta(seconds=round(used))} used, {each:.3g} s per iteration, {test:.3g} s per "
            f"evaluation, {save:.3g} s per checkpoint"
        )
        self._apply()

    def _apply(self) -> None:
        end = self.trainer.max_iter = self._cfg.train.max_iter = self._plan[2]
        if hasattr(dataset := getattr(self.trainer.data_loader, "dataset", None), "set_max_iter"):
            dataset.set_max_iter(end)
        if comm.is_main_process():
            LazyConfig.save(self._cfg, f"{self._cfg.train.output_dir}/config.yaml")


def _hours(seconds: float) -> str:
    """A little more than so many seconds, as a setting."""
    hours = 1.1 * seconds / 3600
    return f"train.hours={hours:.2g}"
