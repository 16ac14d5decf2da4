"""Text as people read it."""

from collections.abc import Sequence

LONGEST_NAME = 4096  # characters of a class's or a file's name; no file system takes more


def listed(items: Sequence[str], most: int = 10, longest: int = 80) -> str:
    """ "a, b and 3 more": the first `most` items, cut at `longest` characters each."""
    shown = ", ".join(item[:longest] for item in items[:most])
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown


def printable(text: str) -> str:
    """The text with line breaks, and whatever else a terminal would obey, as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
