"""How sure a difference between two models is: resampling the images they were scored on."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from detection.evaluation.competition_metrics import METRICS
from detection.evaluation.metric import Metric

RESAMPLES = 400
COVERED = 95  # percent of the resamples that an interval holds


@dataclass(frozen=True)
class Resamples:
    """A metric's value on the images, and on each of several draws from them."""

    value: float
    values: np.ndarray  # (RESAMPLES,)


@dataclass(frozen=True)
class Difference:
    """What a metric gains from one model to another, and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        return not (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        noise = ", within noise" if self.is_noise else ""
        return f"{self.value:+.4f} ({self.low:+.4f} to {self.high:+.4f}{noise})"


def resample(metric: str, coco: dict, results: Sequence[dict], seed: int = 0) -> Resamples:
    """
    Score detections on draws, with replacement, of as many images as there are.

    The same seed draws the same images, so that models are compared on equal terms. Where a metric
    needs a score threshold, it is the best one on all images.

    Args:
        metric: a key of METRICS.
        coco: a parsed COCO json with annotations.
        results: detections in COCO's results format.
    """
    rule, number = METRICS[metric], len(coco["images"])
    random = np.random.default_rng(seed)
    draws = random.multinomial(number, np.full(number, 1 / number), RESAMPLES)
    if rule.whole:
        values = _resample_whole(rule, coco, results, draws)
        return Resamples(rule.score(coco, results).value, np.array(list(values)))
    assignment = rule.assign(coco, results)
    score = rule.score_of(assignment)
    return Resamples(score.value, rule.resampled(assignment, draws, score.threshold))


def difference(one: Resamples, other: Resamples) -> Difference:
    """What `other` gains over `one`, resampled with one seed."""
    return Difference(other.value - one.value, *interval(other.values - one.values))


def interval(values: np.ndarray) -> tuple[float, float]:
    """From where to where COVERED percent of the finite values are; infinite without one."""
    known = values[np.isfinite(values)]
    if not known.size:
        return -np.inf, np.inf
    outside = (100 - COVERED) / 2
    low, high = np.percentile(known, [outside, 100 - outside])
    return float(low), float(high)


def _resample_whole(
    rule: Metric, coco: dict, results: Sequence[dict], draws: np.ndarray
) -> Iterator[float]:
    """The values of a metric that takes a json: each image once for each time it was drawn."""
    annotations, found = defaultdict(list), defaultdict(list)
    for a in coco["annotations"]:
        annotations[a["image_id"]].append(a)
    for r in results:
        found[r["image_id"]].append(r)
    for times in draws:
        drawn = [image for image, n in zip(coco["images"], times, strict=True) for _ in range(n)]
        parts = {
            "images": [{**image, "id": k} for k, image in enumerate(drawn)],
            "annotations": _renumbered(annotations, drawn),
            "categories": coco["categories"],
        }
        yield rule.score(parts, _renumbered(found, drawn)).value


def _renumbered(records: dict[int, list[dict]], images: Sequence[dict]) -> list[dict]:
    return [{**r, "image_id": k} for k, image in enumerate(images) for r in records[image["id"]]]
