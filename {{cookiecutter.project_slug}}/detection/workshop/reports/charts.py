"""
Charts as inline SVG, drawn by matplotlib in the page's colours and fonts, light or dark.

A chart is as wide as a phone, so that its letters stay readable there. Each gets a `label`, which
says what it shows to those who cannot see it; ticks are (position, text).
"""

import io
import re
import warnings
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

WIDTH, HEIGHT = 360, 230
NAME_WIDTH = 76  # pixels: the room for names beside the ends of lines
SHADES = 8  # of a heat map

# colours that stand for those of page.html.jinja, which differ in light and dark
ACCENT, INK, MUTED, LINE, MARK = (f"#00000{k}" for k in range(1, 6))
VARIABLES = {ACCENT: "accent", INK: "ink", MUTED: "muted", LINE: "line", MARK: "mark"}
LIGHT = {  # as in page.html.jinja
    "accent": "#0072b2",
    "ink": "#1a1d21",
    "muted": "#5b636d",
    "line": "#dfe3e8",
    "mark": "#b84a00",
}
STYLE = {
    "svg.fonttype": "none",  # text, which the page's font writes in any script
    "svg.hashsalt": "",  # the same chart is the same text
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), MUTED),
    **dict.fromkeys(("xtick.color", "ytick.color"), MUTED),
}

Ticks = Sequence[tuple[float, str]]


@rc_context(STYLE)
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
    Draw the share of each bin: the first series as bars, others as lines.

    Args:
        edges: (B + 1,) of the bins, on a linear axis: take logarithms yourself.
        series: {name: (B,) counts}.
        marks: vertical lines with a text above.
        unit: what is counted, for the text that a pointer on a bar shows.
    """
    shares = {name: counts / max(counts.sum(), 1) for name, counts in series.items()}
    top = max([*(s.max(initial=0) for s in shares.values()), 0.01])
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5) if top / s <= 4)
    top = max(top * 1.05, step)
    y_ticks = [(v, f"{v:.0%}") for v in np.arange(0, top + 1e-9, step)]
    axes = _axes(ticks, y_ticks, x_title, y_title, (edges[0], edges[-1]), (0, top))
    axes.grid(axis="y")
    (name, first), *others = shares.items()
    bars = axes.bar(edges[:-1], first, np.diff(edges), align="edge", color=ACCENT, alpha=0.8)
    for bar, share, count in zip(bars, first, series[name], strict=True):
        _add_tooltip(bar, f"{name}: {count:,} {unit} ({share:.1%})")
    for _, values in others:
        axes.stairs(values, edges, color=INK, linewidth=1.5, baseline=None)
    for at, text in marks:
        if edges[0] <= at <= edges[-1]:
            axes.axvline(at, color=MARK, linewidth=1.5)
            axes.text(at, 1.02, text, color=MARK, ha="center", transform=axes.get_xaxis_transform())
    return _svg(axes, label)


@rc_context(STYLE)
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
    Draw counts in SHADES shades of their square roots.

    Args:
        grid: (R, C), the first row at the bottom.
        extent: (left, right, bottom, top) of the grid on the axes.
        marks: (x, y, text) of crosses; a pointer on one shows its text.
    """
    left, right, bottom, top = extent
    axes = _axes(x_ticks, y_ticks, x_title, y_title, (left, right), (bottom, top))
    xs = np.linspace(left, right, grid.shape[1] + 1)
    ys = np.linspace(bottom, top, grid.shape[0] + 1)
    shades = np.ceil(SHADES * np.sqrt(grid / max(grid.max(), 1))).astype(int)
    for shade in range(1, SHADES + 1):
        cells = [
            Path([(xs[c], ys[r]), (xs[c + 1], ys[r]), (xs[c + 1], ys[r + 1]), (xs[c], ys[r + 1])])
            for r, c in np.argwhere(shades == shade)
        ]
        if cells:
            path = Path.make_compound_path(*cells)
            axes.add_patch(PathPatch(path, color=ACCENT, linewidth=0, alpha=shade / SHADES))
    for x, y, text in marks:
        if left <= x <= right and bottom <= y <= top:
            _add_tooltip(
                axes.plot(x, y, "+", color=MARK, markersize=8, markeredgewidth=1.5)[0], text
            )
    return _svg(axes, label)


@rc_context(STYLE)
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
    Draw lines through points; the first stands out, and a pointer on a line shows its name.

    Args:
        series: {name: (x, y)}; values that are not finite leave a gap.
        x_ticks, y_ticks: the first and the last are the ends of the axes.
        is_small: one of many, half as wide and without titles.
        is_named: write the name of each line beside its end.
    """
    limits = ((ticks[0][0], ticks[-1][0]) for ticks in (x_ticks, y_ticks))
    axes = _axes(x_ticks, y_ticks, x_title, y_title, *limits, is_small, is_named * NAME_WIDTH)
    axes.grid(axis="y")
    ends = []
    for number, (name, (xs, ys)) in enumerate(series.items()):
        look = {"color": ACCENT, "linewidth": 2, "zorder": 3}
        if number:
            look = {"color": MUTED, "linewidth": 1.5, "linestyle": ("-", "--", ":")[number % 3 - 1]}
        _add_tooltip(axes.plot(xs, ys, **look)[0], name)
        if (is_finite := np.isfinite(ys)).any():
            last = np.asarray(ys)[is_finite][-1]
            ends.append((axes.transData.transform((0, last))[1], name))
    bottom = -np.inf
    for y, name in sorted(ends) if is_named else []:  # from the bottom up, none over another
        bottom = max(y, bottom + 12)
        y = axes.transAxes.inverted().transform((0, bottom))[1]
        text = name.encode("utf-8", "replace").decode()  # half a surrogate pair has no glyph
        axes.text(1.02, y, text, va="center", transform=axes.transAxes)
    return _svg(axes, label)


def standalone(chart: Markup) -> str:
    """A chart as a file of its own, light, for where no page gives it colours and fonts."""
    svg = str(chart)  # whose `replace` escapes nothing
    for variable, color in LIGHT.items():
        svg = svg.replace(f"var(--{variable})", color)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    style = 'style="background: #fff; font-family: sans-serif"'
    return svg.replace("<svg ", f"<svg {names} {style} ", 1)


def _axes(
    x_ticks: Ticks,
    y_ticks: Ticks,
    x_title: str,
    y_title: str,
    x_limits: tuple[float, float],
    y_limits: tuple[float, float],
    is_small: bool = False,
    room: int = 0,
) -> Axes:
    """Axes of a figure of their own, with `room` pixels free on the right."""
    width, height = (WIDTH // 2, HEIGHT // 2 + 16) if is_small else (WIDTH, HEIGHT)
    left, right, bottom, top = (30, 12, 22, 8) if is_small else (46, 12 + room, 42, 20)
    inside = (width - left - right) / width, (height - bottom - top) / height
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    axes = figure.add_axes((left / width, bottom / height, *inside))
    axes.set_xticks(*zip(*x_ticks, strict=True))
    axes.set_yticks(*zip(*y_ticks, strict=True))
    axes.set(xlim=x_limits, ylim=y_limits, xlabel=x_title, ylabel=y_title)  # ticks may be beyond
    return axes


def _add_tooltip(artist: Artist, text: str) -> None:
    """Show a text when the pointer is on the artist."""
    artist.set_gid(f"text:{text}")


def _svg(axes: Axes, label: str) -> Markup:
    axes.patch.set_visible(False)
    for artist in axes.findobj():
        artist.set_clip_on(False)  # all is inside, and a clip needs a reference
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that matplotlib's font lacks
        unwanted = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        axes.figure.savefig(file, format="svg", metadata=unwanted, transparent=True)
    drawing = file.getvalue()
    drawing = drawing[drawing.index("</defs>") + len("</defs>") :]  # behind the head and its style
    drawing = re.sub(r'<g id="text:([^"]*)">', r"<g><title>\1</title>", drawing)
    drawing = re.sub(r'<g id="[^"]*">', "<g>", drawing)
    drawing = re.sub(r"font-family: [^;]*; ", "", drawing)
    for color, variable in VARIABLES.items():
        drawing = drawing.replace(color, f"var(--{variable})")
    width, height = (round(72 * side) for side in axes.figure.get_size_inches())
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}">{drawing}'
    )
