"""Progress of long work: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

PERIOD = 10  # seconds between two lines

T = TypeVar("T")


def progress(items: Iterable[T], total: int, title: str, done: int = 0) -> Iterator[T]:
    """
    Yield the items, and show on stderr how many have been.

    Args:
        items: all that are left to do.
        total: how many there are, with those that are done.
        title: what happens, e.g. "reading images".
        done: how many were done before.
    """
    tqdm = None
    if sys.stderr.isatty():
        with suppress(ImportError):  # no part of `predict.py --onnx`'s needs
            from tqdm import tqdm
    if tqdm:
        yield from tqdm(items, title, total, leave=False, initial=done, dynamic_ncols=True)
        return
    last = time.monotonic()
    for number, item in enumerate(items, start=done + 1):
        yield item
        if time.monotonic() - last > PERIOD:
            last = time.monotonic()
            print(f"{title}: {number:,} of {total:,}", file=sys.stderr, flush=True)
