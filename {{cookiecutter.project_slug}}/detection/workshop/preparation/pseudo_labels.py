"""
Confident detections on images without annotations, as annotations to train on.

Pseudo-labels as in Lee (2013), with a minimum score for each class.
"""

import math
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from detection.evaluation.error_analysis import thresholds
from detection.evaluation.matching import CORRECT, IGNORED, MIN_IOU, Matches, box_iou, match


class Quality(NamedTuple):
    """How good pseudo-labels are, at IoU 0.5; nan where there is nothing to count."""

    precision: float  # the share of the labels that is right
    recall: float  # the share of the objects that is labelled


def balanced_scores(coco: dict, results: list[dict]) -> dict[int, float]:
    """
    The score of each class above which detections have the best F1, at IoU 0.5.

    What is missed counts as much as what is false: an object without a pseudo-label is background
    to the training.

    Args:
        coco: a parsed COCO file with annotations, that the model was not trained on.
        results: detections on it, in COCO's results format.

    Returns:
        {category id: the lowest score to keep}; inf for a class of which none is correct.
    """
    matches, ids = _matched(coco, results)
    _, of_classes = thresholds(matches, len(ids))
    scores = [math.inf if math.isnan(best.score) else best.score for best in of_classes]
    return dict(zip(ids, scores, strict=True))


def precise_scores(coco: dict, results: list[dict], precision: float) -> dict[int, float]:
    """
    The score of each class above which detections reach a precision, at IoU 0.5.

    Args:
        coco, results: as in `balanced_scores`.
        precision: the least share of the detections kept that must be correct, from 0 to 1.

    Returns:
        {category id: the lowest score to keep}; inf where no score is enough.
    """
    matches, ids = _matched(coco, results)
    detections = matches.detections
    is_correct, is_counted = matches.kinds == CORRECT, matches.kinds != IGNORED
    scores = {}
    for label, category_id in enumerate(ids):
        of_class = np.flatnonzero(is_counted & (detections.labels == label))
        of_class = of_class[np.argsort(-detections.scores[of_class], kind="stable")]
        values = detections.scores[of_class]
        reached = np.cumsum(is_correct[of_class]) / np.arange(1, len(of_class) + 1)
        # a score keeps all of its detections or none
        is_last = np.append(values[1:] != values[:-1], True)[: len(values)]
        enough = values[is_last & (reached >= precision)]
        scores[category_id] = float(enough[-1]) if len(enough) else math.inf
    return scores


def confident(results: list[dict], min_scores: dict[int, float]) -> list[dict]:
    """
    The detections with at least these scores; of several at one place, the best.

    Two boxes of an image that overlap by more than IoU 0.5 are taken for one object, whatever
    their classes: the one with the higher score stays.

    Args:
        results: detections in COCO's results format.
        min_scores: {category id: the lowest score to keep}.

    Returns:
        Those kept, in the order of `results`.
    """
    of_images = defaultdict(list)
    for position, result in enumerate(results):
        if result["score"] >= min_scores[result["category_id"]]:
            of_images[result["image_id"]].append(position)
    kept = []
    for positions in of_images.values():
        positions.sort(key=lambda position: -results[position]["score"])
        boxes = np.array([results[position]["bbox"] for position in positions], float)
        iou = box_iou(boxes, boxes)
        chosen = []
        for k in range(len(boxes)):
            if not (iou[k, chosen] > MIN_IOU).any():
                chosen.append(k)
        kept += [positions[k] for k in chosen]
    return [results[position] for position in sorted(kept)]


def quality(coco: dict, results: list[dict], min_scores: dict[int, float]) -> dict[int, Quality]:
    """
    How good the pseudo-labels of annotated images are; arguments as in the functions above.

    Returns:
        {category id: Quality}, and that of all classes together under None.
    """
    matches, ids = _matched(coco, confident(results, min_scores))
    truth, detections = matches.truth, matches.detections
    is_correct, is_counted = matches.kinds == CORRECT, matches.kinds != IGNORED

    def of(detected: np.ndarray, wanted: np.ndarray) -> Quality:
        correct = int((is_correct & detected).sum())
        counts = int((is_counted & detected).sum()), int((matches.is_real & wanted).sum())
        return Quality(*(correct / count if count else math.nan for count in counts))

    of_ids = {id_: of(detections.labels == k, truth.labels == k) for k, id_ in enumerate(ids)}
    return {**of_ids, None: of(is_counted, matches.is_real)}


def _matched(coco: dict, results: list[dict]) -> tuple[Matches, list[int]]:
    """The matched detections, and the category ids in the order of the labels."""
    return match(coco, results), sorted(c["id"] for c in coco["categories"])


def pseudo_labels(coco: dict, results: list[dict], min_scores: dict[int, float]) -> dict:
    """
    A COCO file of the images with `confident` detections, which become their annotations.

    Images without any are left out: training on them as empty would teach to miss what they show.

    Args:
        coco: the images and categories; its own annotations are ignored.
        results: detections on them, in COCO's results format.
        min_scores: {category id: the lowest score to keep}.

    Returns:
        The parsed file: annotations with their `score`; boxes (x, y, w, h) in pixels, clipped to
        the image, or dropped if nothing is left.
    """
    images = {image["id"]: image for image in coco["images"]}
    annotations = []
    for result in confident(results, min_scores):
        image = images[result["image_id"]]
        x, y, w, h = result["bbox"]
        x1, y1 = max(x, 0), max(y, 0)
        w, h = min(x + w, image["width"]) - x1, min(y + h, image["height"]) - y1
        if min(w, h) <= 0:
            continue
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": result["image_id"],
                "category_id": result["category_id"],
                "bbox": [x1, y1, w, h],
                "area": w * h,
                "iscrowd": 0,
                "score": result["score"],
            }
        )
    labelled = {annotation["image_id"] for annotation in annotations}
    return {
        "images": [image for image in coco["images"] if image["id"] in labelled],
        "annotations": annotations,
        "categories": coco["categories"],
    }
