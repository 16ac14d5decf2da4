"""Several models side by side: what templates/comparison.html.jinja shows."""

import numpy as np

from detection.evaluation.average_precision import METRICS, evaluate, scores_of
from detection.evaluation.error_analysis import error_costs

EVEN = 0.05  # points of AP, less than the page shows


def comparison(coco: dict, results: dict[str, list[dict]]) -> dict:
    """
    AP in all and per class, and what each kind of error costs, of each model.

    Args:
        coco: the annotations that all are on.
        results: {name of the model: its detections}; differences are to the first.
    """
    names = list(results)
    evaluations = [evaluate(coco, detections) for detections in results.values()]
    scores = [scores_of(evaluation, coco) for evaluation in evaluations]
    counts = {c["id"]: 0 for c in coco["categories"]}
    for annotation in coco["annotations"]:
        counts[annotation["category_id"]] += not annotation.get("iscrowd")
    metric_rows = [
        {"name": metric, "cells": _cells([s.get(metric) for s in scores])} for metric in METRICS
    ]
    class_rows = []
    for category in sorted(coco["categories"], key=lambda c: c["id"]):
        values = [s.get(f"AP-{category['name']}") for s in scores]
        boxes = f"{counts[category['id']]:,}"
        row = {"name": category["name"], "boxes": boxes, "cells": _cells(values)}
        class_rows.append((_spread(values), row))
    class_rows = [row for _, row in sorted(class_rows, key=lambda pair: -pair[0])]
    kinds = zip(*(error_costs(evaluation) for evaluation in evaluations), strict=True)
    error_rows = [
        {
            "name": costs[0].name,
            "meaning": costs[0].meaning,
            "cells": _cells([cost.cost for cost in costs], is_loss=True),
        }
        for costs in kinds
    ]
    return {
        "names": names,
        "metric_rows": metric_rows,
        "class_rows": class_rows,
        "error_rows": error_rows,
        "notes": _notes(names, scores, class_rows),
    }


def _cells(values: list[float | None], is_loss: bool = False) -> list[dict]:
    """Each value with its difference to the first; `mood` is good, bad or empty."""
    cells = []
    for value in values:
        difference, mood = "", ""
        if cells and value is not None and values[0] is not None:
            gain = value - values[0]
            difference = f"{gain:+.1f}"
            if abs(gain) >= EVEN:
                mood = "good" if (gain > 0) != is_loss else "bad"
            else:
                difference = "±0.0"
        text = "–" if value is None else f"{value:.1f}"
        cells.append({"text": text, "difference": difference, "mood": mood})
    known = [v for v in values if v is not None]
    best = (min if is_loss else max)(known) if known else None
    for cell, value in zip(cells, values, strict=True):
        cell["is_best"] = value is not None and abs(value - best) < EVEN
    return cells


def _spread(values: list[float | None]) -> float:
    known = [v for v in values if v is not None]
    return float(np.ptp(known)) if known else -1.0


def _notes(names: list[str], scores: list[dict], class_rows: list[dict]) -> list[str]:
    ranked = sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1].get("AP", 0))
    told = ", ".join(f"{name} {s.get('AP', 0):.1f}" for name, s in ranked)
    notes = [f"AP, the best first: {told}."]
    for k, name in enumerate(names[1:], start=1):
        better = [row["name"] for row in class_rows if row["cells"][k]["mood"] == "good"]
        worse = [row["name"] for row in class_rows if row["cells"][k]["mood"] == "bad"]
        if better or worse:
            line = f"{name} is better than {names[0]} on {_listed(better)}"
            notes.append(f"{line} and worse on {_listed(worse)}.")
        else:
            notes.append(f"{name} and {names[0]} have the same AP on every class.")
    return notes


def _listed(names: list[str]) -> str:
    if len(names) > 5:
        return f"{len(names)} classes"
    return ", ".join(names) or "no class"
