"""Counts a model's errors at IoU 0.5, and what they cost."""

from typing import NamedTuple

import numpy as np
from hotcoco import COCOeval

from detection.evaluation.matching import (
    BACKGROUND,
    CLASS,
    CORRECT,
    IGNORED,
    MIN_IOU,
    MIN_OVERLAP,
    Matches,
    box_iou,
)

# TIDE's name, what it is called here, and what it is
ERRORS = (
    ("Cls", "classification", "on a box of another class, IoU 0.5 or more"),
    ("Loc", "localisation", "on a box of its class, but IoU under 0.5"),
    ("Both", "both", "on a box of another class, and IoU under 0.5"),
    ("Dupe", "duplicate", "on a box that a better one has found"),
    ("Bkg", "background", "on nothing annotated, IoU under 0.1"),
    ("Miss", "missed", "annotated boxes without any of the first two"),
)


class ErrorCost(NamedTuple):
    """One of TIDE's kinds of errors."""

    name: str
    meaning: str
    count: int
    cost: float  # percentage points that AP50 would gain without it


class Threshold(NamedTuple):
    """The lowest score to keep for the best F1; score NaN where no detection is correct."""

    score: float
    f1: float
    precision: float
    recall: float


def error_costs(evaluation: COCOeval) -> list[ErrorCost]:
    """
    How often TIDE's kinds of errors occur, and what each costs in AP50.

    Args:
        evaluation: hotcoco's, as `average_precision.evaluate` returns it.

    Returns:
        In the order of ERRORS.
    """
    tide = evaluation.tide_errors(pos_thr=MIN_IOU, bg_thr=MIN_OVERLAP)
    return [
        ErrorCost(name, meaning, tide["counts"][key], 100 * tide["delta_ap"][key])
        for key, name, meaning in ERRORS
    ]


def best_threshold(scores: np.ndarray, is_correct: np.ndarray, boxes: int) -> Threshold:
    """
    The lowest score to keep for the best F1 at IoU 0.5.

    Args:
        scores: (D,) of detections.
        is_correct: bool (D,).
        boxes: how many there are to be found.
    """
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(is_correct[order])
    # a threshold keeps all of a score or none
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else []
    if not len(scores) or not found[-1] or not boxes:
        return Threshold(float("nan"), 0.0, 0.0, 0.0)
    f1 = 2 * found[ends] / (ends + 1 + boxes)
    best = ends[f1.argmax()]
    return Threshold(
        float(scores[best]), float(f1.max()), found[best] / (best + 1), found[best] / boxes
    )


def thresholds(matches: Matches, num_classes: int) -> tuple[Threshold, list[Threshold]]:
    """The threshold with the best F1 of all classes together, and that of each class."""
    detections, truth = matches.detections, matches.truth
    counted, is_correct = matches.kinds != IGNORED, matches.kinds == CORRECT

    def best(kept: np.ndarray, wanted: np.ndarray) -> Threshold:
        return best_threshold(detections.scores[kept], is_correct[kept], int(wanted.sum()))

    by_class = [
        best(counted & (detections.labels == k), matches.is_real & (truth.labels == k))
        for k in range(num_classes)
    ]
    return best(counted, matches.is_real), by_class


def confusion(matches: Matches, num_classes: int, min_score: float) -> np.ndarray:
    """
    Which classes are taken for which, at IoU 0.5, by detections of `min_score` and up.

    Boxes go to detections of their own class first. A detection left over is on a box of another
    class, a free one if there is one; else it is a duplicate, or on background.

    Returns:
        (C + 2, C + 1): detections, once each, by the class of their box, then duplicates and those
        on background, and by their own class; in the last column the boxes with no detection.
    """
    truth, detections = matches.truth, matches.detections
    rows = np.full(len(detections.labels), num_classes + 1)
    kept = (detections.scores >= min_score) & (matches.kinds != IGNORED)
    correct = kept & (matches.kinds == CORRECT)
    rows[correct] = detections.labels[correct]
    is_free = matches.is_real
    is_free[matches.partners[correct]] = False
    is_left = kept & ~correct
    for annotated, detected in zip(
        truth.by_image(matches.num_images), detections.by_image(matches.num_images), strict=True
    ):
        detected = detected[is_left[detected]]
        annotated = annotated[matches.is_real[annotated]]
        if not len(detected) or not len(annotated):
            continue
        ious = box_iou(detections.boxes[detected], truth.boxes[annotated])
        for d, iou in zip(detected, ious, strict=True):
            other = np.where(truth.labels[annotated] != detections.labels[d], iou, 0)
            free = np.where(is_free[annotated], other, 0)
            best = annotated[(free if free.max() >= MIN_IOU else other).argmax()]
            if other.max() >= MIN_IOU:
                rows[d] = truth.labels[best]
                is_free[best] = False
            elif iou.max() >= MIN_IOU:
                rows[d] = num_classes
    matrix = np.zeros((num_classes + 2, num_classes + 1), int)
    np.add.at(matrix, (rows[kept], detections.labels[kept]), 1)
    matrix[:num_classes, -1] = np.bincount(truth.labels[is_free], minlength=num_classes)
    return matrix


def box_costs(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """
    What each box costs: a false detection its score; an annotated one 1 less the score of the
    detection that found it. A perfect and certain model costs nothing, and no threshold is needed.

    Returns:
        (N,) of the annotated boxes, and (D,) of the detections.
    """
    scores, missing = matches.detections.scores, matches.is_real.astype(float)
    correct = matches.kinds == CORRECT
    missing[matches.partners[correct]] -= scores[correct]
    is_false = (matches.kinds >= CLASS) & (matches.kinds <= BACKGROUND)
    return missing, np.where(is_false, scores, 0.0)


def image_costs(matches: Matches) -> np.ndarray:
    """(I,): the sum of what the boxes of each image cost."""
    missing, false = box_costs(matches)
    return np.bincount(matches.truth.images, missing, matches.num_images) + np.bincount(
        matches.detections.images, false, matches.num_images
    )
