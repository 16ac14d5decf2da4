"""What a check has found: cases of one kind, counted and named."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from detection.checks.kinds import ERROR, KINDS, SEVERITIES
from detection.utils.text import printable

SHOWN = 5  # items a finding names
LONGEST = 300  # letters that are shown of an item or a note


@dataclass(frozen=True)
class Finding:
    """
    All cases of one kind in one split.

    Attributes:
        kind: a key of KINDS.
        items: annotation ids, file names, class names, or sentences.
        notes: what is to be said of each item, as far as there is something.
        split: the annotation file, shortly; empty where there is but one.
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
        """The first few items with what is said of them."""
        shown = [_short(str(item)) for item in self.items[:SHOWN]]
        if self.notes:
            shown = [
                f"{item} ({_short(note)})" if note else item
                for item, note in zip_longest(shown, self.notes[: len(shown)])
            ]
        return printable(", ".join(shown) + (", …" if len(self.items) > SHOWN else ""))

    @property
    def message(self) -> str:
        """One line: what, how many, which, to what effect, and what helps against an error."""
        kind = KINDS[self.kind]
        text = f"{kind.what}: {len(self.items)} ({self.examples}); {kind.effect}"
        return f"{text}; {kind.remedy}" if self.is_error and kind.remedy else text


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def sort_findings(findings: list[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; those without items are left out."""
    return sorted((f for f in findings if len(f.items)), key=lambda f: SEVERITIES.index(f.severity))
