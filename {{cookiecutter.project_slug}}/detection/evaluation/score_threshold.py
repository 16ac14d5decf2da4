"""The score from which detections count, for metrics where each one costs: found, saved, read."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.data.coco import write_json
from detection.data.results import weights_of
from detection.evaluation.competition_metrics import find_metric
from detection.evaluation.metric import best_threshold, value_at
from detection.utils.errors import UserError

FILE = "threshold.json"  # in the folder of the predictions
STEP = 0.05  # to both sides of the threshold, to see how much depends on it


@dataclass(frozen=True)
class ScoreThreshold:
    """
    The best threshold on annotated images.

    Attributes:
        metric: a key of METRICS.
        threshold: detections from this score on count.
        value: of the metric there.
        curve: (thresholds, values), ascending.
        models: those whose predictions it was found on, as predict.py names them.
    """

    metric: str
    threshold: float
    value: float
    curve: tuple[np.ndarray, np.ndarray]
    models: tuple[str, ...]

    def at(self, threshold: float) -> float:
        """The metric's value at another threshold."""
        thresholds, values = self.curve
        position = np.searchsorted(thresholds, threshold, "left")
        return float(values[min(position, len(values) - 1)])

    def describe(self) -> list[str]:
        """Lines that say what it is, and what is lost beside it."""
        beside = [
            f"{self.at(t) - self.value:+.4f} at {t:.3f}"
            for t in (self.threshold - STEP, self.threshold + STEP)
            if 0 <= t <= 1
        ]
        return [
            f"{self.metric} {self.value:.4f}, of detections from a score of {self.threshold:.4f}",
            f"beside it: {', '.join(beside)}",
        ]


def find_threshold(
    metric: str, coco: dict, results: Sequence[dict], models: Sequence[str] = ()
) -> ScoreThreshold | None:
    """
    Find the threshold with the best value of a metric; None if the metric needs none.

    Args:
        metric: a key of METRICS.
        coco: a parsed COCO json with annotations.
        results: detections on it, of models that have not seen these images.
        models: names of those.
    """
    rule = find_metric(metric)
    if not rule.needs_threshold:
        return None
    assignment = rule.assign(coco, results)
    values = rule.curve(assignment, np.ones(len(coco["images"])))
    best = best_threshold(assignment, values)
    return ScoreThreshold(
        metric,
        best,
        float(value_at(assignment, values, best)),
        (assignment.thresholds[::-1], values[::-1]),
        tuple(models),
    )


def save_threshold(found: ScoreThreshold, path: str) -> None:
    """Write a threshold for `make submission`; UserError if it cannot be written."""
    content = {
        "metric": found.metric,
        "threshold": found.threshold,
        "value": found.value,
        "models": list(found.models),
    }
    write_json(content, path)


def read_threshold(path: str | Path, metric: str, models: Sequence[str]) -> float:
    """
    Read a threshold for predictions of some models.

    Args:
        path: as `save_threshold` wrote it.
        metric: that the submission is ranked by.
        models: of the predictions, as `read_models` has them; none: nobody knows.

    Raises:
        UserError: the file is malformed, or of another metric or other models.
    """
    remedy = "find it again with `make threshold`, or give --min-score"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        threshold, of, known = content["threshold"], content["metric"], content["models"]
        is_sound = type(threshold) in (int, float) and math.isfinite(threshold)
        own = {weights_of(model) for model in known}
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as e:
        raise UserError(f"{path}: is no threshold ({e!r}); {remedy}") from e
    if not is_sound or of != metric:
        raise UserError(f"{path}: is a threshold for {of}, not for {metric}; {remedy}")
    if known and (other := [model for model in models if weights_of(model) not in own]):
        raise UserError(
            f"{path}: is of {', '.join(known)}, not of {other[0]}, which made the predictions; "
            f"{remedy}"
        )
    return threshold
