"""Weights & Biases writer; https://docs.wandb.ai for the terms project, entity, run and offline."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage
from omegaconf import OmegaConf

from detection.utils.errors import UserError
from detection.utils.wandb_files import sync_command
from detection.utils.wandb_runs import (
    CAPTURE,
    default_mode,
    finish_run,
    make_settings,
    open_run,
    tear_down,
    time_limit,
)
from detection.writers.metric_names import MetricNames
from detection.writers.scalars import UnwrittenScalars
from detection.writers.wandb_alerts import Alerts
from detection.writers.wandb_lineage import RECORDED, Inputs
from detection.writers.wandb_record import (
    grouping,
    read_logged,
    read_run_record,
    write_run_record,
)

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)

KILLED = 255  # the exit code of a run that W&B shows as killed, not as failed


class WandbWriter(EventWriter):
    """
    Logs every scalar to one W&B run under the team's names, with the iteration as the axis.

    The run lives in `<output_dir>/wandb` and its id in `<output_dir>/wandb_run.json`: a resumed
    training continues the run. Rows that the run logged after its last checkpoint are kept and not
    logged again. Without a key, or when the server does not answer in time, it is an offline run,
    to be synced later. No error of W&B's ends the training.
    """

    def __init__(
        self,
        output_dir: str,
        metric_names: MetricNames,
        project: str = "",
        entity: str = "",
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
        period: int = 20,
        window_size: int = 20,
        mode: str | None = None,
        init_timeout: float = 15,
        finish_timeout: float = 60,
        capture: Sequence[str] = (),
        dataset: str | None = "hashes",
        alerts: bool | Mapping = False,
        best: Mapping | None = None,
    ):
        """
        Args:
            output_dir: of the training; its last component is the default name of the run.
            metric_names: renames and scales detectron2's metrics.
            project, entity, name: W&B's; empty means W&B's own default, None for `name` the
                default above. A sweep has its own project and entity.
            group: of the run in W&B; None: WANDB_RUN_GROUP, else of a fold the name without it,
                so that the folds of an experiment are one group.
            tags: of the run; that of its fold is added, as in "fold 0".
            notes: of the run.
            period: iterations between two writes.
            window_size: of the median over training scalars.
            mode: "online", "offline" or "disabled"; None obeys WANDB_MODE, else it is online
                where a key is configured and offline elsewhere.
            init_timeout: seconds to wait for the server before going offline.
            finish_timeout: seconds to wait at the end until all is sent, and for W&B's own process
                at any time; it is ended then.
            capture: what else W&B may record; any of "code", "console", "git", "machine",
                "requirements" and "stats" (of the system).
            dataset: what is recorded of it; "hashes", "files" (with hashes) or None.
            alerts: those of `Alerts`.
            best: `val_metric` and `mode` of evaluations, for alerts.

        Raises:
            UserError: an unknown name in `capture` or `alerts`, another `dataset`, or W&B is not
                installed.
        """
        if dataset not in (None, *RECORDED):
            raise UserError(f"writers.wandb.dataset={dataset}: give {', '.join(RECORDED)} or null")
        if unknown := set(capture) - CAPTURE.keys():
            raise UserError(f"W&B captures no {unknown.pop()!r}; there are {', '.join(CAPTURE)}")
        self.period = period
        self._output_dir = Path(output_dir)
        self._metric_names = metric_names
        self._init = {"project": project or None, "entity": entity or None, "notes": notes}
        self._name = name or self._output_dir.resolve().name
        self._group, self._tags = group, list(tags)
        self._scalars = UnwrittenScalars(window_size)
        self._mode = mode or os.environ.get("WANDB_MODE")
        if self._mode != "disabled":
            try:
                self._mode = self._mode or default_mode()
                import wandb  # noqa: F401
            except ImportError as e:
                raise UserError(f"W&B: {e}; install it, or train with writers.wandb=null") from e
        self._capture = list(capture)
        self._dataset = dataset
        self._alerts = Alerts(alerts, **(best or {}))
        self._timeouts = {"init_timeout": init_timeout, "finish_timeout": finish_timeout}
        self._run = None
        self._first = 0  # the first iteration that the run does not have yet
        self.media = {}  # {iteration: {name: what W&B can show}}, sent with its scalars
        self._summarised = set()
        self._earlier_best = {}  # of a resumed run's evaluations
        self._sync_command = ""
        self._has_warned = False
        # called in another thread by W&B's Stop button; None: the button means Ctrl-C
        self.on_stop: Callable[[], None] | None = None

    @property
    def run(self) -> wandb.Run | None:
        """The run from `start` to `close`; None while it is disabled or W&B has failed."""
        return self._run

    def start(self, start_iter: int, cfg) -> None:
        """Open the run: a resumed training's is that of the output directory, else a new one."""
        if self._mode == "disabled" or not comm.is_main_process():
            return
        self._scalars.start(start_iter)
        # the first iteration may be all that was, and be made up for
        is_resumed = start_iter > 0 or (self._output_dir / "last_checkpoint").exists()
        record = read_run_record(self._output_dir) if is_resumed else {}
        # a sweep's agent chooses the id
        run_id = os.environ.get("WANDB_RUN_ID") or record.get("id") or uuid.uuid4().hex[:8]
        logged = read_logged(self._output_dir, run_id, cfg) if is_resumed else ({}, {})
        inputs = Inputs(cfg, self._dataset)
        self._open(run_id, cfg, inputs.config)
        if self._run is None:
            return
        atexit.register(self._finish, 1)  # should another hook's failure prevent `close`
        with self._disabled_on_error():
            write_run_record(self._output_dir, {"id": self._run.id})
            self._run.define_metric("iter")
            self._run.define_metric("*", step_metric="iter")
            inputs.record(self._run)
            self._catch_up(start_iter, *logged, record.get("unfinished"))

    def write(self) -> None:
        if self._run is None:
            return
        # after a failure the iteration under way is incomplete, and may yet be repeated
        failed_at = get_event_storage().iter if sys.exc_info()[0] else None
        rows = dict(self._scalars.rows())
        for iteration in self.media:  # of an evaluation that had no scores
            rows.setdefault(iteration, {})
        with self._disabled_on_error():
            for iteration, scalars in sorted(rows.items()):
                row, evaluated = self._rename(iteration, scalars)
                if iteration == failed_at:
                    numbers = {k: v for k, v in row.items() if isinstance(v, int | float)}
                    write_run_record(self._output_dir, {"id": self._run.id, "unfinished": numbers})
                    continue
                if iteration >= self._first:
                    self._log(row, evaluated)
                self._alerts.see(iteration, scalars, self._run)

    def mark_preempting(self, number: int) -> None:
        """
        Tell W&B that a signal ends the run, so that a sweep hands it out again.

        Not for SIGTERM in a sweep, by which its agent ends runs that fall behind.
        """
        if self._run is not None and not (number == signal.SIGTERM and self._run.sweep_id):
            with self._disabled_on_error():
                self._run.mark_preempting()

    def close(self) -> None:
        # hooks close writers in a `finally`: an exception under way means that it was cut off
        error = sys.exc_info()[1]
        is_stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        if self._run is not None:
            with self._disabled_on_error():
                self._alerts.end(self._run, error)
        self._finish(0 if error is None else KILLED if is_stopped else 1)

    def _open(self, run_id: str, cfg, config: dict) -> None:
        """Set `_run`: offline if the server fails, None if W&B itself does."""
        group, tags = grouping(self._name, OmegaConf.select(cfg, "dataset.fold"))
        self._run = open_run(
            self._output_dir,
            run_id,
            self._mode,
            make_settings(self._capture, **self._timeouts, stop_fn=self.on_stop),
            self._warn_unsynced,
            **self._init,
            name=self._name,
            group=self._group or os.environ.get("WANDB_RUN_GROUP") or group,
            job_type="train",
            tags=[*self._tags, *tags],
            resume="allow",
            config=config,
        )
        if self._run is not None:
            self._sync_command = sync_command(self._run)

    def _catch_up(
        self,
        start_iter: int,
        rows: dict[int, dict],
        metrics: dict[int, dict],
        unfinished: dict | None,
    ) -> None:
        """Log what the run lacks before `start_iter`, and continue after its last row."""
        last = max(rows, default=-1)
        self._first = last + 1 if self._run.offline else self._run.starting_step
        for iteration, scalars in metrics.items():
            if iteration < start_iter:
                self._alerts.see(iteration, scalars, None)
            if iteration > last:  # a kill has cost W&B's own file the last second
                rows[iteration] = self._rename(iteration, scalars)[0]
        if unfinished:
            rows = {unfinished["iter"]: unfinished, **rows}
        for step in sorted(rows):
            row = {
                name: value
                for name, value in rows[step].items()
                if isinstance(value, int | float) and not name.startswith("_")
            }
            for name, value in row.items():
                self._earlier_best[name] = max(value, self._earlier_best.get(name, value))
            if self._first <= step < start_iter:
                self._run.log(row, step=step)

    def _rename(self, iteration: int, scalars: dict[str, float]) -> tuple[dict, list[str]]:
        """The row to log, and which of its names are of an evaluation."""
        row, evaluated = {"iter": iteration, **self.media.pop(iteration, {})}, []
        for name, value in scalars.items():
            new_name, row[new_name] = self._metric_names(name, value)
            if self._metric_names.is_evaluation(name):
                evaluated.append(new_name)
        return row, evaluated

    def _log(self, row: dict, evaluated: list[str]) -> None:
        for name in evaluated:
            if name not in self._summarised:
                self._summarised.add(name)
                # W&B takes an unescaped dot for the way into a nested value
                escaped = name.replace(".", r"\.")
                if "*" not in escaped:  # which cannot be escaped
                    self._run.define_metric(escaped, step_metric="iter", summary="max,last")
        self._run.log(row, step=row["iter"], commit=True)
        # W&B's own maximum forgets what was before a resume
        for name in self._earlier_best.keys() & set(evaluated):
            self._earlier_best[name] = best = max(row[name], self._earlier_best[name])
            self._run.summary[name] = {"max": best, "last": row[name]}

    def _finish(self, exit_code: int) -> None:
        atexit.unregister(self._finish)
        if self._run is not None:
            if not finish_run(self._run, exit_code):
                self._warn_unsynced()
            self._run = None

    @contextmanager
    def _disabled_on_error(self) -> Iterator[None]:
        """An error of W&B's within ends the recording, not the training."""
        try:
            with time_limit(self._timeouts["finish_timeout"]):
                yield
        except Exception as e:
            logger.warning(f"W&B: {type(e).__name__}: {e}; it records no more")
            self._run = None
            tear_down()

    def _warn_unsynced(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(f"W&B: not all could be sent; `{self._sync_command}` sends the rest")
