"""Findings as a terminal shows them and as JSON."""

import textwrap
from collections import defaultdict
from dataclasses import asdict

from wcwidth import wcswidth

from detection.checks.findings import Finding
from detection.checks.fix_changes import Removal
from detection.checks.fixes import Fixed
from detection.checks.kinds import KINDS, NOTE, SEVERITIES

INDENT = 10


def format_findings(findings: list[Finding], width: int = 100) -> str:
    """
    Kind by kind, errors first: what is wrong and how often in each split, effect and remedy.

    Lines have `width` columns.
    """
    by_kind = defaultdict(list)
    for finding in findings:
        by_kind[finding.kind].append(finding)
    kinds = sorted(by_kind, key=lambda kind: SEVERITIES.index(KINDS[kind].severity))
    return "\n\n".join(_format_kind(by_kind[kind], width) for kind in kinds)


def count_findings(findings: list[Finding]) -> str:
    """Kinds by severity, such as "1 error, 2 warnings, 0 notes"."""
    kinds = {f.kind for f in findings}
    counts = {s: sum(KINDS[kind].severity == s for kind in kinds) for s in SEVERITIES}
    return ", ".join(f"{n} {severity}{'s' * (n != 1)}" for severity, n in counts.items())


def format_splits(splits: dict[str, dict], files: dict[str, str], num_read: int) -> str:
    """A line for each split, {name: parsed json}, and one on the images that were read."""
    names = max(map(_columns, splits))
    lines = [
        f"{_pad(name, names)}  {len(coco['images']):>7,} images  "
        f"{len(coco.get('annotations') or []):>8,} annotations  "
        f"{len(coco['categories']):>4,} categories  {files[name]}"
        for name, coco in splits.items()
    ]
    read = f"{num_read:,} image files read" if num_read else "no image file read"
    return "\n".join([*lines, read])


def format_changes(result: Fixed, left: list[Finding], drop: bool, width: int = 100) -> str:
    """
    What has been fixed, what has been removed or would have to be, and what needs a person.

    Args:
        result: what `fix_splits` returned.
        left: the findings on the fixed copies.
        drop: whether it was allowed to remove many records.
        width: of the lines, in columns.
    """
    fixed = [
        (split, count, KINDS[kind].what)
        for split, counts in result.changes.items()
        for kind, count in counts.items()
    ]
    needing = [
        (f.split, len(f.items), f"{KINDS[f.kind].what}: {KINDS[f.kind].remedy}")
        for f in left
        if f.is_error or KINDS[f.kind].fix
    ]
    lines = ["fixed" if fixed else "nothing fixed", *_table(fixed, width)]
    if not (fixed or needing or result.refused):
        lines = ["nothing to fix"]
    lines += [f"{split}: this {removal}" for split, removal in result.removed.items()]
    lines += [f"{s}: {_refusal(removal, drop)}" for s, removal in result.refused.items()]
    if needing:
        lines += ["not fixed, to be decided by you", *_table(needing, width)]
    return "\n".join(lines)


def findings_json(findings: list[Finding]) -> list[dict]:
    """For programs: all items, none left out."""
    return [
        asdict(KINDS[f.kind])
        | {"split": f.split, "kind": f.kind, "count": len(f.items)}
        | {"items": list(f.items), "notes": list(f.notes)}
        for f in findings
    ]


def _refusal(removal: Removal, drop: bool) -> str:
    """One line: what stays in the file, though it cannot be fixed, and what to do about it."""
    kinds = ", ".join(f"{KINDS[kind].what} ({n})" for kind, n in removal.kinds.items())
    if drop or removal.is_all:
        remedy = "nothing would be left, so correct them by hand"
    else:
        remedy = "--fix=drop does so (make check ARGS=--fix=drop)"
    return f"refused, taking out {kinds} {removal}; {remedy}"


def _format_kind(findings: list[Finding], width: int) -> str:
    kind = KINDS[findings[0].kind]
    lines = _wrap(_pad(kind.severity, INDENT), kind.what, width)
    lines += _table([(f.split, len(f.items), f.examples) for f in findings], width)
    remedy = "" if kind.severity == NOTE else kind.remedy
    for label, text in (("effect", kind.effect), ("remedy", remedy), ("--fix", kind.fix)):
        lines += _wrap(f"{' ' * INDENT}{label:<8}", text, width) if text else []
    return "\n".join(lines)


def _table(rows: list[tuple[str, int, str]], width: int) -> list[str]:
    """Lines with the split, how many, and a text."""
    names = max((_columns(split) for split, _, _ in rows), default=0)
    counts = max((len(str(count)) for _, count, _ in rows), default=0)
    lines = []
    for split, count, text in rows:
        lines += _wrap(f"{' ' * INDENT}{_pad(split, names)}  {count:>{counts}}  ", text, width)
    return lines


def _wrap(head: str, text: str, width: int) -> list[str]:
    indent = " " * _columns(head)
    # names of files and classes stay whole, so that they can be copied
    return textwrap.wrap(
        text,
        max(width, len(indent) + 20),
        initial_indent=head,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _columns(text: str) -> int:
    """The width of a text on a terminal, where a Korean letter takes two columns."""
    return max(0, wcswidth(text))


def _pad(text: str, width: int) -> str:
    return text + " " * max(0, width - _columns(text))
