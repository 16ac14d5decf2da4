"""What the terminal shows: the long listings go to `log.txt` alone."""

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partial

from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

logger = logging.getLogger("detectron2.detection")


def quiet_setup(cfg, args) -> None:
    """
    detectron2's `default_setup`, with the environment and the full config in log.txt alone.

    An evaluation gets its own log and config, in `<output_dir>/inference`: those of the training
    stay as they are.
    """
    if args.eval_only:
        cfg = deepcopy(cfg)
        cfg.train.output_dir = os.path.join(cfg.train.output_dir, "inference")
    rank, output_dir = comm.get_rank(), cfg.train.output_dir
    # made as default_setup makes them, which finds them again in setup_logger's cache
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    setup_logger(output_dir, distributed_rank=rank)
    with quiet_console():
        default_setup(cfg, args)
    threading.excepthook = _report_thread
    for name in ("detectron2", "fvcore"):
        for handler in logging.getLogger(name).handlers:
            if type(handler) is logging.StreamHandler and handler.stream is not sys.stdout:
                handler.handleError = partial(_end_log, handler)


def _report_thread(args: threading.ExceptHookArgs) -> None:
    """One line; who waits for what the thread does gets the error, too."""
    logger.warning(
        f"{args.thread and args.thread.name}: {args.exc_type.__name__}: {args.exc_value}"
    )
    with quiet_console():
        logger.info("its traceback:", exc_info=args[:3])


def _end_log(handler: logging.StreamHandler, record: logging.LogRecord) -> None:
    """Say once that a log cannot be written, where `logging` prints a traceback for each line."""
    reason = sys.exc_info()[1]
    for loud in map(logging.getLogger, ("detectron2", "fvcore")):
        # they share the file
        loud.handlers = [h for h in loud.handlers if getattr(h, "stream", 0) is not handler.stream]
    with suppress(OSError):
        handler.stream.close()
    logger.warning(f"the log ends here, it cannot be written ({reason})")


@contextmanager
def quiet_console() -> Iterator[None]:
    """Let only warnings and errors through to the terminal; files get all."""
    handlers = [
        handler
        for name in ("detectron2", "fvcore")
        for handler in logging.getLogger(name).handlers
        if type(handler) is logging.StreamHandler
    ]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
