"""The section of a page that shows how a training went."""

import numpy as np

from detection.workshop.analysis.runs import _points
from detection.workshop.reports.charts import lines

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
    rough = top / 4
    unit = 10 ** np.floor(np.log10(rough))
    step = next(s * unit for s in (1, 2, 2.5, 5, 10) if s * unit >= rough * (1 - 1e-9))
    return [(step * k, f"{step * k:,.6g}") for k in range(int(np.ceil(top / step - 1e-9)) + 1)]
