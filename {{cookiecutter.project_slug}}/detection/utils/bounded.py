"""Waits with an end: a call that may hang runs in a thread that nobody has to wait for."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """
    Return what `call()` returns, or raise what it raises.

    Raises:
        TimeoutError: it takes longer; it runs on in its thread, which ends with Python.
    """
    outcome = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as e:
            outcome.append((None, e))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
