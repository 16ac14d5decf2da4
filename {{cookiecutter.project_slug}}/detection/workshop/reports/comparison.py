"""Several models side by side: what templates/comparison.html.jinja shows."""

import hotcoco
import numpy as np
from hotcoco import COCOeval

from detection.evaluation.average_precision import METRICS, evaluate, scores_of
from detection.evaluation.error_analysis import error_costs

SAMPLES = 1000  # of the images, with replacement, for each interval
MIN_DIFFERENCE = 0.05  # points of AP; less is not shown

Interval = tuple[float, float]  # 95 % of a difference, in points


def comparison(coco: dict, results: dict[str, list[dict]]) -> dict:
    """
    AP of each model, overall and per class, and what each kind of error costs.

    Differences are to the first model, with the 95 % interval of a bootstrap over the images; where
    it holds 0, the difference may be chance.

    Args:
        coco: the annotations that all are on.
        results: {name of the model: its detections}.
    """
    names = list(results)
    evaluations = [evaluate(coco, detections) for detections in results.values()]
    scores = [scores_of(evaluation, coco) for evaluation in evaluations]
    intervals = [_intervals(evaluations[0], other) for other in evaluations[1:]]
    metric_rows = [
        {
            "name": metric,
            "cells": _cells([s.get(metric) for s in scores], [i[metric] for i in intervals]),
        }
        for metric in METRICS
    ]
    class_rows = []
    for label, category in enumerate(sorted(coco["categories"], key=lambda c: c["id"])):
        values = [s.get(f"AP-{category['name']}") for s in scores]
        of_class = [_only(evaluation, label) for evaluation in evaluations]
        intervals = [_intervals(of_class[0], other)["AP"] for other in of_class[1:]]
        boxes = sum(
            a["category_id"] == category["id"] and not a.get("iscrowd") for a in coco["annotations"]
        )
        row = {"name": category["name"], "boxes": f"{boxes:,}", "cells": _cells(values, intervals)}
        class_rows.append((_spread(values), row))
    class_rows = [row for _, row in sorted(class_rows, key=lambda pair: -pair[0])]
    error_rows = [
        {
            "name": costs[0].name,
            "meaning": costs[0].meaning,
            "cells": _cells([cost.cost for cost in costs], is_loss=True),
        }
        for costs in zip(*map(error_costs, evaluations), strict=True)
    ]
    return {
        "names": names,
        "metric_rows": metric_rows,
        "class_rows": class_rows,
        "error_rows": error_rows,
        "notes": _notes(names, scores, metric_rows[0], class_rows),
    }


def _only(evaluation: COCOeval, label: int) -> COCOeval:
    """The evaluation of one class, by the rank of its id, at all sizes."""
    of_class = COCOeval(evaluation.coco_gt, evaluation.coco_dt, "bbox")
    of_class.params.cat_ids = [label]
    of_class.params.area_rng = of_class.params.area_rng[:1]
    of_class.params.area_rng_lbl = of_class.params.area_rng_lbl[:1]
    of_class.evaluate()
    return of_class


def _intervals(first: COCOeval, other: COCOeval) -> dict[str, Interval]:
    """The interval of the difference in each metric."""
    found = hotcoco.compare(first, other, n_bootstrap=SAMPLES, confidence=0.95)["ci"]
    return {name: (100 * ci["lower"], 100 * ci["upper"]) for name, ci in found.items()}


def _cells(
    values: list[float | None], intervals: list[Interval] = (), is_loss: bool = False
) -> list[dict]:
    """Each value with its difference to the first; `mood` is good, bad, noise or empty."""
    known = [v for v in values if v is not None]
    best = (min if is_loss else max)(known) if known else None
    cells = []
    for number, value in enumerate(values):
        difference, mood, interval = "", "", ""
        if number and value is not None and values[0] is not None:
            gain = value - values[0]
            difference = f"{gain:+.1f}" if abs(gain) >= MIN_DIFFERENCE else "±0.0"
            if abs(gain) >= MIN_DIFFERENCE:
                mood = "good" if (gain > 0) != is_loss else "bad"
            if intervals and mood:
                low, high = intervals[number - 1]
                interval = f"{low:+.1f} to {high:+.1f}"
                mood = "noise" if low <= 0 <= high else mood
        cells.append(
            {
                "text": "–" if value is None else f"{value:.1f}",
                "difference": difference,
                "interval": interval,
                "mood": mood,
                "is_best": value is not None and abs(value - best) < MIN_DIFFERENCE,
            }
        )
    return cells


def _spread(values: list[float | None]) -> float:
    known = [v for v in values if v is not None]
    return float(np.ptp(known)) if known else -1.0


def _notes(
    names: list[str], scores: list[dict], overall: dict, class_rows: list[dict]
) -> list[str]:
    ranked = sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1].get("AP", 0))
    listed = ", ".join(f"{name} {s.get('AP', 0):.1f}" for name, s in ranked)
    notes = [f"AP, the best first: {listed}."]
    for k, name in enumerate(names[1:], start=1):
        if (cell := overall["cells"][k])["interval"]:
            verdict = "within noise" if cell["mood"] == "noise" else "more than noise"
            notes.append(
                f"{name} has {cell['difference']} AP against {names[0]}, 95 % interval "
                f"{cell['interval']}: {verdict}."
            )
        moods = {mood: [] for mood in ("good", "bad", "noise")}
        for row in class_rows:
            moods.get(row["cells"][k]["mood"], []).append(row["name"])
        if not any(moods.values()):
            notes.append(f"{name} and {names[0]} have the same AP on every class.")
            continue
        line = f"{name} is better than {names[0]} on {_listed(moods['good'])} and worse on "
        line += _listed(moods["bad"])
        if moods["noise"]:
            line += f"; on {_listed(moods['noise'])} the difference is within noise"
        notes.append(f"{line}.")
    return notes


def _listed(names: list[str]) -> str:
    if len(names) > 5:
        return f"{len(names)} classes"
    return ", ".join(names) or "no class"
