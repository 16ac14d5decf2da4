"""What the terminal shows: the long listings go to `log.txt` alone."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("detection", "detectron2", "fvcore")  # each has its own handlers


@contextmanager
def quiet_console() -> Iterator[None]:
    """Let only warnings and errors through to the terminal; files get all."""
    handlers = [h for h in _stream_handlers() if not _is_file(h)]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


def file_handlers() -> list[logging.StreamHandler]:
    """The handlers that write to log.txt."""
    return [handler for handler in _stream_handlers() if _is_file(handler)]


def _stream_handlers() -> list[logging.StreamHandler]:
    handlers = [handler for name in LOGGERS for handler in logging.getLogger(name).handlers]
    return [handler for handler in handlers if type(handler) is logging.StreamHandler]


def _is_file(handler: logging.StreamHandler) -> bool:
    # detectron2 opens files for StreamHandlers; the standard streams are named <stdout>, <stderr>
    return not str(getattr(handler.stream, "name", "<")).startswith("<")
