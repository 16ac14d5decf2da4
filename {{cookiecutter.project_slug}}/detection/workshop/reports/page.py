"""HTML pages of one file that open offline: with charts, pictures and styles, without scripts."""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from unicodedata import east_asian_width

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from detection.utils.drawing import class_color
from detection.utils.files import write_atomically

PICTURE_SIDE = 420  # pixels: the longer side of a picture
LETTER_WIDTH, LINE_HEIGHT = 9, 16  # about the room of names on a picture; Korean letters take two
JPEG_QUALITY = 80
BAR_WIDTH = 120  # pixels: the longest bar in a table


class PageBox(NamedTuple):
    """A box on a picture, drawn in the colour of its class."""

    label: int
    bbox: Sequence[float]  # x, y, width, height in pixels of the image as the json has it
    text: str  # shown by a pointer on the box
    is_named: bool = False  # `text` is written beside the box too, if there is room
    is_odd: bool = False  # drawn thick


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
    environment.filters |= {"swatch": swatch, "fixed": _fixed, "thousands": "{:,}".format}
    environment.globals["bar"] = _bar
    return environment.get_template(template).render(**values)


def write_page(path: str, html: str) -> None:
    """Write the page whole or not at all; UserError if it cannot be written there."""
    # a json can name a class with half a surrogate pair, which UTF-8 cannot encode
    content = html.encode("utf-8", "xmlcharrefreplace")
    write_atomically(path, content, path, "; choose another --output")


def swatch(label: int) -> Markup:
    """A small line in the colour of a class's boxes."""
    return Markup(f'<i class="swatch" style="background: {_css(label)}"></i>')


def picture(
    pixels: np.ndarray | None, size: tuple[int, int], boxes: Iterable[PageBox], label: str
) -> Markup:
    """
    An image with its boxes, as SVG: class names are text, in whatever script the reader has.

    Args:
        pixels: uint8 (H, W, 3) BGR, as the page shall carry it; None: the boxes on nothing.
        size: (width, height) of the image as the json has it.
        boxes: drawn in this order; where names overlap, that of an odd or a later one is shown.
        label: what is to be seen, for those who cannot see it.
    """
    if pixels is None:
        width, height = (max(round(side * PICTURE_SIDE / max(size)), 1) for side in size)
    else:
        height, width = pixels.shape[:2]
    outlines, rectangles, wanted = [], [], []
    for box in boxes:
        x, y, w, h = box.bbox
        corners = np.array([x, y, x + w, y + h]) / np.tile(size, 2)
        x1, y1, x2, y2 = np.clip(corners, -0.5, 1.5) * np.tile((width, height), 2)
        x2, y2 = max(x2, x1 + 2), max(y2, y1 + 2)  # one without area is drawn too
        outlines.append(f"M{x1:.1f} {y1:.1f}H{x2:.1f}V{y2:.1f}H{x1:.1f}z")
        rectangles.append(
            f'<rect{" class=odd" if box.is_odd else ""} x="{x1:.1f}" y="{y1:.1f}" '
            f'width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" stroke="{_css(box.label)}">'
            f"<title>{escape(box.text)}</title></rect>"
        )
        if box.is_named:
            wide = _width(box.text)
            left = min(x2, width - 3) - wide if x1 > 0.6 * width else min(x1, width - 3 - wide)
            bottom = y1 - 4 if y1 > LINE_HEIGHT else min(max(y1, 0) + 14, height - 4)
            wanted.append((box.is_odd, max(left, 3), bottom, box.text))
    names = []
    wanted.reverse()
    for _, left, bottom, text in sorted(wanted, key=lambda name: not name[0]):
        right = left + _width(text)
        if all(right < a or b < left or abs(bottom - c) > LINE_HEIGHT for a, b, c, _ in names):
            names.append((left, right, bottom, text))
    texts = [f'<text x="{a:.1f}" y="{y:.1f}">{escape(text)}</text>' for a, _, y, text in names]
    shown = ""
    if pixels is not None:
        shown = f'<image href="{_jpeg_uri(pixels)}" width="{width}" height="{height}"/>'
    return Markup(
        f'<svg class="picture" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}">{shown}'
        f'<path class="halo" d="{"".join(outlines)}"/>{"".join(rectangles)}{"".join(texts)}</svg>'
    )


def _jpeg_uri(pixels: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def _css(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*class_color(label))


def _width(text: str) -> float:
    return LETTER_WIDTH * sum(1 + (east_asian_width(letter) in "WF") for letter in text)


def _fixed(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


def _bar(value: float | None, longest: float, text: str, kind: str = "") -> Markup:
    """A table's cell with a text beside a bar of this length."""
    width = round(BAR_WIDTH * max(value or 0, 0) / (longest or 1))
    return Markup(f'<td class="bar {kind}"><i style="width: {width}px"></i>{escape(text)}</td>')
