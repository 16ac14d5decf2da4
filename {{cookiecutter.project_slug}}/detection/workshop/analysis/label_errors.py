"""
Probable errors of annotations: where a model that was not trained on them disagrees for sure.

hotcoco's `image_diagnostics` lists candidates too, but no missing box that overlaps another one.
"""

import numpy as np

from detection.checks.reviews import LOOSE_BOX, MISSING_BOX, WRONG_LABEL, Suggestion
from detection.evaluation.matching import (
    CORRECT,
    IGNORED,
    MIN_IOU,
    MIN_OVERLAP,
    Matches,
    box_iou,
)

TIGHT_IOU = 0.75  # from which a box is as good as the detection


def find_label_errors(coco: dict, matches: Matches, min_score: float = 0.3) -> list[Suggestion]:
    """
    Suggest corrections of annotations from out-of-fold detections.

    A suggestion's score is that of its detection, times what speaks against the annotation: for a
    wrong label 1 less the score with which the box is found as its own class, for a loose box 1
    less the IoU with it.

    Args:
        coco: the json that `matches` are on.
        min_score: of a detection that suggests something.

    Returns:
        The surest first; one per annotation and kind, and one per place of a missing box.
    """
    truth, detections = matches.truth, matches.detections
    images = sorted(coco["images"], key=lambda image: image["id"])
    names = [c["name"] for c in sorted(coco["categories"], key=lambda c: c["id"])]
    is_usable = (detections.scores >= min_score) & (matches.kinds != IGNORED)
    is_usable &= (detections.boxes[:, 2:] > 0).all(axis=1)
    suggestions = []
    for image, annotated, detected in zip(
        images,
        truth.by_image(matches.num_images),
        detections.by_image(matches.num_images),
        strict=True,
    ):
        annotated = annotated[matches.is_real[annotated]]
        detected = detected[is_usable[detected]]
        for kind, score, d, a in _of_image(matches, annotated, detected):
            old = None if a is None else coco["annotations"][a]
            # a box whose label is wrong keeps its place
            box = old["bbox"] if kind == WRONG_LABEL else detections.boxes[d].tolist()
            name = names[detections.labels[d]]
            suggestions.append(Suggestion(kind, score, image, old, name, tuple(box)))
    return sorted(suggestions, key=lambda s: -s.score)


def _of_image(
    matches: Matches, annotated: np.ndarray, detected: np.ndarray
) -> list[tuple[str, float, int, int | None]]:
    """
    What the detections of an image suggest, given the positions of its boxes.

    Returns:
        (kind, score, position of the detection, position of the annotation).
    """
    truth, detections = matches.truth, matches.detections
    correct = detected[matches.kinds[detected] == CORRECT]
    found_with = dict(zip(matches.partners[correct], detections.scores[correct], strict=True))
    missing, suggested, suggestions = [], set(), []
    for d in detected:  # the best score first
        box, score = detections.boxes[d], detections.scores[d]
        ious = box_iou(box[None], truth.boxes[annotated])[0]
        own_ious = np.where(truth.labels[annotated] == detections.labels[d], ious, 0)
        kind, a, iou, own_iou = None, None, ious.max(initial=0), own_ious.max(initial=0)
        if matches.kinds[d] == CORRECT:
            if matches.overlaps[d] < TIGHT_IOU:
                kind, a, iou = LOOSE_BOX, matches.partners[d], matches.overlaps[d]
        elif iou >= MIN_IOU:
            if own_iou < MIN_IOU:  # else it is a duplicate
                kind, a = WRONG_LABEL, annotated[ious.argmax()]
                iou = found_with.get(a, 0)
        elif own_iou >= MIN_OVERLAP and annotated[own_ious.argmax()] not in found_with:
            kind, a, iou = LOOSE_BOX, annotated[own_ious.argmax()], own_iou
        elif not missing or box_iou(box[None], np.array(missing)).max() < MIN_IOU:
            kind, iou = MISSING_BOX, 0.0  # a neighbour is no sign that there is nothing
            missing.append(box)
        if kind and (a is None or (kind, a) not in suggested):
            suggested.add((kind, a))
            suggestions.append((kind, float(score * (1 - iou)), d, a))
    return suggestions
