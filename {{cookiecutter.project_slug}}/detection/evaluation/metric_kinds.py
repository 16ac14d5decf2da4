"""The kinds of metrics that competitions rank by: mean AP, mean accuracy and mean F-score."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from detection.evaluation.assignment import Assignment, assign, position_in_group
from detection.evaluation.metric import Metric

STEPS_OF_RECALL = np.linspace(0, 1, 101)  # of COCO's precision-recall curve


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
