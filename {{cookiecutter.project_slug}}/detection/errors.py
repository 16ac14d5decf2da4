"""The one exception for what a user can put right."""


class UserError(Exception):
    """One line that says what is wrong, where, and what to do; `train_net.py` prints it alone."""

    def __init__(self, message: str):
        # PyTorch hands on what a worker raised with the worker's whole traceback before it
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2].rstrip())
