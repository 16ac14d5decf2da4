"""Names in sentences, and progress on a terminal and in a log."""

import sys

from detection.utils import progress
from detection.utils.errors import UserError
from detection.utils.text import composed, folded, listed, printable, shortened


def test_lists_are_cut():
    assert listed(["a", "b", "c"], 3) == "a, b, c"
    assert listed(["a", "b", "c"], 1) == "a and 2 more"
    assert listed([]) == ""
    assert listed(["a" * 100]) == "a" * 80 + "…"
    assert shortened("abc", 2) == "ab…" and shortened("abc", 3) == "abc"


def test_what_a_terminal_would_obey_is_escaped():
    text = "종이 é\x1b[2J\u2028\ud800"
    assert printable(text) == r"종이 é\x1b[2J\u2028\ud800"
    assert str(UserError(text)) == printable(text)


def test_spellings_of_one_name():
    assert composed("e\u0301") == "é"
    assert folded("E\u0301.JPG") == folded("é.jpg") != folded("e.jpg")


def test_a_log_gets_lines_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PERIOD", -1)
    assert list(progress.progress("abc", 1000, "reading", done=997)) == list("abc")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"reading: {n} of 1,000" for n in ("998", "999", "1,000")]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress.progress("abc", 3, "reading")) == list("abc")
    assert "reading:   0%" in capsys.readouterr().err
