"""
Which detections found which boxes at IoU 0.5, and what is wrong with those that found none.

The kinds of errors are TIDE's (Bolya et al., 2020, arXiv:2008.08115).
"""

from dataclasses import dataclass

import numpy as np

IOU = 0.5  # of a detection with the box that it finds


TOUCH = 0.1  # IoU below which a detection has nothing to do with a box


MOST = 100  # detections of a class in an image that count, the best ones: COCO's limit


KINDS = ("correct", "class", "place", "both", "duplicate", "background", "ignored")


CORRECT, CLASS, PLACE, BOTH, DUPLICATE, BACKGROUND, IGNORED = range(len(KINDS))


@dataclass(frozen=True)
class Boxes:
    """N boxes; images and classes by the rank of their ids in the annotation file."""

    images: np.ndarray  # (N,)
    labels: np.ndarray  # (N,)
    boxes: np.ndarray  # (N, 4): x, y, width, height in pixels
    scores: np.ndarray  # (N,): from 0 to 1; of annotations 1, of crowd regions 0

    def of_image(self, number_of_images: int) -> list[np.ndarray]:
        """Positions of each image's boxes, the best score first."""
        order = np.lexsort((-self.scores, self.images))
        ends = np.searchsorted(self.images[order], np.arange(1, number_of_images))
        return np.split(order, ends)


@dataclass(frozen=True)
class Matches:
    """D detections against N annotated boxes."""

    kinds: np.ndarray  # (D,): positions in KINDS
    partners: np.ndarray  # (D,): the annotated box found or confused with; -1 for background
    overlaps: np.ndarray  # (D,): the IoU with it
    found: np.ndarray  # bool (N,): by a detection of its class
    missed: np.ndarray  # bool (N,): neither found nor the partner of a wrong class or place


def to_boxes(coco: dict, results: list[dict]) -> tuple[Boxes, Boxes]:
    """Annotations and detections as arrays, in the order of the files."""
    images = {id_: k for k, id_ in enumerate(sorted(i["id"] for i in coco["images"]))}
    classes = {id_: k for k, id_ in enumerate(sorted(c["id"] for c in coco["categories"]))}

    def arrays(records: list[dict], scores: list[float]) -> Boxes:
        return Boxes(
            np.array([images[r["image_id"]] for r in records], int),
            np.array([classes[r["category_id"]] for r in records], int),
            np.array([r["bbox"] for r in records], float).reshape(-1, 4),
            np.array(scores, float),
        )

    annotations = coco["annotations"]
    truth = arrays(annotations, [0 if a.get("iscrowd") else 1 for a in annotations])
    return truth, arrays(results, [r["score"] for r in results])


def match(truth: Boxes, detections: Boxes, number_of_images: int) -> Matches:
    """
    Match as COCO does at IoU 0.5: the best score first, each to the box of its class that overlaps
    most and is not found yet; what lies in a crowd region of its class is ignored.
    """
    matches = Matches(
        np.full(len(detections.images), BACKGROUND),
        np.full(len(detections.images), -1),
        np.zeros(len(detections.images)),
        np.zeros(len(truth.images), bool),
        truth.scores > 0,
    )
    pairs = zip(
        truth.of_image(number_of_images), detections.of_image(number_of_images), strict=True
    )
    for annotated, detected in pairs:
        if len(detected):
            _match_image(truth, detections, annotated, detected, matches)
    matches.missed[matches.found] = False
    covered = np.isin(matches.kinds, (CLASS, PLACE))
    matches.missed[matches.partners[covered]] = False
    return matches


def box_iou(a: np.ndarray, b: np.ndarray, is_crowd: np.ndarray) -> np.ndarray:
    """(A, B) IoU of boxes (x, y, w, h); with a crowd region it is the share of `a` inside it."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum((a[:, :2] + a[:, 2:])[:, None], (b[:, :2] + b[:, 2:])[None])
    shared = (high - low).clip(min=0).prod(axis=2)
    own = a[:, 2:].prod(axis=1)[:, None]
    union = np.where(is_crowd, own, own + b[:, 2:].prod(axis=1) - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _match_image(
    truth: Boxes, detections: Boxes, annotated: np.ndarray, detected: np.ndarray, into: Matches
) -> None:
    """Fill in what concerns one image, whose boxes are at these positions."""
    labels = detections.labels[detected]
    places = np.zeros(len(detected), int)  # among the image's detections of the class
    for label in np.unique(labels):
        members = labels == label
        places[members] = np.arange(members.sum())
    into.kinds[detected[places >= MOST]] = IGNORED
    detected, labels = detected[places < MOST], labels[places < MOST]
    if not len(annotated):
        return
    is_crowd = truth.scores[annotated] == 0
    iou = box_iou(detections.boxes[detected], truth.boxes[annotated], is_crowd)
    is_class = labels[:, None] == truth.labels[annotated][None]
    own = np.where(is_class & ~is_crowd, iou, -1)
    crowd = np.where(is_class & is_crowd, iou, -1).max(axis=1)
    other = np.where(~is_class & ~is_crowd, iou, -1)
    free = ~is_crowd
    for d in np.flatnonzero(own.max(axis=1) >= IOU):
        wanted = np.where(free, own[d], -1)
        best = len(wanted) - 1 - wanted[::-1].argmax()  # the last of equals, as COCO's loop
        if wanted[best] >= IOU:
            free[best] = False
            into.found[annotated[best]] = True
            _note(into, detected[d], CORRECT, annotated[best], wanted[best])
    for d in np.flatnonzero(into.kinds[detected] != CORRECT):
        same, else_ = own[d].argmax(), other[d].argmax()
        if crowd[d] >= IOU:
            into.kinds[detected[d]] = IGNORED
        elif TOUCH <= own[d, same] < IOU:
            _note(into, detected[d], PLACE, annotated[same], own[d, same])
        elif other[d, else_] >= IOU:
            _note(into, detected[d], CLASS, annotated[else_], other[d, else_])
        elif own[d, same] >= IOU:
            _note(into, detected[d], DUPLICATE, annotated[same], own[d, same])
        elif other[d, else_] >= TOUCH:
            _note(into, detected[d], BOTH, annotated[else_], other[d, else_])


def _note(into: Matches, detection: int, kind: int, partner: int, overlap: float) -> None:
    into.kinds[detection], into.partners[detection] = kind, partner
    into.overlaps[detection] = overlap
