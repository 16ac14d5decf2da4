"""Writers to the terminal, to metrics.json and to TensorBoard; W&B's is in `wandb_writer.py`."""

import json
import logging
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage, EventWriter, TensorboardXWriter, get_event_storage
from fvcore.common.history_buffer import HistoryBuffer
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from detection.checkpoint.checkpointer import read_best
from detection.utils.files import write_whole

logger = logging.getLogger("detectron2.detection")

# unsmoothed, yet put at every iteration: their latest value is enough
_EVERY_ITERATION = ("lr", "eta_seconds")


class NewScalars:
    """
    What came into the EventStorage since the last look, each value at its own iteration.

    Training scalars come as the median of their last `window_size` values; evaluations, which ask
    not to be smoothed, come one by one as they were, however many there were in between.
    """

    def __init__(self, window_size: int = 20):
        self._window_size = window_size
        self.start(0)

    def start(self, first: int) -> None:
        """Leave out what was before iteration `first`, which a resumed storage may hold."""
        self._last = defaultdict(lambda: first - 1)

    def rows(self) -> list[tuple[int, dict[str, float]]]:
        """(iteration, {name: value}) in ascending order; what is not finite is left out."""
        storage = get_event_storage()
        told = vars(storage).setdefault("_told_not_finite", set())  # once, not by each writer
        rows = defaultdict(dict)
        for name, (_, iteration) in storage.latest().items():
            for at, value in self._new_values(storage, name):
                if math.isfinite(value):
                    rows[at][name] = value
                elif name not in told:
                    told.add(name)
                    logger.warning(f"{name} is {value} at iteration {at}: not written")
            self._last[name] = iteration
        return sorted(rows.items())

    def _new_values(self, storage: EventStorage, name: str) -> Iterator[tuple[int, float]]:
        value, iteration = storage.latest()[name]
        if iteration <= self._last[name]:
            return
        if storage.smoothing_hints()[name]:
            yield iteration, _median(storage.history(name), self._window_size)
        elif name in _EVERY_ITERATION:
            yield iteration, value
        else:
            for value, at in reversed(storage.history(name).values()):
                if at <= self._last[name]:
                    return
                yield int(at), value


class JSONWriter(EventWriter):
    """
    Writes one json object a line: `iteration` and the scalars of that iteration.

    Like detectron2's, but valid JSON always, every evaluation kept, and after a resume the lines
    that the interrupted run wrote beyond its checkpoint give way to the new ones.
    """

    def __init__(self, json_file: str, period: int = 20, window_size: int = 20):
        """
        Args:
            json_file: continued by a resumed run, written anew by a fresh one.
            period: iterations between two writes.
            window_size: of the median over training scalars.
        """
        self.period = period
        self._json_file = json_file
        self._scalars = NewScalars(window_size)
        self._file = None

    def start(self, start_iter: int, cfg) -> None:
        self._scalars.start(start_iter)
        kept = [line for line in _read_lines(self._json_file) if _iteration(line) < start_iter]
        write_whole(self._json_file, b"".join(kept))
        self._file = open(self._json_file, "a", encoding="utf-8")

    def write(self) -> None:
        for iteration, scalars in self._scalars.rows():
            line = json.dumps({"iteration": iteration, **scalars}, ensure_ascii=False)
            self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()


class TensorboardWriter(TensorboardXWriter):
    """
    detectron2's TensorBoard writer, with every evaluation kept.

    After a resume, the points that the interrupted run drew beyond its checkpoint disappear.
    """

    def __init__(self, log_dir: str, period: int = 20, window_size: int = 20):
        """
        Args:
            log_dir: folder of the event files.
            period: iterations between two writes.
            window_size: of the median over training scalars.
        """
        super().__init__(log_dir)
        self.period = period
        self._scalars = NewScalars(window_size)
        self._last_write = math.inf  # the base class is left images and histograms only

    def start(self, start_iter: int, cfg) -> None:
        self._scalars.start(start_iter)
        # as SummaryWriter does for its `purge_step`
        session = SessionLog(status=SessionLog.START)
        self._writer.file_writer.add_event(Event(step=start_iter, session_log=session))

    def write(self) -> None:
        for iteration, scalars in self._scalars.rows():
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, iteration)
        super().write()
        self._writer.flush()


class TqdmMetricPrinter(EventWriter):
    """
    Shows progress: a tqdm bar on a terminal, a plain line every `period` iterations elsewhere.

    Both tell iteration, seconds an iteration, time left for the whole run, losses, learning rate,
    GPU memory, and the last and best value of the metric that picks the best checkpoint.
    """

    def __init__(
        self,
        max_iter: int,
        period: int = 20,
        window_size: int = 20,
        best_metric: str = "bbox/AP",
        mode: str = "max",
        bar: bool | None = None,
    ):
        """
        Args:
            max_iter: iterations of the whole run.
            period: iterations between two plain lines.
            window_size: of the median over losses and times.
            best_metric: detectron2's name of the metric shown.
            mode: whether its best value is its "max" or its "min".
            bar: whether to draw a bar; None draws one where stderr is a terminal.
        """
        self._max_iter = max_iter
        self._line_period = period
        self._window_size = window_size
        self._best_metric = best_metric
        self._better = {"max": max, "min": min}[mode]
        self._earlier_best = []  # of a resumed run, one value at most
        self._is_bar = sys.stderr.isatty() if bar is None else bar
        self._bar = None
        self._redirect = ExitStack()
        # a bar moves with every iteration; tqdm itself limits how often it draws
        self.period = 1 if self._is_bar else period

    def start(self, start_iter: int, cfg) -> None:
        record = read_best(cfg.train.output_dir, self._best_metric) if start_iter > 0 else None
        self._earlier_best = [record["value"]] if record else []
        if self._is_bar:
            # log lines are printed above the bar instead of through it
            loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "")]
            self._redirect.enter_context(logging_redirect_tqdm(loggers))
            self._bar = tqdm(
                total=self._max_iter,
                initial=start_iter,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}{postfix}",
            )

    def write(self) -> None:
        storage = get_event_storage()
        done = storage.iter + 1
        _, last_step = storage.latest().get("total_loss", (math.nan, storage.iter))
        if done > self._max_iter or last_step < storage.iter:
            return  # called once more after training, or after a crash amid an iteration
        if self._bar is None:
            logger.info(f"iter {done}/{self._max_iter}  {self._status(storage)}")
        elif done % self._line_period == 0 or done == self._max_iter:
            self._bar.set_postfix_str(self._status(storage), refresh=False)
            self._bar.update(done - self._bar.n)
            self._bar.refresh()
        else:
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._redirect.close()

    def _status(self, storage: EventStorage) -> str:
        def median(name: str) -> float:
            return _median(storage.history(name), self._window_size)

        # the most wanted first: a narrow terminal cuts the line off
        scalars = storage.latest()
        parts = []
        if "time" in scalars:
            left = median("time") * (self._max_iter - storage.iter - 1)
            parts.append(f"eta {timedelta(seconds=round(left))}  {median('time'):.3f} s/it")
        if self._best_metric in scalars:
            values = [value for value, _ in storage.history(self._best_metric).values()]
            finite = [v for v in values + self._earlier_best if math.isfinite(v)]
            best = self._better(finite, default=math.nan)
            name = self._best_metric.split("/")[-1]
            parts.append(f"{name} {values[-1]:.1f} (best {best:.1f})")
        elif self._earlier_best:
            name = self._best_metric.split("/")[-1]
            parts.append(f"{name} best {self._earlier_best[0]:.1f}")
        if torch.cuda.is_available():
            parts.append(f"mem {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        if "lr" in scalars:
            parts.append(f"lr {scalars['lr'][0]:.3g}")
        if "val_loss/total_loss" in scalars:
            parts.append(f"val_loss {scalars['val_loss/total_loss'][0]:.3g}")
        losses = [n for n in scalars if "loss" in n.split("/")[-1] and "val_loss" not in n]
        for name in sorted(losses, key=lambda n: n != "total_loss"):
            parts.append(f"{name} {median(name):.3g}")
        return "  ".join(parts)


def _median(history: HistoryBuffer, window_size: int) -> float:
    """As `HistoryBuffer.median`, whose NumPy takes ten times as long for so few values."""
    values = [value for value, _ in history.values()[-window_size:]]
    return math.nan if any(map(math.isnan, values)) else statistics.median(values)


def read_metrics(json_file: str) -> dict[int, dict[str, float]]:
    """{iteration: {name: value}} of a JSONWriter's file; {} where there is none."""
    rows = [json.loads(line) for line in _read_lines(json_file) if _iteration(line) < math.inf]
    return {row.pop("iteration"): row for row in rows}


def _read_lines(json_file: str) -> list[bytes]:
    try:
        return Path(json_file).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []


def _iteration(line: bytes) -> float:
    try:
        iteration = json.loads(line)["iteration"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line cut off by a kill
    return iteration if isinstance(iteration, int) else math.inf
