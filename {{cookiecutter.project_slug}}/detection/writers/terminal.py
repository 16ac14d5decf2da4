"""A progress bar with the latest metrics, or plain lines in a log."""

import logging
import math
import sys
from contextlib import ExitStack
from datetime import timedelta

import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from detection.checkpoint.checkpointer import read_best
from detection.utils.logging import LOGGERS
from detection.writers.scalars import recent_median

logger = logging.getLogger(__name__)


class TqdmMetricPrinter(EventWriter):
    """
    Shows progress: a tqdm bar on a terminal, a plain line every `period` iterations elsewhere.

    Both show iteration, seconds per iteration, time left for the whole run, losses, learning rate,
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
        self.max_iter = max_iter  # a plan of `train.hours` changes it
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
            loggers = [logging.getLogger(name) for name in (*LOGGERS, "")]
            self._redirect.enter_context(logging_redirect_tqdm(loggers))
            self._bar = tqdm(
                total=self.max_iter,
                initial=start_iter,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}{postfix}",
            )

    def write(self) -> None:
        storage = get_event_storage()
        done = storage.iter + 1
        _, last_step = storage.latest().get("total_loss", (math.nan, storage.iter))
        if done > self.max_iter or last_step < storage.iter:
            return  # called once more after training, or after a crash within an iteration
        if self._bar is None:
            logger.info(f"iter {done}/{self.max_iter}  {self._status(storage)}")
        elif done % self._line_period == 0 or done == self.max_iter:
            self._bar.total = self.max_iter
            self._bar.set_postfix_str(self._status(storage), refresh=False)
            self._bar.update(done - self._bar.n)
            self._bar.refresh()
        else:
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._redirect.close()

    def _rounded(self, value: float) -> str:
        return f"{value:.4f}" if self._best_metric.startswith("competition/") else f"{value:.1f}"

    def _status(self, storage: EventStorage) -> str:
        def median(name: str) -> float:
            return recent_median(storage.history(name), self._window_size)

        # the most wanted first: a narrow terminal cuts the line off
        scalars = storage.latest()
        parts = []
        if "time" in scalars:
            left = median("time") * (self.max_iter - storage.iter - 1)
            parts.append(f"eta {timedelta(seconds=round(left))}  {median('time'):.3f} s/it")
        if self._best_metric in scalars:
            values = [value for value, _ in storage.history(self._best_metric).values()]
            finite = [v for v in values + self._earlier_best if math.isfinite(v)]
            best = self._better(finite, default=math.nan)
            name = self._best_metric.split("/")[-1]
            parts.append(f"{name} {self._rounded(values[-1])} (best {self._rounded(best)})")
        elif self._earlier_best:
            name = self._best_metric.split("/")[-1]
            parts.append(f"{name} best {self._rounded(self._earlier_best[0])}")
        if torch.cuda.is_initialized():
            parts.append(f"mem {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        if "lr" in scalars:
            parts.append(f"lr {scalars['lr'][0]:.3g}")
        if "val_loss/total_loss" in scalars:
            parts.append(f"val_loss {scalars['val_loss/total_loss'][0]:.3g}")
        losses = [n for n in scalars if n == "total_loss" or n.startswith("loss")]
        for name in sorted(losses, key=lambda n: n != "total_loss"):
            parts.append(f"{name} {median(name):.3g}")
        return "  ".join(parts)
