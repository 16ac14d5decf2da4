"""Writes answers into files, and says in one line what is wrong with one."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from typing import NoReturn

from cookiecutter.exceptions import FailedHookException


class BadAnswer(FailedHookException):
    """An answer that no project can be made from.

    It is a `FailedHookException` because the command prints that one as its bare message.
    """


def refuse(question: str, problem: str) -> NoReturn:
    """Raise BadAnswer with one line that the terminal can show, whatever its encoding."""
    raise BadAnswer(_showable(f"{question}: {problem}."))


def note(question: str, note: str) -> None:
    """Print one line on an answer that was accepted."""
    print(_showable(f"{question}: {note}."))


def _showable(line: str) -> str:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def python_string(text: str) -> str:
    """Return the literal of `text` that `ruff format` leaves as it is."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    escaped = {quote: f"\\{quote}", "\\": "\\\\"}
    escaped |= {c: repr(c)[1:-1] for c in text if not c.isprintable()}
    return quote + "".join(escaped.get(c, c) for c in text) + quote


def python_items(names_json: str) -> str:
    """Return the lines of a Python list, one name each, each after a line break."""
    return "".join(f"\n    {python_string(name)}," for name in json.loads(names_json))


def toml_text(text: str) -> str:
    """Return `text` as it is written between the double quotes of a TOML string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def markdown_text(text: str) -> str:
    """Return `text` as Markdown that shows every character of it."""
    return re.sub(r"([\\`*_\[\]<>#|~&!$])", r"\\\1", text)


def quoted(text: str) -> str:
    return python_string(text if len(text) <= 60 else f"{text[:57]}...")


def control_character(text: str) -> str | None:
    """Return the first character that would break a line, a table or a file's encoding."""
    broken = {"Cc", "Cs"}  # controls, and surrogates, which no UTF-8 file can hold
    return next((c for c in text if unicodedata.category(c) in broken), None)
