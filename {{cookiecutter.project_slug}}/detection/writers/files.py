"""Writers to the terminal, to metrics.json and to TensorBoard; W&B's is in `wandb_writer.py`."""

import json
import math

from detectron2.utils.events import EventWriter, TensorboardXWriter
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from detection.utils.files import write_atomically
from detection.writers.scalars import UnwrittenScalars, iteration_of, read_lines


class JSONWriter(EventWriter):
    """
    Writes one json object a line: `iteration` and the scalars of that iteration.

    Like detectron2's, but valid JSON always, every evaluation kept, and after a resume the lines
    that the interrupted run wrote beyond its checkpoint give way to the new ones.
    """

    def __init__(self, json_file: str, period: int = 20, window_size: int = 20):
        """
        Args:
            json_file: continued by a resumed run, overwritten by a new one.
            period: iterations between two writes.
            window_size: of the median over training scalars.
        """
        self.period = period
        self._json_file = json_file
        self._scalars = UnwrittenScalars(window_size)
        self._file = None

    def start(self, start_iter: int, cfg) -> None:
        self._scalars.start(start_iter)
        kept = [line for line in read_lines(self._json_file) if iteration_of(line) < start_iter]
        write_atomically(self._json_file, b"".join(kept))
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
        self._log_dir = log_dir
        self.period = period
        self._scalars = UnwrittenScalars(window_size)

    def start(self, start_iter: int, cfg) -> None:
        super().__init__(self._log_dir)  # only now: a refused resume leaves no file
        self._last_write = math.inf  # the base class writes only images and histograms
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
