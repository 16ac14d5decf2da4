"""The one exception for what a user can put right."""

import re

LONGEST = 1000  # characters of a line; names in it may have any length
# before the message, where PyTorch hands on another process's exception as a traceback's text
RAISED = re.compile(r"^detection\.[\w.]+Error: ", re.MULTILINE)


class UserError(Exception):
    """One line that says what is wrong, where, and what to do; `train_net.py` prints it alone."""

    def __init__(self, message: str):
        message = RAISED.split(message)[-1].rstrip()
        if len(message) > LONGEST:
            half = LONGEST // 2
            message = f"{message[:half]} … {message[-half:]}"
        # names may hold line breaks and whatever else a terminal would obey
        controls = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
        super().__init__(re.sub(controls, lambda c: repr(c[0])[1:-1], message))
