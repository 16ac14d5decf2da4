#!/usr/bin/env python
"""
All trainings in one table, the best first, with the settings that only some of them have.

    python tools/leaderboard.py
    python tools/leaderboard.py output/sweep --metric bbox/AP50 --csv runs.csv

Scores are those of the iteration at which the metric was best; hours are those of the training
steps, without evaluations. Runs that were validated on the same images are compared with the best
image by image: differences within noise could be the other way round on other images. A dash is an
unknown value. Runs of --fast-dev-run are left out.
"""

import csv
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from tabulate import tabulate

from detection.utils.cli import command_parser, tool
from detection.utils.files import refuse_to_overwrite, write_atomically
from detection.utils.paths import in_project
from detection.utils.text import printable
from detection.workshop.analysis.leaderboard import (
    Run,
    against_best,
    choose_metric,
    describe,
    differences,
    find_runs,
    sort_runs,
)

BEHIND = "against the best (95 %)"
ALSO = ("bbox/AP", "bbox/AP50")  # shown beside the metric


def cells(run: Run, metric: str, is_min: bool) -> dict:
    """A run's row of the table; None for what is not known."""
    best = run.best(metric, is_min)
    at = best[0] if best else None
    found = {metric: best[1] if best else None}
    for name in ALSO:
        found.setdefault(name, dict(run.curves.get(name, ())).get(at))
    return {
        "run": run.name,
        **found,
        "at": None if at is None else at + 1,
        "iterations": run.iterations,
        "of": run.max_iter,
        "finished": {True: "yes", False: "no", None: None}[run.is_finished],
        "hours": run.hours,
    }


def write_csv(path: str, rows: list[dict]) -> None:
    """Write the table, all of it or nothing; UserError if it cannot be written."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8", "backslashreplace"), path)


@tool
def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "folder", nargs="?", default=in_project("output"), help="of the runs (default: %(default)s)"
    )
    parser.add_argument(
        "--metric", help="to sort by (default: the one by which most runs keep their best model)"
    )
    parser.add_argument("--csv", metavar="FILE", help="write it, with a column for each setting")
    args = parser.parse_args(argv)
    runs = find_runs(args.folder)
    metric, is_min = choose_metric(runs, args.metric)
    runs = sort_runs(runs, metric, is_min)
    values = differences([run.config for run in runs])
    rows = [cells(run, metric, is_min) for run in runs]
    behind = against_best(args.folder, runs, metric)
    if any(behind):
        for row, gap in zip(rows, behind, strict=True):
            row[BEHIND] = gap and str(gap)
    if args.csv:
        for run in runs:
            folder = Path(args.folder, run.name)
            refuse_to_overwrite(args.csv, folder / "metrics.json", folder / "config.yaml")
        settings = [{key: v[k] for key, v in values.items()} for k in range(len(runs))]
        write_csv(args.csv, [a | b for a, b in zip(rows, settings, strict=True)])
    for row, text in zip(rows, describe(values, len(rows)), strict=True):
        row["differs in"] = text
    digits = ".4f" if metric.startswith("competition/") else ".2f"
    formats = {"hours": ".2f", **dict.fromkeys(ALSO, ".2f"), metric: digits}
    table = [
        ["-" if v is None else format(v, formats.get(k, "")) for k, v in row.items()]
        for row in rows
    ]
    table = [[printable(cell) for cell in row] for row in table]
    align = ["left", *["right"] * (len(rows[0]) - 2), "left"]
    print(tabulate(table, list(rows[0]), colalign=align, disable_numparse=True))


if __name__ == "__main__":
    sys.exit(main())
