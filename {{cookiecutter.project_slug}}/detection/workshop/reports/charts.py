"""
Charts as inline SVG: sharp at any size, in the page's own colours and fonts, with a text for those
who cannot see them. A chart is as wide as a phone, so that its letters stay readable there.
"""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 20, 42
NAMES = 64  # the room for names beside the ends of lines
LEVELS = 8  # shades of a heat map; page.html.jinja has a class for each

# Okabe and Ito's colours, which the colour-blind tell apart, and lines for more than seven classes
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
DASHES = ("", "6 3", "2 3")

Ticks = Sequence[tuple[float, str]]


def class_stroke(number: int) -> tuple[str, str]:
    """The colour and the dashes (SVG's `stroke-dasharray`) of a class; 21 different ones."""
    return COLORS[number % len(COLORS)], DASHES[number // len(COLORS) % len(DASHES)]


def histogram(
    label: str,
    edges: np.ndarray,
    series: dict[str, np.ndarray],
    ticks: Ticks,
    x_title: str,
    y_title: str,
    marks: Ticks = (),
    unit: str = "",
) -> Markup:
    """
    Shares of each series in each bin: the first as bars, others as lines.

    Args:
        label: what the chart shows and says, for those who cannot see it.
        edges: (B + 1,) of the bins, on a linear axis: take logarithms yourself.
        series: {name: (B,) counts}.
        ticks: (position, text) on the x axis.
        marks: (position, text) of vertical lines.
        unit: what is counted, for the text that a pointer on a bar shows.
    """
    shares = {name: counts / max(counts.sum(), 1) for name, counts in series.items()}
    top = max([*(s.max(initial=0) for s in shares.values()), 0.01])
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5) if top / s <= 4)
    top = max(top * 1.05, step)
    axes = _Axes(edges[0], edges[-1], 0, top)
    parts = [axes.grid([(v, f"{v:.0%}") for v in np.arange(0, top + 1e-9, step)])]
    for number, (name, values) in enumerate(shares.items()):
        if number == 0:
            for a, b, value, count in zip(edges, edges[1:], values, series[name], strict=False):
                if count:
                    x, width = axes.x(a) + 0.5, max(axes.x(b) - axes.x(a) - 1, 0.5)
                    y, height = axes.y(value), axes.y(0) - axes.y(value)
                    parts.append(
                        f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
                        f'height="{height:.1f}"><title>{escape(name)}: {count:,} {unit} '
                        f"({value:.1%})</title></rect>"
                    )
        else:
            points = " ".join(
                f"{axes.x(x):.1f},{axes.y(v):.1f}"
                for x, v in zip(np.repeat(edges, 2)[1:-1], np.repeat(values, 2), strict=True)
            )
            parts.append(f'<polyline class="line" points="{points}"/>')
    for at, text in marks:
        if edges[0] <= at <= edges[-1]:
            x = axes.x(at)
            parts.append(
                f'<path class="mark" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
                f'<text class="mark" x="{x:.1f}" y="{TOP - 6}">{escape(text)}</text>'
            )
    parts.append(axes.frame(ticks, x_title, y_title))
    return _svg(label, parts)


def heat_map(
    label: str,
    grid: np.ndarray,
    extent: tuple[float, float, float, float],
    x_ticks: Ticks,
    y_ticks: Ticks,
    x_title: str,
    y_title: str,
    marks: Sequence[tuple[float, float, str]] = (),
) -> Markup:
    """
    Counts (R, C), the first row at the bottom, in LEVELS shades of their square roots.

    Args:
        extent: (left, right, bottom, top) of the grid on the axes.
        marks: (x, y, text) of crosses; the text is shown by a pointer on them.
    """
    left, right, bottom, top = extent
    axes = _Axes(left, right, bottom, top)
    rows, columns = grid.shape
    wide, high = (right - left) / columns, (top - bottom) / rows
    shades = np.ceil(LEVELS * np.sqrt(grid / max(grid.max(), 1))).astype(int)
    parts = []
    for shade in range(1, LEVELS + 1):
        cells = [
            f"M{axes.x(left + c * wide):.1f} {axes.y(bottom + (r + 1) * high):.1f}"
            f"h{axes.x(wide + left) - axes.x(left):.2f}"
            f"v{axes.y(bottom) - axes.y(bottom + high):.2f}"
            f"h{axes.x(left) - axes.x(wide + left):.2f}z"
            for r, c in np.argwhere(shades == shade)
        ]
        if cells:
            parts.append(f'<path class="heat-{shade}" d="{"".join(cells)}"/>')
    for x, y, text in marks:
        if left <= x <= right and bottom <= y <= top:
            a, b = axes.x(x), axes.y(y)
            parts.append(
                f'<path class="mark" d="M{a - 4:.1f} {b:.1f}h8M{a:.1f} {b - 4:.1f}v8">'
                f"<title>{escape(text)}</title></path>"
            )
    parts.append(axes.frame(x_ticks, x_title, y_title, y_ticks))
    return _svg(label, parts)


def lines(
    label: str,
    series: dict[str, tuple[np.ndarray, np.ndarray]],
    x_ticks: Ticks,
    y_ticks: Ticks,
    x_title: str = "",
    y_title: str = "",
    is_small: bool = False,
    is_named: bool = False,
) -> Markup:
    """
    Lines through points; the first stands out, each is named by a pointer on it.

    Args:
        label: what the chart shows and says, for those who cannot see it.
        series: {name: (x, y)}; values that are not finite leave a gap.
        x_ticks, y_ticks: (position, text); the first and the last are the ends of the axes.
        is_small: one of many, half as wide and without titles.
        is_named: write the name of each line beside its end.
    """
    size = (WIDTH // 2, HEIGHT // 2 + 16) if is_small else (WIDTH, HEIGHT)
    axes = _Axes(x_ticks[0][0], x_ticks[-1][0], y_ticks[0][0], y_ticks[-1][0], size, is_small)
    if is_named:
        axes.make_room(NAMES)
    parts = [axes.grid(y_ticks)]
    # the first lies over the others, in colour
    for number, (name, (xs, ys)) in reversed(list(enumerate(series.items()))):
        command, path = "M", []
        for x, y in zip(xs, ys, strict=True):
            if np.isfinite(x) and np.isfinite(y):
                path.append(f"{command}{axes.x(x):.1f} {axes.y(y):.1f}")
                command = "L"
            else:
                command = "M"
        kind = "line first" if number == 0 else f"line other dash-{(number - 1) % 3}"
        parts.append(f'<path class="{kind}" d="{"".join(path)}"><title>{escape(name)}</title>')
        parts.append("</path>")
    if is_named:
        parts.append(_line_names(axes, series))
    parts.append(axes.frame(x_ticks, x_title, y_title))
    return _svg(label, parts, size)


class _Axes:
    """From values to places in the drawing."""

    def __init__(
        self,
        left: float,
        right: float,
        bottom: float,
        top: float,
        size: tuple[int, int] = (WIDTH, HEIGHT),
        is_small: bool = False,
    ):
        # without titles the margins hold the ticks alone
        self._edge, floor, self._ceiling = (30, 22, 8) if is_small else (LEFT, BOTTOM, TOP)
        self._end, self._floor, self._height = size[0] - RIGHT, size[1] - floor, size[1]
        self._left, self._bottom, self._right = left, bottom, right
        self._wide = (self._end - self._edge) / (right - left)
        self._high = (self._floor - self._ceiling) / (top - bottom)

    def make_room(self, pixels: int) -> None:
        """Leave so much free on the right."""
        self._end -= pixels
        self._wide = (self._end - self._edge) / (self._right - self._left)

    def x(self, value: float) -> float:
        return self._edge + (value - self._left) * self._wide

    def y(self, value: float) -> float:
        return self._floor - (value - self._bottom) * self._high

    def grid(self, ticks: Ticks) -> str:
        """Horizontal lines with their values."""
        return "".join(
            f'<path class="grid" d="M{self._edge} {self.y(v):.1f}H{self._end}"/>'
            f'<text class="y" x="{self._edge - 6}" y="{self.y(v) + 4:.1f}">{escape(text)}</text>'
            for v, text in ticks
        )

    def frame(self, ticks: Ticks, x_title: str, y_title: str, y_ticks: Ticks = ()) -> str:
        """The axes with ticks and titles."""
        floor, end = self._floor, self._end
        return (
            f'<path class="axis" d="M{self._edge} {self._ceiling}V{floor}H{end}"/>'
            + "".join(
                f'<path class="axis" d="M{self.x(v):.1f} {floor}v4"/>'
                f'<text x="{self.x(v):.1f}" y="{floor + 16}">{escape(text)}</text>'
                for v, text in ticks
            )
            + "".join(
                f'<path class="axis" d="M{self._edge} {self.y(v):.1f}h-4"/>'
                f'<text class="y" x="{self._edge - 7}" y="{self.y(v) + 4:.1f}">'
                f"{escape(text)}</text>"
                for v, text in y_ticks
            )
            + f'<text x="{(self._edge + end) / 2}" y="{self._height - 6}">{escape(x_title)}</text>'
            f'<text transform="translate(10 {(self._ceiling + floor) / 2}) rotate(-90)">'
            f"{escape(y_title)}</text>"
        )


def _line_names(axes: _Axes, series: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """The name of each line at the height of its last point, or as near as others leave room."""
    ends = []
    for name, (xs, ys) in series.items():
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if np.isfinite([x, y]).all()]
        if points:
            ends.append((axes.y(points[-1][1]) + 4, axes.x(points[-1][0]) + 5, name))
    floor, texts = HEIGHT - BOTTOM + 4, []
    for number, (y, x, name) in enumerate(sorted(ends, reverse=True)):  # from the bottom up
        floor = min(y, floor - 12 if number else floor)
        texts.append(f'<text class="name" x="{x:.1f}" y="{floor:.1f}">{escape(name)}</text>')
    return "".join(texts)


def _svg(label: str, parts: list[str], size: tuple[int, int] = (WIDTH, HEIGHT)) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {size[0]} {size[1]}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
