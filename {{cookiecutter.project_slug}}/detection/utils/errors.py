"""The exception for what a user can put right."""

import re

from detection.utils.text import printable

LONGEST = 1000  # characters of a line; names in it may have any length
# before the message, where PyTorch hands on another process's exception as a traceback's text
RAISED = re.compile(r"^detection\.[\w.]+Error: ", re.MULTILINE)


class UserError(Exception):
    """One line that says what is wrong, where, and what to do; commands print it alone."""

    def __init__(self, message: str):
        message = RAISED.split(message)[-1].rstrip()
        if len(message) > LONGEST:
            half = LONGEST // 2
            message = f"{message[:half]} … {message[-half:]}"
        super().__init__(printable(message))
