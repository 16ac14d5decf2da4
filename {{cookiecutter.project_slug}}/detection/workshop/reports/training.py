"""The section of a page that shows how a training went."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from detection.workshop.reports.charts import lines

STRETCHES = 300  # about the pixels that a chart is wide
Curve = list[tuple[int, float]]  # (iteration, value)


def run_section(curves: dict[str, Curve]) -> dict:
    """
    Losses and AP over the iterations of a training.

    Args:
        curves: by detectron2's names of the metrics.

    Returns:
        `run_charts`, and `run_notes`, a line on the best and the last evaluation.
    """
    losses = {n: c for n, c in curves.items() if n == "total_loss" or n.startswith("loss_")}
    losses = dict(sorted(losses.items(), key=lambda item: item[0] != "total_loss"))
    scores = {n: curves[f"bbox/{n}"] for n in ("AP", "AP50", "AP75") if f"bbox/{n}" in curves}
    notes = []
    if "AP" in scores:
        best, last = max(scores["AP"], key=lambda p: p[1]), scores["AP"][-1]
        notes.append(
            f"In training the best evaluation was at iteration {best[0] + 1:,}, AP {best[1]:.1f}; "
            f"the last at {last[0] + 1:,}, AP {last[1]:.1f}."
        )
    groups = (("Losses", "loss", losses), ("AP", "AP", scores))
    return {"run_charts": [_run_chart(*group) for group in groups if group[2]], "run_notes": notes}


def _run_chart(title: str, kind: str, series: dict[str, Curve]) -> dict:
    top = max(value for curve in series.values() for _, value in curve)
    last = max(i for curve in series.values() for i, _ in curve) + 1
    text = "; ".join(f"{n} from {c[0][1]:.3g} to {c[-1][1]:.3g}" for n, c in series.items())
    label = f"{title} over {last:,} iterations: {text}"
    points = {name: _points(curve) for name, curve in series.items()}
    ticks = _ticks(last), _ticks(max(top, 1e-6))
    svg = lines(label, points, *ticks, "iteration", kind, is_named=True)
    return {"title": title, "svg": svg, "caption": text}


def _ticks(top: float) -> list[tuple[float, str]]:
    """Round values from 0 to `top` and a little beyond."""
    values = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, top)
    return [(value, f"{value:,.6g}") for value in values]


def _points(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of a curve; of a long one the lowest and the highest value of each stretch."""
    xs, ys = np.array(curve, float).T
    kept = np.arange(len(xs))
    if len(xs) > 2 * STRETCHES:
        ends = [(p[ys[p].argmin()], p[ys[p].argmax()]) for p in np.array_split(kept, STRETCHES)]
        kept = np.unique([0, len(xs) - 1, *np.ravel(ends)])
    return xs[kept] + 1, ys[kept]
