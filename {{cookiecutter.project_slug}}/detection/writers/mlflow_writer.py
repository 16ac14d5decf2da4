"""MLflow writer; https://mlflow.org/docs for the terms experiment, run, param and tracking URI."""

import logging
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from detectron2.utils.events import EventWriter, get_event_storage
from omegaconf import OmegaConf

from detection.config import to_plain
from detection.utils.bounded import within
from detection.utils.errors import UserError
from detection.utils.files import read_record, write_record
from detection.utils.mlflow_runs import open_run
from detection.utils.text import shortened
from detection.utils.wandb_runs import without_secrets
from detection.writers.metric_names import MetricNames, SafeNames
from detection.writers.scalars import UnwrittenScalars, read_metrics
from detection.writers.wandb_writer import grouping

T = TypeVar("T")
logger = logging.getLogger(__name__)

RECORD = "mlflow_run.json"
_ENVIRONMENT = {  # nothing goes to MLflow's authors; a silent server is asked twice, briefly
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_MOST = 1000  # metrics of a request


class MLflowWriter(EventWriter):
    """
    Logs every scalar to one MLflow run, under the names that W&B gets, and `max/…`, the best so far
    of an evaluation's.

    The run's id is in `<output_dir>/mlflow_run.json`: a resumed training continues the run, and
    sends from metrics.json what the run lacks. No error of MLflow's ends the training, and no
    silent server holds it up for longer than `timeout`.
    """

    def __init__(
        self,
        output_dir: str,
        metric_names: MetricNames,
        enabled: bool = True,
        tracking_uri: str | None = None,
        experiment: str = "detection",
        name: str | None = None,
        tags: dict[str, str] | None = None,
        period: int = 20,
        window_size: int = 20,
        timeout: float = 30,
    ):
        """
        Args:
            output_dir: of the training; its last component is the default name of the run.
            metric_names: renames and scales detectron2's metrics.
            enabled: whether to record anything.
            tracking_uri: a server's URL, or a folder of the project, which gets a database and the
                pictures and needs no server; None: MLFLOW_TRACKING_URI, else output/mlruns.
            experiment: created if it does not exist.
            name: of the run.
            tags: of the run; that on a fold gets `group` and `fold` too.
            period: iterations between two writes.
            window_size: of the median over training scalars.
            timeout: seconds to wait for MLflow; then it records no more.

        Raises:
            UserError: MLflow is not installed.
        """
        self.period = period
        # {iteration: {name: (H, W, 3) RGB}}, sent with its scalars; None: not wanted
        self.pictures = {} if enabled else None
        self._output_dir, self._metric_names = Path(output_dir), metric_names
        self._uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "output/mlruns"
        self._experiment, self._tags = experiment, dict(tags or {})
        self._name = name or self._output_dir.resolve().name
        self._enabled, self._timeout = enabled, timeout
        self._scalars, self._safe_names = UnwrittenScalars(window_size), SafeNames("MLflow")
        self._client = self._run_id = None  # from `start` to `close`, while MLflow answers
        self._last, self._best = -1, {}  # the last iteration that the run has; of the evaluations
        if enabled:
            for variable, value in _ENVIRONMENT.items():
                os.environ.setdefault(variable, value)
            try:
                import alembic  # noqa: F401
                import mlflow  # noqa: F401
                import sqlalchemy  # noqa: F401
            except ImportError as e:
                raise UserError(f"MLflow: {e}; `uv pip install --group mlflow` installs it") from e

    def start(self, start_iter: int, cfg) -> None:
        """Open the run: a resumed training's is that of the output directory, else a new one."""
        if not self._enabled:
            return
        self._scalars.start(start_iter)
        # the first iteration may be all that was, and be made up for
        is_resumed = start_iter > 0 or (self._output_dir / "last_checkpoint").exists()
        run_id = read_record(self._output_dir / RECORD).get("id") if is_resumed else None
        fold = OmegaConf.select(cfg, "dataset.fold")
        of_fold = (
            {} if fold is None else {"group": grouping(self._name, fold)[0], "fold": str(fold)}
        )
        run = (self._uri, run_id, self._experiment, self._name, of_fold | self._tags)
        config = without_secrets(to_plain(cfg))
        opened = self._call(lambda: open_run(*run, config))
        if opened is None:
            return
        self._client, self._run_id, last = opened
        self._last = max((step for step, _ in last.values()), default=-1)
        self._best = {name: value for name, (_, value) in last.items()}
        place = self._uri.rpartition("@")[2]  # without a password
        logger.info(f"MLflow: run {self._run_id} of {self._experiment}, in {place}")
        write_record(self._output_dir / RECORD, {"id": self._run_id})
        json_file = OmegaConf.select(cfg, "writers.json.json_file") if is_resumed else None
        for iteration, scalars in sorted(read_metrics(json_file).items() if json_file else ()):
            if iteration < start_iter:
                self._log(iteration, scalars)

    def write(self) -> None:
        if self._client is None:
            return
        # after a failure the iteration under way is incomplete, and may yet be repeated
        failed_at = get_event_storage().iter if sys.exc_info()[0] else None
        rows = dict(self._scalars.rows())
        for iteration in self.pictures or ():  # of an evaluation that had no scores
            rows.setdefault(iteration, {})
        for iteration, scalars in sorted(rows.items()):
            if iteration != failed_at:
                self._log(iteration, scalars)

    def close(self) -> None:
        # hooks close writers in a `finally`: an exception under way means a crash
        status = "FAILED" if sys.exc_info()[0] else "FINISHED"
        client, self._client = self._client, None
        if client is not None:
            self._call(lambda: client.set_terminated(self._run_id, status))

    def _log(self, iteration: int, scalars: dict[str, float]) -> None:
        """Log one iteration, unless the run has it."""
        client, run_id = self._client, self._run_id
        if client is None:
            return
        from mlflow.entities import Metric

        pictures = self.pictures.pop(iteration, {})
        if iteration <= self._last:
            return
        row = {}
        for name, value in scalars.items():
            new_name, value = self._metric_names(name, value)
            new_name = self._safe_names(new_name)
            row[new_name] = value
            if self._metric_names.is_evaluation(name):
                best = f"max/{new_name}"
                row[best] = max(value, self._best.get(best, -math.inf))
        self._best |= row
        self._last = iteration
        now = round(time.time() * 1000)
        metrics = [Metric(name, value, now, iteration) for name, value in row.items()]

        def send() -> None:
            for k in range(0, len(metrics), _MOST):
                client.log_batch(run_id, metrics[k : k + _MOST])
            for name, pixels in pictures.items():
                client.log_image(run_id, pixels, key=name, step=iteration)

        self._call(send)

    def _call(self, call: Callable[[], T]) -> T | None:
        """What it returns; an error of MLflow's ends the recording, not the training."""
        try:
            return within(self._timeout, call)
        except Exception as e:
            reason = shortened(str(e).partition("\n")[0], 200)
            logger.warning(f"MLflow: {type(e).__name__}: {reason}; it records no more")
            self._client = self.pictures = None
