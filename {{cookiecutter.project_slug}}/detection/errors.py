"""The one exception for what a user can put right."""


class UserError(Exception):
    """One line that says what is wrong, where, and what to do; `train_net.py` prints it alone."""
