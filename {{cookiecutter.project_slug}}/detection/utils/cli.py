"""What the tools take on their command lines: numbers of a range, for `type=`; named files."""

import os


def fraction(text: str) -> float:
    """
    A number from 0 to 1.

    Raises:
        ValueError: it is none.
    """
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def positive(text: str) -> int:
    """
    A whole number from 1 up.

    Raises:
        ValueError: it is none.
    """
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def natural(text: str) -> int:
    """
    A whole number from 0 up.

    Raises:
        ValueError: it is none.
    """
    return positive(text) if text.strip() != "0" else 0


def named_path(text: str) -> tuple[str, str]:
    """
    The name and the path of NAME=PATH; both are the path where no name stands before it.

    An equals sign in a folder, as in output/lr=0.01/val.json, is part of the path, and so is that
    of a file that is there.
    """
    name, equals, path = text.partition("=")
    if not equals or "/" in name or os.path.exists(text):
        return text, text
    return name or path, path
