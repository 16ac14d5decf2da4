"""Pages of one file that open offline: charts, pictures and styles are in them, scripts are not."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from unicodedata import east_asian_width

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from detection.utils.files import write_whole
from detection.utils.thumbnails import jpeg_uri
from detection.workshop.reports.charts import class_stroke

LETTER, LINE = 9, 16  # about the room that a name takes on a picture; of Korean letters two


class PageBox(NamedTuple):
    """A box on a picture: corners (x1, y1, x2, y2) as parts of its width and height, from 0 to 1.

    `text` is shown by a pointer on it, and beside it too if `is_named` and there is room; `is_odd`
    ones stand out.
    """

    label: int
    corners: tuple[float, float, float, float]
    text: str
    is_named: bool = False
    is_odd: bool = False


def render_page(template: str, **values) -> str:
    """
    Fill in a template of detection/workshop/reports/templates; all text is escaped.

    Args:
        template: its file name; it extends page.html.jinja and fills its blocks.
        values: what the template asks for.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["swatch"] = swatch
    return environment.get_template(template).render(**values)


def write_page(path: str, html: str) -> None:
    """
    Write the page whole or not at all.

    Raises:
        UserError: it cannot be written there.
    """
    # half a surrogate pair, which a json can name a class with, is in no UTF-8
    content = html.encode("utf-8", "xmlcharrefreplace")
    write_whole(path, content, path, "; choose another --output")


def swatch(label: int) -> Markup:
    """A small line in the colour of a class's boxes."""
    color, dashes = class_stroke(label)
    return Markup(
        '<svg class="swatch" viewBox="0 0 20 8" aria-hidden="true">'
        f'<path d="M0 4H20" stroke="{color}" stroke-dasharray="{dashes}"/></svg>'
    )


def picture(
    image: np.ndarray | None, size: tuple[int, int], boxes: Iterable[PageBox], label: str
) -> Markup:
    """
    An image with its boxes, as SVG: the class names are text, in whatever script the reader has.

    Args:
        image: uint8 (H, W, 3) BGR, as the page shall carry it; None: the boxes on nothing.
        size: (width, height) of the drawing; lines and letters are made for about 400.
        boxes: drawn in this order; where names overlap, that of an odd or a later one is shown.
        label: what is to be seen, for those who cannot see it.
    """
    width, height = size
    outlines, rectangles, wanted = [], [], []
    for box in boxes:
        x1, y1, x2, y2 = np.clip(box.corners, -0.5, 1.5) * (width, height, width, height)
        x2, y2 = max(x2, x1 + 2), max(y2, y1 + 2)  # one without area is drawn too
        place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
        odd = ' class="odd"' if box.is_odd else ""
        color, dashes = class_stroke(box.label)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        outlines.append(f"M{x1:.1f} {y1:.1f}H{x2:.1f}V{y2:.1f}H{x1:.1f}z")
        rectangles.append(
            f'<rect{odd} {place} stroke="{color}"{dashed}><title>{escape(box.text)}</title></rect>'
        )
        if box.is_named:
            wide = _width(box.text)
            left = min(x2, width - 3) - wide if x1 > 0.6 * width else min(x1, width - 3 - wide)
            bottom = y1 - 4 if y1 > LINE else min(max(y1, 0) + 14, height - 4)
            wanted.append((box.is_odd, max(left, 3), bottom, box.text))
    names = []
    wanted.reverse()
    for _, left, bottom, text in sorted(wanted, key=lambda name: not name[0]):
        right = left + _width(text)
        if all(right < a or b < left or abs(bottom - c) > LINE for a, b, c, _ in names):
            names.append((left, right, bottom, text))
    texts = [f'<text x="{a:.1f}" y="{y:.1f}">{escape(text)}</text>' for a, _, y, text in names]
    shown = ""
    if image is not None:
        shown = f'<image href="{jpeg_uri(image)}" width="{width}" height="{height}"/>'
    return Markup(
        f'<svg class="picture" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}">{shown}'
        f'<path class="halo" d="{"".join(outlines)}"/>{"".join(rectangles)}{"".join(texts)}</svg>'
    )


def _width(text: str) -> float:
    return LETTER * sum(1 + (east_asian_width(letter) in "WF") for letter in text)
