"""A metric: how it is computed, its value and, where each detection costs, its score threshold."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from detection.evaluation.assignment import Assignment


@dataclass(frozen=True)
class Score:
    """
    What a metric says of a set of detections.

    Attributes:
        value: from 0 to 1; NaN without a box to find.
        per_class: {class name: value} of the classes that have boxes; empty where the metric takes
            no mean over classes.
        threshold: the score from which detections count; None where all do.
    """

    value: float
    per_class: dict[str, float] = field(default_factory=dict)
    threshold: float | None = None


@dataclass(frozen=True)
class Metric:
    """
    A competition's metric in two steps, so that resampling images repeats only the second.

    Attributes:
        definition: what it is, and where that is defined.
        assign: (COCO json, results) to the detections that find a box.
        classes: (assignment, weights of the images) to one value per class, NaN for those without
            boxes; their mean is the metric. Metrics that need a threshold have None.
        curve: (assignment, weights of the images) to the value at each of
            `assignment.thresholds`; for metrics where each detection costs something, so that
            low scores have to be left out. None: all detections count.
        average: of metrics with a curve: (boxes found, detections, both (T, I) by image; boxes to
            find (I,), weights of the images (R, I)) to R values.
        whole: (COCO json, results) to the value, instead of all the others.
    """

    definition: str
    assign: Callable[[dict, Sequence[dict]], Assignment] | None = None
    classes: Callable[[Assignment, np.ndarray], np.ndarray] | None = None
    curve: Callable[[Assignment, np.ndarray], np.ndarray] | None = None
    average: Callable[..., np.ndarray] | None = None
    whole: Callable[[dict, Sequence[dict]], float] | None = None

    @property
    def needs_threshold(self) -> bool:
        return self.curve is not None

    def score(self, coco: dict, results: Sequence[dict], threshold: float | None = None) -> Score:
        """
        Score detections in COCO's results format on a COCO json.

        Args:
            threshold: of metrics that need one; None takes the best on these images.
        """
        if self.whole:
            return Score(float(self.whole(coco, results)))
        return self.score_of(self.assign(coco, results), threshold)

    def score_of(self, assignment: Assignment, threshold: float | None = None) -> Score:
        """As `score`, of detections that are assigned."""
        weights = np.ones(len(assignment.positives))
        if self.needs_threshold:
            curve = self.curve(assignment, weights)
            if threshold is None:
                threshold = best_threshold(assignment, curve)
            return Score(float(value_at(assignment, curve, threshold)), threshold=threshold)
        values = self.classes(assignment, weights)
        per_class = {
            name: float(value)
            for name, value in zip(assignment.names, values, strict=True)
            if not math.isnan(value)
        }
        return Score(mean_of_known(values), per_class if len(assignment.names) > 1 else {})

    def resampled(
        self, assignment: Assignment, weights: np.ndarray, threshold: float | None
    ) -> np.ndarray:
        """(R,): the value with each image counted as often as `weights`, (R, I), say."""
        if not self.needs_threshold:
            return np.array([mean_of_known(self.classes(assignment, times)) for times in weights])
        kept = assignment.scores >= threshold

        def by_image(flags: np.ndarray) -> np.ndarray:
            number = len(assignment.positives)
            images = assignment.images
            return np.stack([np.bincount(images[row & kept], minlength=number) for row in flags])

        found, counted = by_image(assignment.hits), by_image(~assignment.ignored)
        return self.average(found, counted, assignment.positives[:, 0], weights)


def best_threshold(assignment: Assignment, curve: np.ndarray) -> float:
    """
    The score threshold of the highest value, the lowest such: midway between the last score that
    counts and the next one, so that rounding a score changes nothing.
    """
    if np.isnan(curve).all():
        return 0.0
    best = len(curve) - 1 - int(np.nanargmax(curve[::-1]))
    low = np.append(assignment.thresholds, 0.0)[best + 1]
    high = assignment.thresholds[best] if best else max(1.0, low + 1e-6)
    return float((high + low) / 2)


def value_at(assignment: Assignment, curve: np.ndarray, threshold: float) -> float:
    """The value of a curve where detections from `threshold` on count."""
    return curve[np.searchsorted(-assignment.thresholds, -threshold, "right") - 1]


def mean_of_known(values: np.ndarray) -> float:
    """The mean without NaN; NaN if there is nothing else."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def named_scores(name: str, score: Score) -> dict[str, float]:
    """{metric: value, metric-class: value …}, as training logs them under `competition/`."""
    return {name: score.value} | {f"{name}-{c}": value for c, value in score.per_class.items()}


def describe(score: Score) -> str:
    """The value, and from which score on detections count."""
    at = "" if score.threshold is None else f", of detections from a score of {score.threshold:.3f}"
    return f"{score.value:.4f}{at}"
