"""
Which detections find which boxes at IoU 0.5, and what is wrong with the others.

hotcoco matches; the kinds of errors are TIDE's (Bolya et al., 2020, arXiv:2008.08115).
"""

from dataclasses import dataclass

import numpy as np
from hotcoco import COCOeval, mask

from detection.evaluation.average_precision import evaluate

MIN_IOU = 0.5  # of a detection with the box that it finds
MIN_OVERLAP = 0.1  # IoU below which a detection has nothing to do with a box

KINDS = ("correct", "class", "place", "both", "duplicate", "background", "ignored")
CORRECT, CLASS, PLACE, BOTH, DUPLICATE, BACKGROUND, IGNORED = range(len(KINDS))


@dataclass(frozen=True)
class BoxTable:
    """N boxes in the order of their file; images and classes by the rank of their ids."""

    images: np.ndarray  # (N,)
    labels: np.ndarray  # (N,)
    boxes: np.ndarray  # (N, 4): x, y, width, height in pixels
    scores: np.ndarray  # (N,): from 0 to 1; annotations have 1, crowd regions 0

    def by_image(self, num_images: int) -> list[np.ndarray]:
        """Positions of each image's boxes, the best score first."""
        order = np.lexsort((-self.scores, self.images))
        ends = np.searchsorted(self.images[order], np.arange(1, num_images))
        return np.split(order, ends)


@dataclass(frozen=True)
class Matches:
    """D detections on I images with N annotated boxes."""

    num_images: int
    truth: BoxTable  # N
    detections: BoxTable  # D
    kinds: np.ndarray  # (D,): positions in KINDS
    partners: np.ndarray  # (D,): the annotated box that is found or confused; -1 without one
    overlaps: np.ndarray  # (D,): the IoU with it

    @property
    def is_real(self) -> np.ndarray:
        """Bool (N,): not a crowd region."""
        return self.truth.scores > 0

    @property
    def found(self) -> np.ndarray:
        """Bool (N,): a detection of its class finds it."""
        return self._is_partner_of(CORRECT)

    @property
    def missed(self) -> np.ndarray:
        """Bool (N,): not found, and no detection of a wrong class or place is about it."""
        return self.is_real & ~self._is_partner_of(CORRECT, CLASS, PLACE)

    def _is_partner_of(self, *kinds: int) -> np.ndarray:
        partners = np.zeros(len(self.truth.images), bool)
        partners[self.partners[np.isin(self.kinds, kinds)]] = True
        return partners


def match(coco: dict, results: list[dict]) -> Matches:
    """
    Match as COCO does at IoU 0.5: the best score first, each to the free box of its class that it
    overlaps most. Ignored are detections in a crowd region of their class, and those beyond the 100
    best of a class in an image.

    Args:
        coco: a parsed COCO json.
        results: detections on it, in COCO's results format.
    """
    images = {id_: k for k, id_ in enumerate(sorted(i["id"] for i in coco["images"]))}
    classes = {id_: k for k, id_ in enumerate(sorted(c["id"] for c in coco["categories"]))}

    def table(records: list[dict], scores: list[float]) -> BoxTable:
        return BoxTable(
            np.array([images[r["image_id"]] for r in records], int),
            np.array([classes[r["category_id"]] for r in records], int),
            np.array([r["bbox"] for r in records], float).reshape(-1, 4),
            np.array(scores, float),
        )

    annotations = coco["annotations"]
    truth = table(annotations, [0 if a.get("iscrowd") else 1 for a in annotations])
    detections = table(results, [r["score"] for r in results])
    kinds, partners = _match(coco, results)
    matches = Matches(len(images), truth, detections, kinds, partners, np.zeros(len(results)))
    real = [t[matches.is_real[t]] for t in truth.by_image(len(images))]
    for annotated, detected in zip(real, detections.by_image(len(images)), strict=True):
        if len(annotated) and len(detected):
            _name_errors(matches, annotated, detected)
    return matches


def _match(coco: dict, results: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Kinds (D,), correct, ignored and for all others background; partners (D,)."""
    whole = evaluate(coco, results)
    evaluation = COCOeval(whole.coco_gt, whole.coco_dt, "bbox")
    evaluation.params.iou_thrs = [MIN_IOU]
    evaluation.params.area_rng = evaluation.params.area_rng[:1]
    evaluation.evaluate()
    kinds, partners = np.full(len(results), IGNORED), np.full(len(results), -1)
    for entry in filter(None, evaluation.eval_imgs):
        detected = np.array(entry["dtIds"], int) - 1  # ids are positions, counted from 1
        is_ignored = np.array(entry["dtIgnore"][0], bool)
        is_correct = np.array(entry["dtMatched"][0], bool) & ~is_ignored
        kinds[detected] = np.select([is_ignored, is_correct], [IGNORED, CORRECT], BACKGROUND)
        partners[detected[is_correct]] = np.array(entry["dtMatches"][0])[is_correct] - 1
    return kinds, partners


def _name_errors(matches: Matches, annotated: np.ndarray, detected: np.ndarray) -> None:
    """Fill in kinds, partners and IoUs of one image's false detections, and IoUs of the correct."""
    truth, detections = matches.truth, matches.detections
    iou = box_iou(detections.boxes[detected], truth.boxes[annotated])
    is_own = detections.labels[detected, None] == truth.labels[annotated]
    own, other = np.where(is_own, iou, 0), np.where(is_own, 0, iou)
    best, best_other = own.max(axis=1), other.max(axis=1)
    kinds = np.select(
        [
            (best >= MIN_OVERLAP) & (best < MIN_IOU),
            best_other >= MIN_IOU,
            best >= MIN_IOU,
            best_other >= MIN_OVERLAP,
        ],
        [PLACE, CLASS, DUPLICATE, BOTH],
        BACKGROUND,
    )
    columns = np.where(np.isin(kinds, (CLASS, BOTH)), other.argmax(axis=1), own.argmax(axis=1))
    is_false = matches.kinds[detected] == BACKGROUND
    matches.kinds[detected[is_false]] = kinds[is_false]
    has_partner = is_false & (kinds != BACKGROUND)
    matches.partners[detected[has_partner]] = annotated[columns[has_partner]]
    rows = np.flatnonzero(matches.partners[detected] >= 0)
    position = {box: k for k, box in enumerate(annotated)}
    columns = [position[p] for p in matches.partners[detected[rows]]]
    matches.overlaps[detected[rows]] = iou[rows, columns]


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(A, B): the IoU of boxes (x, y, w, h)."""
    return mask.bbox_iou(a, b, [False] * len(b))
