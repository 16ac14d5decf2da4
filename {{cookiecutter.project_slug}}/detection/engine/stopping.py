"""Stops a training on a signal or by W&B's Stop button, with a checkpoint to resume from."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from detectron2.engine import HookBase
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.common.checkpoint import Checkpointer
from torch import distributed

from detection.checkpoint.checkpointer import FINAL
from detection.utils.signals import STOP_SIGNALS

logger = logging.getLogger(__name__)

STOPPED = 143  # the exit status, as after SIGTERM


class Stopped(SystemExit):
    """
    Ends the program with the status STOPPED; everything that a resume needs is saved.

    Attributes:
        signal: the number of the one that a process of the training received; 0: W&B's button.
    """

    def __init__(self, signal: int = 0):
        super().__init__(STOPPED)
        self.signal = signal


class CleanStop(HookBase):
    """
    Ends the training at the end of an iteration after SIGTERM, SIGUSR1 or W&B's Stop button.

    Whichever process is asked to stop, all stop after the same iteration: each hook that has a
    method `gather` may collect there what it holds in each process, the main process saves a
    checkpoint, and all raise Stopped. An evaluation that is due is left to the resumed training,
    since the machine may be gone in seconds; one under way is finished first. Must come after the
    hooks that change the state and before those that save, evaluate and write.
    """

    def __init__(self, checkpointer: Checkpointer, writers: Sequence[EventWriter]):
        """
        Args:
            checkpointer: one that saves all the training's state.
            writers: those that have `on_stop` get a function to call from any thread;
                `mark_preempting` is called with the number of a signal that ends the training.
        """
        self._checkpointer = checkpointer
        self._writers = writers
        self._request = 0  # the largest signal received; 1, which is none of them: a button
        self._handlers = {}
        for writer in writers:
            if hasattr(writer, "on_stop"):
                writer.on_stop = lambda: self._note(1)

    def before_train(self):
        # a CPU's group: no iteration waits for its GPU
        is_alone = comm.get_world_size() == 1
        self._group = None if is_alone else distributed.new_group(None, DEFAULT_TIMEOUT, "gloo")
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}

    def after_step(self):
        """
        Raises:
            Stopped: once all is saved.
        """
        request = self._agreed()
        if not request:
            return
        for hook in self.trainer._hooks:
            if hasattr(hook, "gather"):
                hook.gather()
        done = self.trainer.iter + 1
        name = FINAL if done == self.trainer.max_iter else f"model_{self.trainer.iter:07d}"
        self._checkpointer.save(name, iteration=self.trainer.iter)
        if request in STOP_SIGNALS:
            for writer in self._writers:
                if hasattr(writer, "mark_preempting"):
                    writer.mark_preempting(request)
        by = signal.Signals(request).name if request in STOP_SIGNALS else "W&B's button"
        logger.warning(f"stopped by {by} after {done} iterations; --resume continues")
        raise Stopped(request if request in STOP_SIGNALS else 0)

    def after_train(self):
        self._group = None  # so that it ends with the others, and not as Python does
        # a signal while writers are closing after a stop must not cut them off
        if not isinstance(sys.exc_info()[1], Stopped):
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _note(self, request: int, frame: object = None) -> None:
        self._request = max(self._request, request)

    def _agreed(self) -> int:
        """The largest request in any process."""
        if self._group is None:
            return self._request
        request = torch.tensor(self._request)
        distributed.all_reduce(request, distributed.ReduceOp.MAX, group=self._group)
        return int(request)


@contextmanager
def stop_passed_on() -> Iterator[None]:
    """Send the signals on to the processes that this one has started, and ends after."""

    def pass_on(number: int, frame: object) -> None:
        for process in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    handlers = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
