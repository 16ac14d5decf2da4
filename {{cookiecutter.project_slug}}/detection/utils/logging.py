"""What the terminal shows: the long listings go to `log.txt` alone."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("detectron2.detection")


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
