"""What a check has found: cases of one kind, counted and named."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from detection.checks.kinds import ERROR, KINDS, SEVERITIES
from detection.utils.text import printable

SHOWN = 5  # items a finding names
LONGEST = 300  # characters that are shown of an item or a note


@dataclass(frozen=True)
class Finding:
    """
    All cases of one kind in one split.

    Attributes:
        kind: a key of KINDS.
        items: annotation ids, file names, class names, or sentences.
        notes: remarks on the items, in their order; empty where there is nothing to say.
        split: a short name of the annotation file; empty where there is only one.
    """

    kind: str
    items: Sequence[int | str]
    notes: Sequence[str] = ()
    split: str = ""

    @property
    def severity(self) -> str:
        return KINDS[self.kind].severity

    @property
    def is_error(self) -> bool:
        return self.severity == ERROR

    @property
    def examples(self) -> str:
        """The first few items with their notes."""
        pairs = zip_longest(self.items[:SHOWN], self.notes[:SHOWN], fillvalue="")
        shown = [_short(str(item)) + (f" ({_short(note)})" if note else "") for item, note in pairs]
        return printable(", ".join(shown) + (", …" if len(self.items) > SHOWN else ""))

    @property
    def message(self) -> str:
        """One line: what, how many, which, to what effect, and what helps against an error."""
        kind = KINDS[self.kind]
        text = f"{kind.what}: {len(self.items)} ({self.examples}); {kind.effect}"
        return f"{text}; {kind.remedy}" if self.is_error and kind.remedy else text


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; those without items are left out."""
    return sorted((f for f in findings if len(f.items)), key=lambda f: SEVERITIES.index(f.severity))
