"""Scalars that an event storage holds and no writer has written yet."""

import json
import logging
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from detectron2.utils.events import EventStorage, get_event_storage
from fvcore.common.history_buffer import HistoryBuffer

logger = logging.getLogger(__name__)


# unsmoothed, yet put at every iteration: their latest value is enough
_EVERY_ITERATION = ("lr", "eta_seconds")


class UnwrittenScalars:
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
        warned = vars(storage).setdefault("_warned_not_finite", set())  # once, not by each writer
        rows = defaultdict(dict)
        for name, (_, iteration) in storage.latest().items():
            for at, value in self._new_values(storage, name):
                if math.isfinite(value):
                    rows[at][name] = value
                elif name not in warned:
                    warned.add(name)
                    logger.warning(f"{name} is {value} at iteration {at}: not written")
            self._last[name] = iteration
        return sorted(rows.items())

    def _new_values(self, storage: EventStorage, name: str) -> Iterator[tuple[int, float]]:
        value, iteration = storage.latest()[name]
        if iteration <= self._last[name]:
            return
        if storage.smoothing_hints()[name]:
            yield iteration, recent_median(storage.history(name), self._window_size)
        elif name in _EVERY_ITERATION:
            yield iteration, value
        else:
            for value, at in reversed(storage.history(name).values()):
                if at <= self._last[name]:
                    return
                yield int(at), value


def recent_median(history: HistoryBuffer, window_size: int) -> float:
    """As `HistoryBuffer.median`, whose NumPy takes ten times as long for so few values."""
    values = [value for value, _ in history.values()[-window_size:]]
    return math.nan if any(map(math.isnan, values)) else statistics.median(values)


def read_metrics(json_file: str) -> dict[int, dict[str, float]]:
    """{iteration: {name: value}} of a JSONWriter's file; {} if it does not exist."""
    rows = [json.loads(line) for line in read_lines(json_file) if iteration_of(line) < math.inf]
    return {row.pop("iteration"): row for row in rows}


def read_lines(json_file: str) -> list[bytes]:
    """The lines of a file, with their ends; none if it does not exist."""
    try:
        return Path(json_file).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []


def iteration_of(line: bytes) -> float:
    """Of a row of metrics.json; infinite for a line that a kill cut off, or another one."""
    try:
        iteration = json.loads(line)["iteration"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line cut off by a kill
    return iteration if isinstance(iteration, int) else math.inf
