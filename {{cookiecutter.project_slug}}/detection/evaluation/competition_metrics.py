"""
What each competition ranks by, from 0 to 1; a new one is a function and an entry in METRICS.

DEFAULT_METRIC is this project's. Training logs it as `competition/<name>` and picks the best
checkpoint by it; the leaderboard, ensembles, sweeps and submissions are judged by it too.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from detection.evaluation.assignment import Assignment, assign, position_in_group
from detection.utils.errors import UserError
from detection.utils.paths import DATASETS, in_project

DEFAULT_METRIC = "{{ cookiecutter._metrics[cookiecutter.submission_format] }}"
# Open Images' classes, e.g. challenge-2019-label500-hierarchy.json; without it, AP50 is plain
HIERARCHY = f"{DATASETS}/hierarchy.json"

STEPS_OF_RECALL = np.linspace(0, 1, 101)  # of COCO's precision-recall curve

logger = logging.getLogger("detectron2.detection")


def _range(first: float, last: float) -> list[float]:
    """IoU thresholds in steps of 0.05, both ends included."""
    return [k / 100 for k in range(round(100 * first), round(100 * last) + 1, 5)]


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
        whole: (COCO json, results) to the value, in place of all the others.
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
        return Score(_mean(values), per_class if len(assignment.names) > 1 else {})

    def resampled(
        self, assignment: Assignment, weights: np.ndarray, threshold: float | None
    ) -> np.ndarray:
        """(R,): the value if each image were there so often as `weights`, (R, I), say."""
        if not self.needs_threshold:
            return np.array([_mean(self.classes(assignment, times)) for times in weights])
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


# ---- mean average precision ----


def mean_average_precision(
    definition: str,
    iou_thresholds: Sequence[float],
    assign_by: Callable = assign,
    every_recall: bool = False,
) -> Metric:
    """
    The mean over classes, and over IoU thresholds, of the area under the precision-recall curve.

    Args:
        definition: for people.
        iou_thresholds: from which a detection finds a box.
        assign_by: as `assign`; says which detection finds which box.
        every_recall: the exact area under the curve, as in PASCAL VOC from 2010 on; else the mean
            precision at 101 recalls, COCO's.
    """
    return Metric(
        definition,
        partial(assign_by, iou_thresholds=iou_thresholds),
        classes=partial(_average_precisions, every_recall=every_recall),
    )


def _average_precisions(
    assignment: Assignment, weights: np.ndarray, every_recall: bool
) -> np.ndarray:
    values = np.full(len(assignment.names), np.nan)
    positives = weights @ assignment.positives
    for k in np.flatnonzero(positives):
        own = assignment.by_class[k]
        times = weights[assignment.images[own]]
        hits = assignment.hits[:, own] * times
        wrong = ~(assignment.hits | assignment.ignored)[:, own] * times
        found, false = hits.cumsum(axis=1), wrong.cumsum(axis=1)
        recall = found / positives[k]
        precision = found / np.maximum(found + false, 1e-300)
        # at each recall the best precision that is still to come
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        if every_recall:
            values[k] = (np.diff(recall, axis=1, prepend=0) * precision).sum(axis=1).mean()
            continue
        padded = np.pad(precision, ((0, 0), (0, 1)))
        values[k] = np.mean(
            [
                row[np.searchsorted(at, STEPS_OF_RECALL, "left")]
                for row, at in zip(padded, recall, strict=True)
            ]
        )
    return values


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


# ---- classes that the annotations do not have ----


def with_none_class(
    coco: dict, results: Sequence[dict], name: str, iou_thresholds: Sequence[float]
) -> Assignment:
    """
    Assign by VOC's rule, with a class for images without boxes: each has one, of a pixel, and an
    image without detections predicts it with a score of 1, as the submission's `empty` says.
    """
    own = max(c["id"] for c in coco["categories"]) + 1
    annotated = {a["image_id"] for a in coco["annotations"]}
    detected = {r["image_id"] for r in results}

    def nothing(images: set[int]) -> list[dict]:
        ids = (image["id"] for image in coco["images"] if image["id"] not in images)
        box = {"category_id": own, "bbox": [0, 0, 1, 1], "score": 1.0}
        return [{"image_id": id_, **box} for id_ in ids]

    return assign(
        {
            "images": coco["images"],
            "categories": [*coco["categories"], {"id": own, "name": name}],
            "annotations": [*coco["annotations"], *nothing(annotated)],
        },
        [*results, *nothing(detected)],
        iou_thresholds,
        rule="voc",
    )


def open_images(coco: dict, results: Sequence[dict], iou_thresholds: Sequence[float]) -> Assignment:
    """
    Assign by Open Images' rules: a box is also one of each class above its own, and a crowd
    ("group of") is found by the best detection inside it, the others inside count nothing.

    Detections are expanded in the same way, unless they already are. An image with
    `neg_category_ids` is judged only on these classes and those annotated in it.
    """
    if parents := read_hierarchy(HIERARCHY, coco["categories"]):
        coco = {**coco, "annotations": _expand(coco["annotations"], parents)}
        results = _expand(results, parents)
    verified = {
        i["id"]: set(i["neg_category_ids"]) for i in coco["images"] if "neg_category_ids" in i
    }
    if verified:
        for annotation in coco["annotations"]:
            verified.get(annotation["image_id"], set()).add(annotation["category_id"])
        results = [
            r
            for r in results
            if r["image_id"] not in verified or r["category_id"] in verified[r["image_id"]]
        ]
    return assign(coco, results, iou_thresholds, rule="open_images", limit=None)


def read_hierarchy(path: str, categories: Sequence[dict]) -> dict[int, set[int]]:
    """
    {category id: the ids of the classes above it}, of Open Images' `{"LabelName", "Subcategory"}`.

    Classes above that are no categories are left out; without a file there are none at all.

    Raises:
        UserError: the file is malformed, or does not know a category.
    """
    file = Path(in_project(path))
    if not file.is_file():
        logger.warning(f"{path} is not there: AP50 without the hierarchy of classes")
        return {}
    above = {}

    def walk(node: dict, path: tuple[str, ...]) -> None:
        above.setdefault(node["LabelName"], set()).update(path)
        for child in node.get("Subcategory", ()):
            walk(child, (*path, node["LabelName"]))

    try:
        walk(json.loads(file.read_text(encoding="utf-8")), ())
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as e:
        raise UserError(
            f"{path}: is no hierarchy of LabelName and Subcategory ({e!r}); fetch it again"
        ) from e
    ids = {c["name"]: c["id"] for c in categories}
    if unknown := [name for name in ids if name not in above]:
        raise UserError(
            f"{path}: does not know the class {unknown[0]!r} ({len(unknown)} of {len(ids)}); its "
            "LabelName have to be the names in CLASSES"
        )
    return {id_: {ids[n] for n in above[name] if n in ids} for name, id_ in ids.items()}


def _expand(records: Sequence[dict], parents: dict[int, set[int]]) -> list[dict]:
    expanded = {}
    for record in records:
        for category_id in (record["category_id"], *sorted(parents[record["category_id"]])):
            key = record["image_id"], category_id, *record["bbox"], record.get("score")
            expanded.setdefault(key, {**record, "category_id": category_id})
    return list(expanded.values())


# ---- metrics for which each detection counts ----


def mean_accuracy(definition: str, iou_thresholds: Sequence[float]) -> Metric:
    """
    The mean over IoU thresholds and images of TP / (TP + FP + FN).

    An image without boxes is 0 if anything is detected in it, and left out of the mean otherwise.
    """
    return Metric(
        definition,
        partial(assign, iou_thresholds=iou_thresholds, one_class=True, limit=None),
        curve=_mean_accuracy_curve,
        average=_mean_accuracies,
    )


def _mean_accuracies(
    found: np.ndarray, counted: np.ndarray, positives: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    ratio = found / np.maximum(positives + counted - found, 1)
    number = weights @ ((positives > 0) | (counted > 0)).T
    total = weights @ ratio.T
    return np.divide(total, number, np.full(total.shape, np.nan), where=number > 0).mean(axis=1)


def _mean_accuracy_curve(assignment: Assignment, weights: np.ndarray) -> np.ndarray:
    positives = assignment.positives[:, 0]
    order = np.argsort(assignment.images, kind="stable")
    images = assignment.images[order]
    starts = np.flatnonzero(np.append(True, np.diff(images) != 0)[: len(images)])
    values = []
    for hits, ignored in zip(assignment.hits, assignment.ignored, strict=True):

        def so_far(flags: np.ndarray) -> np.ndarray:
            """The sum within the image, up to and with each detection."""
            sums = flags[order].cumsum()
            before = np.append(0, sums)[starts]
            return sums - np.repeat(before, np.diff(np.append(starts, len(images))))

        found, counted = so_far(hits), so_far(~ignored)
        ratio = found / np.maximum(positives[images] + counted - found, 1)
        gain = np.diff(ratio, prepend=0)
        gain[starts] = ratio[starts]
        in_order = np.empty(len(order))
        in_order[order] = gain * weights[images]
        # an image without boxes joins the mean with its first detection
        joins = np.zeros(len(order))
        counts = ~ignored & (positives[assignment.images] == 0)
        at = np.flatnonzero(counts)
        joins[at[position_in_group(assignment.images[at]) == 0]] = 1
        joins *= weights[assignment.images]
        number = weights[positives > 0].sum() + np.append(0, joins.cumsum()[assignment.last])
        total = np.append(0, in_order.cumsum()[assignment.last])
        values.append(np.divide(total, number, np.full(len(total), np.nan), where=number > 0))
    return np.mean(values, axis=0)


def mean_f_score(definition: str, beta: float, iou_thresholds: Sequence[float]) -> Metric:
    """The mean over IoU thresholds of the F-score, from the counts over all images."""
    return Metric(
        definition,
        partial(assign, iou_thresholds=iou_thresholds, one_class=True, limit=None),
        curve=partial(_f_score_curve, beta=beta),
        average=partial(_f_scores, beta=beta),
    )


def _f_scores(
    found: np.ndarray, counted: np.ndarray, positives: np.ndarray, weights: np.ndarray, beta: float
) -> np.ndarray:
    total = weights @ (counted + beta**2 * positives).T
    hits = (1 + beta**2) * (weights @ found.T)
    exists = np.broadcast_to((weights @ positives > 0)[:, None], hits.shape)
    return np.divide(hits, total, np.full(hits.shape, np.nan), where=exists).mean(axis=1)


def _f_score_curve(assignment: Assignment, weights: np.ndarray, beta: float) -> np.ndarray:
    positives = weights @ assignment.positives[:, 0]
    if not positives:
        return np.full(len(assignment.thresholds), np.nan)
    times = weights[assignment.images]
    counts = np.stack([assignment.hits * times, ~(assignment.hits | assignment.ignored) * times])
    found, false = np.pad(counts.cumsum(axis=2)[:, :, assignment.last], ((0, 0), (0, 0), (1, 0)))
    square = beta**2
    return ((1 + square) * found / (found + false + square * positives)).mean(axis=0)


# ---- your own ----


def custom(coco: dict, results: Sequence[dict]) -> float:
    """
    The metric of the format "custom", to be replaced by your competition's: any number of which
    more is better.

    Here, as an example: the share of images whose number of objects is right, counting detections
    from a score of 0.5.

    Args:
        coco: a parsed COCO json with annotations.
        results: `[{image_id, category_id, bbox: [x, y, w, h] in pixels, score}]`.
    """
    wanted = Counter(a["image_id"] for a in coco["annotations"] if not a.get("iscrowd"))
    counted = Counter(r["image_id"] for r in results if r["score"] >= 0.5)
    ids = [image["id"] for image in coco["images"]]
    return sum(wanted[id_] == counted[id_] for id_ in ids) / len(ids)


METRICS = {
    "mAP50": mean_average_precision(
        "The mean over classes of AP at IoU 0.5, as COCO's AP50 (pycocotools: precision at 101 "
        "recalls, 100 detections per image and class, crowds ignored).",
        [0.5],
    ),
    "coco_AP": mean_average_precision(
        "COCO's AP at IoU 0.50:0.95, https://cocodataset.org/#detection-eval, as pycocotools "
        "computes it.",
        _range(0.5, 0.95),
    ),
    "wheat_mAP": mean_accuracy(
        "Global Wheat Detection, https://www.kaggle.com/c/global-wheat-detection/overview/"
        "evaluation: the mean over images and over IoU 0.50:0.75 of TP / (TP + FP + FN). The page "
        "has IoU > t, public implementations and this one have IoU >= t.",
        _range(0.5, 0.75),
    ),
    "rsna_mAP": mean_accuracy(
        "RSNA Pneumonia Detection, https://www.kaggle.com/c/rsna-pneumonia-detection-challenge/"
        "overview/evaluation: as Global Wheat over IoU 0.40:0.75. An image without boxes is 0 with "
        "any detection; without one it is left out of the mean, as in the public map_iou.",
        _range(0.4, 0.75),
    ),
    "cots_F2": mean_f_score(
        "Great Barrier Reef, https://www.kaggle.com/c/tensorflow-great-barrier-reef/overview/"
        "evaluation: the mean over IoU 0.30:0.80 of F2, from the counts over all images; IoU >= t "
        "as in the public competition-metric-implementation.",
        beta=2,
        iou_thresholds=_range(0.3, 0.8),
    ),
    "vinbigdata_mAP40": mean_average_precision(
        "VinBigData Chest X-ray, https://www.kaggle.com/c/vinbigdata-chest-xray-abnormalities-"
        "detection/overview/evaluation: PASCAL VOC 2010's mAP at IoU 0.4 (http://host.robots.ox.ac"
        ".uk/pascal/VOC/voc2010/devkit_doc_08-May-2010.pdf, 3.4.1), with the class No finding.",
        [0.4],
        partial(with_none_class, name="No finding"),
        every_recall=True,
    ),
    "siim_mAP50": mean_average_precision(
        "SIIM-FISABIO-RSNA COVID-19, https://www.kaggle.com/c/siim-covid19-detection/overview/"
        "evaluation: PASCAL VOC 2010's mAP at IoU 0.5 with the class none. The labels of whole "
        "studies, which count there too, are not boxes and not in it.",
        [0.5],
        partial(with_none_class, name="none"),
        every_recall=True,
    ),
    "open_images_mAP50": mean_average_precision(
        "Open Images Challenge, https://storage.googleapis.com/openimages/web/evaluation.html: "
        "PASCAL VOC 2010's mAP at IoU 0.5, each box also one of the classes above its own, "
        "group-of boxes as in TensorFlow's OpenImagesChallengeEvaluator.",
        [0.5],
        open_images,
        every_recall=True,
    ),
    "custom": Metric("The function `custom` above.", whole=custom),
}


def find_metric(name: str) -> Metric:
    """The metric of that name; UserError if there is none."""
    if name not in METRICS:
        raise UserError(f"there is no metric {name!r}; METRICS has {', '.join(METRICS)}")
    return METRICS[name]


def named_scores(name: str, score: Score) -> dict[str, float]:
    """{metric: value, metric-class: value …}, as training logs them under `competition/`."""
    return {name: score.value} | {f"{name}-{c}": value for c, value in score.per_class.items()}


def describe(score: Score) -> str:
    """The value, and from which score on detections count."""
    at = "" if score.threshold is None else f", of detections from a score of {score.threshold:.3f}"
    return f"{score.value:.4f}{at}"
