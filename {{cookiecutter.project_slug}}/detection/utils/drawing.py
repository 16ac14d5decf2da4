"""Draws boxes and class names with Pillow, in any script that an installed font has."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# How the file names of fonts with Chinese, Japanese or Korean glyphs begin, the best first.
CJK_FONTS = (
    "NotoSansCJK NotoSansKR NotoSansJP NotoSansSC NanumGothic NanumBarunGothic Malgun "
    "AppleSDGothicNeo AppleGothic Hiragino PingFang YuGoth msyh UnDotum wqy DroidSansFallback"
).split()

# Okabe and Ito's colours, which people with colour blindness can tell apart.
OKABE_ITO = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167),
)  # fmt: skip
# Parts of white, or of black if negative, that are mixed in for each seven more classes.
SHADES = (0, 0.5, -0.5, 0.25, -0.25, 0.7, -0.7, 0.12, -0.12)


class Box(NamedTuple):
    """A box of class number `label`: corners (x1, y1, x2, y2) in pixels, scored if predicted."""

    label: int
    corners: tuple[float, float, float, float]
    score: float | None = None


def find_fonts(texts: Iterable[str]) -> tuple[list[str], set[int]]:
    """Files of fonts that can write `texts`, the best first, and the code points that none has."""
    from matplotlib import font_manager  # slow to import

    paths = [font_manager.findfont("DejaVu Sans")]  # comes with matplotlib
    missing = {ord(character) for text in texts for character in text}
    missing -= _code_points(paths[0])
    if not missing:
        return paths, missing
    # on the disk, as matplotlib's list may be older than the newest font
    installed = {path: Path(path).stem.lower() for path in font_manager.findSystemFonts()}
    for prefix in CJK_FONTS:
        matches = [path for path, stem in installed.items() if stem.startswith(prefix.lower())]
        # the regular weight is the one that says so, or else has the shortest name
        matches.sort(key=lambda path: ("regular" not in installed[path], len(path), path))
        for path in matches[:1]:
            if missing & _code_points(path):
                paths.append(path)
                missing -= _code_points(path)
    return paths, missing


def class_color(label: int) -> tuple[int, int, int]:
    """The colour of a class in every picture and page, RGB from 0 to 255; 63 different ones."""
    color = np.array(OKABE_ITO[label % len(OKABE_ITO)])
    shade = SHADES[label // len(OKABE_ITO) % len(SHADES)]
    mixed = color + abs(shade) * ((255 if shade > 0 else 0) - color)
    return tuple(mixed.round().astype(int).tolist())


class BoxPainter:
    """
    Draws boxes with the names of their classes.

    Attributes:
        numbered: {number: name} of the classes that no font can write; they are drawn as `#number`.
    """

    def __init__(self, class_names: list[str], titles: Iterable[str] = ()):
        """
        Args:
            class_names: by number.
            titles: those that `side_by_side` will draw, to find a font for them as well.
        """
        self._colors = [class_color(label) for label in range(len(class_names))]
        self._fonts, self._missing = find_fonts([*class_names, *titles])
        self.numbered = {
            k: name for k, name in enumerate(class_names) if self._missing & set(map(ord, name))
        }
        self._names = [
            f"#{k}" if k in self.numbered else name for k, name in enumerate(class_names)
        ]

    def side_by_side(self, image: np.ndarray, halves: dict[str, list[Box]]) -> np.ndarray:
        """
        The image once for each of `halves`, with its boxes, and its title above.

        Args:
            image: uint8 (H, W, 3) RGB.
            halves: {title: boxes in pixels of `image`, the later over the earlier}.

        Returns:
            uint8 (H + header, about W per half, 3) RGB.
        """
        height, width = image.shape[:2]
        size = max(11, round(max(height, width) / 45))
        header, gap = size + 6, 4
        picture = Image.new("RGB", (len(halves) * (width + gap) - gap, height + header), "white")
        for number, (title, boxes) in enumerate(halves.items()):
            half = Image.new("RGB", (width, height + header), "white")
            draw = ImageDraw.Draw(half)
            title = title.translate(dict.fromkeys(self._missing, "?"))
            draw.text((3, header // 2), title, "black", self._font(title, size), anchor="lm")
            half.paste(self._draw(image, boxes, size), (0, header))
            picture.paste(half, (number * (width + gap), 0))
        return np.asarray(picture)

    def draw(self, image: np.ndarray, boxes: list[Box]) -> np.ndarray:
        """Draw boxes, in pixels of the image, on a copy of it; both uint8 (H, W, 3) RGB."""
        return np.asarray(self._draw(image, boxes, max(11, round(max(image.shape[:2]) / 45))))

    def _draw(self, image: np.ndarray, boxes: list[Box], size: int) -> Image.Image:
        drawn = Image.fromarray(image)
        draw = ImageDraw.Draw(drawn)
        line = max(2, size // 6)
        for box in boxes:
            x1, y1, x2, y2 = box.corners
            draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black", width=line + 2)
            draw.rectangle(box.corners, outline=self._colors[box.label], width=line)
        for box in boxes:  # after all lines, so that none runs through them
            self._draw_label(draw, box, size, drawn.width)
        return drawn

    def _draw_label(self, draw: ImageDraw.ImageDraw, box: Box, size: int, width: int) -> None:
        color = self._colors[box.label]
        text = self._names[box.label]
        text = text if box.score is None else f"{text} {box.score:.2f}"
        font = self._font(text, size)
        wide = draw.textlength(text, font) + 6
        # above the box where there is room, and inside the image always
        x1, y1 = box.corners[:2]
        x = max(0, min(x1, width - wide))
        y = y1 - size - 4 if y1 >= size + 4 else max(0, y1)
        draw.rectangle((x, y, x + wide, y + size + 4), fill=color)
        shade = "black" if np.dot(color, (0.3, 0.59, 0.11)) > 127 else "white"
        draw.text((x + 3, y + size / 2 + 2), text, shade, font, anchor="lm")

    def _font(self, text: str, size: int) -> ImageFont.FreeTypeFont:
        # Pillow takes one font for a text: the one that has most of it
        wanted = set(map(ord, text))
        best = max(self._fonts, key=lambda path: len(wanted & _code_points(path)))
        return _load_font(best, size)


@cache
def _code_points(path: str) -> frozenset[int]:
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(path).get_charmap())


_load_font = cache(ImageFont.truetype)
