"""
The reference of every setting, from the configs themselves: key, default, and the comment there.

The sources are parsed, not run, so that neither torch nor detectron2 is needed.
"""

from __future__ import annotations

import ast
import html
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# the config's parts, in the order of the page: file of configs/common, {variable there: node}
PARTS = {
    "paths": {"dataset": "dataset"},
    "dataset": {"dataloader": "dataloader"},
    "train": {"train": "train"},
    "optim": {"SGD": "optimizer", "AdamW": "optimizer"},
    "schedule": {
        "lr_multiplier_step": "lr_multiplier",
        "lr_multiplier_cosine": "lr_multiplier",
        "lr_multiplier_late": "lr_multiplier",
    },
    "writers": {"writers": "writers"},
    "tiles": {"tiles": "tiles"},
    "tta": {"tta": "tta"},
    "anchors": {"anchors": "anchors"},
}
HEAD = """\
# Settings

Every key of a config with its default and the comment beside it, as `configs/common/` has them.
Any of them can be given on the command line, `train.max_iter=1000`, or set in a config's file,
`train.max_iter = 1000`. `make config` prints all values of a config with your overrides.

In the command line's values `[a, b]` is a list, `{a: 1}` a dictionary, `null` is None, and
`${…}` refers to another key. A name that does not exist is refused with the nearest that does.
"""


class Setting(NamedTuple):
    key: str
    default: str
    comment: str


class Source:
    """One Python file, with the comments that `ast` leaves out."""

    def __init__(self, path: Path):
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        self.doc = ast.get_docstring(self.tree) or ""
        self.lines = self.text.splitlines()
        self._comments = {}
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                self._comments[token.start[0]] = token.string.lstrip("# ")

    def code(self, node: ast.AST) -> str:
        """The source of `node`, on one line."""
        return re.sub(r"\s*\n\s*", " ", ast.get_source_segment(self.text, node)).strip()

    def comment(self, node: ast.AST) -> str:
        """What stands on the lines above `node`, and behind its first or last line."""
        above, line = [], node.lineno - 1
        while line in self._comments and self.lines[line - 1].lstrip().startswith("#"):
            above.insert(0, self._comments[line])
            line -= 1
        beside = dict.fromkeys(self._comments.get(k) for k in (node.lineno, node.end_lineno))
        return ": ".join(filter(None, [" ".join(above), *beside]))

    def assignments(self) -> Iterator[tuple[str, ast.Assign]]:
        """(name, node) of the plain assignments at the top."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                yield node.targets[0].id, node

    def settings(
        self, prefix: str, node: ast.expr, first: str = "", seen: str = ""
    ) -> Iterator[Setting]:
        """
        The keys below `node`: of `dict(…)` or of a LazyCall, `L(Class)(…)`.

        Args:
            prefix: of the keys.
            node: the call.
            first: the comment of the whole, which goes to the first key.
            seen: a comment that is on the page already.
        """
        seen = first or seen
        for keyword in node.keywords:
            key, own = f"{prefix}.{keyword.arg}", self.comment(keyword)
            own = own if own != seen else ""  # of a line that has several keys
            if _has_keys(keyword.value):
                yield from self.settings(key, keyword.value, own or first, seen)
            else:
                yield Setting(key, self.code(keyword.value), own or first)
            first = ""


class Section(NamedTuple):
    file: str
    text: str
    rows: list[Setting]


def sections(configs: Path) -> dict[str, Section]:
    """{heading: section} of all parts, `configs` being the folder of a project."""
    found = {}
    for file, nodes in PARTS.items():
        source = Source(configs / "common" / f"{file}.py")
        for name, node in source.assignments():
            if name in nodes:
                heading, text, seen = name, source.doc, source.comment(node)
                if len(nodes) > 1:
                    heading = f"{nodes[name]}: {name.removeprefix('lr_multiplier_')}"
                    text = f"{seen}\n\n    from .common.{file} import {name} as {nodes[name]}"
                rows = list(source.settings(nodes[name], node.value, seen=seen))
                found[heading] = Section(f"{file}.py", text, rows)
    return found


def page(configs: Path) -> str:
    """The page in Markdown."""
    parts = [HEAD]
    for heading, section in sections(configs).items():
        parts.append(f"## {heading}\n\n`configs/common/{section.file}`\n\n{section.text}\n")
        parts.append(_table(section.rows))
    parts.append("## Augmentations to choose from\n\n`configs/common/augmentations.py`\n")
    parts.append(_listing(Source(configs / "common/augmentations.py")))
    parts.append("## What each config sets\n\nIts lines after those that begin with another one.\n")
    for file in [*sorted(configs.glob("*.py")), configs / "common/detr.py"]:
        name = file.relative_to(configs).as_posix()
        parts.append(f"### {name}\n\n{_listing(Source(file))}")
    return "\n".join(parts)


def _has_keys(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and bool(node.keywords) and not _is_plain(node)


def _is_plain(call: ast.Call) -> bool:
    """Whether a call is made when the config is loaded: neither `dict(…)` nor `L(Class)(…)`."""
    return not (isinstance(call.func, ast.Call) or getattr(call.func, "id", "") == "dict")


def _listing(source: Source) -> str:
    """The docstring, and as code what is not an import: both as they are in the file."""
    own = [n for n in source.tree.body[1:] if not isinstance(n, (ast.Import, ast.ImportFrom))]
    begins = ", ".join(f"`{n.module}`" for n in source.tree.body if getattr(n, "level", 0))
    code = "\n".join(source.lines[_first_line(source, own[0]) - 1 :])
    text = f"{source.doc}\n\nBegins with {begins}.\n" if begins else f"{source.doc}\n"
    return f"{text}\n```python\n{code}\n```\n"


def _first_line(source: Source, node: ast.stmt) -> int:
    """Of `node` with the comment above it."""
    line = node.lineno
    while source.lines[line - 2].startswith("#"):
        line -= 1
    return line


def _table(rows: list[Setting]) -> str:
    lines = ['<div class="settings" markdown>', "", "| key | default | |", "|---|---|---|"]
    for key, default, comment in rows:
        key = re.sub(r"(\.|\\_)", r"\1<wbr>", _code(key))  # where a narrow page may break it
        lines.append(f"| {key} | {_code(default)} | {_text(comment)} |")
    return "\n".join([*lines, "", "</div>", ""])


def _code(text: str) -> str:
    return f"<code>{_escaped(text)}</code>" if text else ""


def _text(comment: str) -> str:
    """A comment in a table's cell; what it has between backticks is code."""
    parts = comment.split("`")
    return "".join(_code(part) if k % 2 else _escaped(part) for k, part in enumerate(parts))


def _escaped(text: str) -> str:
    """Text as it is: no tags, emphasis, links or further cells."""
    return re.sub(r"([\\|*_\[\]`])", r"\\\1", html.escape(text, quote=False))
