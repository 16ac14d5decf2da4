"""The competition's metric on the pages of `make report`."""

from collections.abc import Mapping, Sequence

import numpy as np

from detection.evaluation.competition_metrics import find_metric
from detection.evaluation.intervals import COVERED, difference, resample
from detection.evaluation.score_threshold import find_threshold
from detection.workshop.reports.charts import lines

TICKS = tuple((v, f"{v:g}") for v in (0, 0.25, 0.5, 0.75, 1))
POINTS = 200  # of the curve


def competition_section(coco: dict, results: Sequence[dict], metric: str) -> dict:
    """
    The metric's value, and for metrics where each box counts its curve over the score threshold.

    Args:
        coco: a parsed COCO json with annotations.
        results: detections in COCO's results format.
        metric: a key of METRICS.
    """
    rule = find_metric(metric)
    score = rule.score(coco, results)
    section = {"name": metric, "value": f"{score.value:.4f}", "definition": rule.definition}
    section["curve"] = None
    if found := find_threshold(metric, coco, results):
        thresholds = np.linspace(0, 1, POINTS)
        values = np.array([found.at(t) for t in thresholds])
        label = f"{metric} by score threshold, the best {found.value:.4f} at {found.threshold:.4f}"
        series = {metric: (thresholds, values)}
        section["curve"] = lines(label, series, TICKS, TICKS, "score threshold", metric)
        section["notes"] = found.describe()
    return {"competition": section}


def competition_notes(coco: dict, results: Mapping[str, Sequence[dict]], metric: str) -> list[str]:
    """What each of several results gains over the first by the metric, one sentence each."""
    find_metric(metric)
    first, *others = results
    base = resample(metric, coco, results[first])
    notes = [f"{metric} of {first}: {base.value:.4f}."]
    for name in others:
        gain = difference(base, resample(metric, coco, results[name]))
        notes.append(f"{metric} of {name} against {first}, {COVERED} %: {gain}.")
    return notes
