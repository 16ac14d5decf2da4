"""Names in sentences: listed, shortened, printable, and compared regardless of their spelling."""

import re
import unicodedata
from collections.abc import Sequence

LONGEST_NAME = 4096  # characters of a class's or a file's name; no file system takes more
LONGEST_SAFE = 240  # characters of a name for other programs: MLflow takes 250


def listed(items: Sequence[str], most: int = 10, longest: int = 80) -> str:
    """Join the first `most` items, of up to `longest` characters each: "a, b and 3 more"."""
    shown = ", ".join(shortened(item, longest) for item in items[:most])
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown


def shortened(text: str, longest: int = 60) -> str:
    """The text, cut off with an ellipsis after `longest` characters."""
    return text if len(text) <= longest else f"{text[:longest]}…"


def printable(text: str) -> str:
    """The text with escapes for line breaks and other characters that a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def composed(name: str) -> str:
    """The name with composed letters: é and 한 have two forms, and archives of a Mac the other."""
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """The same for names that differ in case or in the form of their letters alone."""
    return composed(name).casefold()


def safe_name(name: str) -> str:
    """
    The name as other programs take one: letters, digits, blanks and `_ . - /`, `_` for others and
    for the parts of a path that are empty, `.` or `..`; LONGEST_SAFE characters at most.
    """
    parts = re.sub(r"[^\w .\-/]", "_", name)[:LONGEST_SAFE].split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)
