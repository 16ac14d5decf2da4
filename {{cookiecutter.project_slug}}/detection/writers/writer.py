"""What a writer is: the interface between the trainer and wherever metrics go."""

from typing import Protocol, runtime_checkable

from omegaconf import DictConfig


@runtime_checkable
class Writer(Protocol):
    """
    Takes scalars from a training; detectron2's `EventWriter` is one, and needs no base class.

    The main process alone has writers: those of `cfg.writers` that are not null, in that order.
    `detectron2.utils.events.get_event_storage()` has the scalars, and
    `detection.writers.scalars.UnwrittenScalars` what is new in them.

    A writer may have some of these too:

    - `period`: iterations between two calls of `write`; without it `cfg.train.log_period`.
    - `start(start_iter, cfg)`: see `StartedWriter`.
    - `max_iter`: is set to the training's before each `write`, as it can change.
    - `pictures`: a dict, which gets the validation images of each evaluation before `write`:
      {iteration: {name: (H, W, 3) uint8 RGB}}; the writer takes out what it has written. None: it
      wants none.
    """

    def write(self) -> None:
        """
        Write what is new: every `period` iterations, after an evaluation, and at the end.

        It is also called when an exception has ended the training, `sys.exc_info()`; the scalars
        of that iteration are incomplete then. What it raises ends the training.
        """

    def close(self) -> None:
        """Write the rest and let go of files; called once, after a failure too."""


@runtime_checkable
class StartedWriter(Writer, Protocol):
    """A writer that is called before the first iteration, as all need to be that can resume."""

    def start(self, start_iter: int, cfg: DictConfig) -> None:
        """
        Open files, not earlier: what is refused before has left nothing.

        Args:
            start_iter: the first iteration to write; above 0 in a resumed training, whose earlier
                part may have written rows from there on, which come again.
            cfg: the whole config.
        """
