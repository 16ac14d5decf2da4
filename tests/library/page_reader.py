"""Reads a page of HTML as one who looks at it."""

import re
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """What a reader sees: `tables` of cell texts by section, `cards` of the section with images."""

    def __init__(self, path: Path, card_section: str):
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.tags, self.tables, self.cards, self._texts = [], {}, [], []
        self._card_section = card_section
        self._section, self._in_cell, self._in_card = None, False, False
        self.feed(self.html)
        self.text = re.sub(r"\s+", " ", "".join(self._texts))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "h2":
            self._section = attrs["id"]
        elif tag == "table":
            self.tables.setdefault(self._section, [])
        elif tag == "tr":
            self.tables[self._section].append([])
        elif tag in ("td", "th"):
            self.tables[self._section][-1].append("")
            self._in_cell = True
        elif tag == "figcaption" and self._section == self._card_section:
            self.cards.append("")
            self._in_card = True

    def handle_endtag(self, tag):
        self._in_cell &= tag not in ("td", "th")
        self._in_card &= tag != "figcaption"

    def handle_data(self, data):
        self._texts.append(data)
        if self._in_cell:
            self.tables[self._section][-1][-1] += data
        if self._in_card:
            self.cards[-1] += data

    def rows(self, section: str, with_head: bool = False) -> dict[str, list[str]]:
        """{first cell: the others} of a section's table."""
        rows = self.tables[section] if with_head else self.tables[section][1:]
        cells = [[cell.strip() for cell in row] for row in rows]
        return {first: others for first, *others in cells}
