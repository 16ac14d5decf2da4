"""What Windows and macOS lack is not used: by a look at the source, as neither runs here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TEMPLATE

TEXT = {"open", "read_text", "write_text", "fdopen", "NamedTemporaryFile"}
BINARY = {"Image", "os", "zipfile", "tarfile", "archive", "packed"}  # whose `open` opens no text
LINUX_ONLY = {
    *("os.fork", "os.getuid", "os.mkfifo", "os.rename", "os.sched_getaffinity", "os.uname"),
    *("signal.SIGKILL", "signal.alarm", "signal.pause", "signal.setitimer", "time.tzset"),
}
# where the system is asked for first
GUARDED = {
    "follow.py": {"signal.SIGKILL"},
    "signals.py": {"signal.alarm"},
    "submit.py": {"signal.alarm"},  # SLURM's machines run Linux
}


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str, str]]:
    """Yield each call with what it is called on, or "", and its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node, ast.unparse(node.func.value).split(".")[-1], node.func.attr
            elif isinstance(node.func, ast.Name) and node.func.id == "open":
                yield node, "", "open"


def without_encoding(source: str) -> list[str]:
    """Return the calls that read or write text in whatever encoding a machine has."""
    found = []
    for call, of, name in calls(ast.parse(source)):
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        if "encoding" in keywords or None in keywords or "encoding" in map(ast.unparse, call.args):
            continue
        values = [getattr(value, "value", "") for value in (*call.args, *keywords.values())]
        is_binary = any(isinstance(value, str) and "b" in value[:3] for value in values)
        is_process = {"text", "universal_newlines"} & keywords.keys()
        if is_process or (name in TEXT and of not in BINARY and not is_binary):
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


def shipped(project: Path) -> list[Path]:
    """Return the Python files that run on their owner's machine."""
    folders = [project / name for name in ("detection", "tools", "configs", "third_party")]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    return [*files, *project.glob("*.py"), *TEMPLATE.glob("hooks/*.py"), *TEMPLATE.glob("*.py")]


def test_all_text_has_an_encoding(bake):
    files = shipped(bake())
    assert len(files) > 150
    found = {file: without_encoding(file.read_text(encoding="utf-8")) for file in files}
    assert {file: lines for file, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "path.open('w')",
        "path.read_text()",
        "subprocess.run(command, text=True)",
        "tempfile.NamedTemporaryFile('w')",
    ],
)
def test_text_without_an_encoding_is_seen(line):
    assert without_encoding(line)
    assert not without_encoding(f"{line[:-1]}, encoding='utf-8')".replace("(, ", "("))


def test_nothing_is_for_linux_alone(bake):
    for file in shipped(bake()):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & LINUX_ONLY - GUARDED.get(file.name, set()), file
        for call, _, name in calls(tree):  # %F and its like are of the C library, not of Python
            formats = [a.value for a in call.args if isinstance(a, ast.Constant)]
            assert name != "strftime" or not {"%F", "%T", "%s"} & set(str(formats[0]).split()), file
