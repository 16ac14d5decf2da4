# /// script
# requires-python = ">=3.10"
# dependencies = ["rich>=13"]
# ///
"""
Draw the end of a command's output as an SVG of a terminal, for the README:

    make demo 2>&1 | tee build/demo.log
    uv run docs/draw_terminal.py build/demo.log docs/terminal.svg --title "make demo" \\
        --from-line 97 --lines 28 --width 118

docs/report.png is the top of the page that `make report CONFIG=configs/debug/smoke.py
VAL=datasets/toy/val.json` then writes in build/demo/recycling-trash-detection.
"""

import argparse
import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path, help="output of a command, with or without ANSI colours")
    parser.add_argument("svg", type=Path)
    parser.add_argument("--title", default="")
    parser.add_argument("--from-line", type=int, default=1, help="first line shown, from 1")
    parser.add_argument("--lines", type=int, default=30)
    parser.add_argument("--width", type=int, default=100, help="columns")
    args = parser.parse_args()
    lines = args.log.read_text(encoding="utf-8").split("\n")
    shown = [line.rpartition("\r")[2] for line in lines[args.from_line - 1 :][: args.lines]]
    console = Console(record=True, width=args.width, file=io.StringIO(), force_terminal=True)
    for line in shown:
        console.print(Text.from_ansi(line), no_wrap=True, overflow="ellipsis", highlight=False)
    svg = console.export_svg(title=args.title)
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # no fonts from the web
    args.svg.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
