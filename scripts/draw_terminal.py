# /// script
# requires-python = ">=3.10"
# dependencies = ["pyte>=0.8.2,<0.9"]
# ///
"""
Draw a recorded terminal session as an animated SVG, for the README:

    uvx asciinema==2.4.0 rec --cols 100 --rows 30 --command "make demo" build/demo.cast
    uv run scripts/draw_terminal.py build/demo.cast docs/pictures/terminal.svg \\
        --title "make demo" --columns 116 --shorten "$PWD/="

What is shown is what was recorded; only time is compressed. Where nothing moves, by the reader's
wish or for want of CSS, the last screen is shown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

import pyte

SIZE, LINE, LEFT, TOP = 14, 18, 12, 40  # pixels: of the font, a line, and what is around the text
CHAR = SIZE * 0.6
BACKGROUND, FOREGROUND = "#1f2430", "#d7dae0"
COLOURS = {
    "black": "#686d78",
    "red": "#ef7c85",
    "green": "#9fd47c",
    "brown": "#e6c07b",
    "blue": "#6db3f2",
    "magenta": "#d08ce0",
    "cyan": "#5fc4cf",
    "white": FOREGROUND,
}
Row = tuple[tuple[int, str, str, bool], ...]  # column, text, colour, bold


def main() -> None:
    """Read the recording, write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cast", type=Path, help="asciinema's recording, version 2")
    parser.add_argument("svg", type=Path)
    parser.add_argument("--title", default="")
    parser.add_argument("--shorten", action="append", default=[], metavar="FROM=TO")
    parser.add_argument("--columns", type=int, help="of a wider terminal than the recording's")
    parser.add_argument("--frames", type=int, default=90, help="at most (default: %(default)s)")
    parser.add_argument("--pause", type=float, default=0.7, help="the longest, in seconds")
    parser.add_argument("--speed", type=float, default=14.0, help="times as fast as it was")
    parser.add_argument("--hold", type=float, default=6.0, help="seconds for the last screen")
    args = parser.parse_args()
    head, *events = map(json.loads, args.cast.read_text(encoding="utf-8").splitlines())
    head["width"] = args.columns or head["width"]
    for index, event in enumerate(events):
        for rule in args.shorten:
            event[2] = event[2].replace(*rule.split("=", 1))
        events[index] = event
    frames = list(replay(events, head["width"], head["height"], args.pause, args.speed))
    frames = thinned(frames, args.frames)
    args.svg.write_text(draw(frames, head, args.title, args.hold), encoding="utf-8")
    print(f"{args.svg}: {len(frames)} screens, {args.svg.stat().st_size / 1000:.0f} kB")


def replay(
    events: list, width: int, height: int, pause: float, speed: float
) -> Iterator[tuple[float, list[Row]]]:
    """(time, rows) of each screen that differs from the one before, in compressed seconds."""
    screen = pyte.Screen(width, height)
    stream = pyte.Stream(screen)
    now, last, shown = 0.0, 0.0, None
    for at, kind, text in events:
        now += min((at - last) / speed, pause)
        last = at
        if kind == "o":
            stream.feed(text)
            rows = [row_of(screen.buffer[y], width) for y in range(height)]
            if rows != shown:
                shown = rows
                yield now, rows


def row_of(cells: dict, width: int) -> Row:
    """The runs of one line that look alike, without blanks at its end."""
    line = [(cells[x].data, cells[x].fg, cells[x].bold) for x in range(width)]
    while line and line[-1][0] == " ":
        line.pop()
    runs, column = [], 0
    for (colour, bold), run in groupby(line, key=lambda cell: cell[1:]):
        text = "".join(cell[0] for cell in run)
        if text.strip():
            runs.append((column, text, COLOURS.get(colour, FOREGROUND), bold))
        column += len(text)
    return tuple(runs)


def thinned(frames: list, count: int) -> list:
    """At most `count` screens, evenly in time; the last is one of them."""
    step = frames[-1][0] / count
    kept, due = [], 0.0
    for frame, following in zip(frames, [*frames[1:], None], strict=True):
        if following is None or following[0] > due:
            kept.append(frame)
            due = max(due, frame[0]) + step
    return kept


def draw(frames: list, head: dict, title: str, hold: float) -> str:
    """The picture: screens on a strip, which moves by one screen at a time."""
    width = round(2 * LEFT + head["width"] * CHAR)
    inner = head["height"] * LINE
    height = TOP + inner + LEFT
    total = frames[-1][0] + hold
    names = {}
    screens = []
    for index, (_, rows) in enumerate(frames):
        uses = []
        for y, row in enumerate(rows):
            if row:
                name = names.setdefault(row, f"r{len(names)}")
                uses.append(f'<use href="#{name}" y="{index * inner + y * LINE}"/>')
        screens.append("".join(uses))
    last = (len(frames) - 1) * inner
    steps = "".join(
        f"{100 * at / total:.2f}%{{transform:translateY(-{index * inner}px)}}"
        for index, (at, _) in enumerate([(0.0, None), *frames[1:]])
    )
    rows = "".join(f'<g id="{name}">{"".join(map(run, row))}</g>' for row, name in names.items())
    dots = "".join(
        f'<circle cx="{18 + 18 * k}" cy="17" r="5.5" fill="{colour}"/>'
        for k, colour in enumerate(("#ec6a5e", "#f4bf4f", "#61c554"))
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
width="{width}" height="{height}" role="img" aria-label="{escape(title)}">
<style>
text{{font:{SIZE}px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;\
fill:{FOREGROUND};white-space:pre}}
.b{{font-weight:700}}
#strip{{transform:translateY(-{last}px);animation:play {total:.1f}s step-end infinite}}
@keyframes play{{{steps}100%{{transform:translateY(-{last}px)}}}}
@media (prefers-reduced-motion:reduce){{#strip{{animation:none}}}}
</style>
<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>{dots}
<text x="{width / 2}" y="22" text-anchor="middle">{escape(title)}</text>
<defs>{rows}</defs>
<svg x="{LEFT}" y="{TOP}" width="{width - 2 * LEFT}" height="{inner}">
<g id="strip">{"".join(screens)}</g>
</svg>
</svg>
"""


def run(part: tuple[int, str, str, bool]) -> str:
    """Text of one look, as wide as its columns in whatever font there is."""
    column, text, colour, bold = part
    look = f' style="fill:{colour}"' if colour != FOREGROUND else ""
    look += ' class="b"' if bold else ""
    place = f'x="{column * CHAR:.1f}" y="{LINE - 5}" textLength="{len(text) * CHAR:.1f}"'
    return f"<text {place}{look}>{escape(text)}</text>"


if __name__ == "__main__":
    main()
