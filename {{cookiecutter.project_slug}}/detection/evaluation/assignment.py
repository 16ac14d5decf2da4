"""Which detections find an annotated box, at several IoU thresholds; vectorised over all images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

LIMIT = 100  # detections of a class that count per image, the best ones: COCO's limit
CHUNK = 2_000_000  # pairs of a detection and a box that are compared at once


@dataclass(frozen=True)
class Assignment:
    """D detections, by descending score, against the boxes of I images and K classes."""

    images: np.ndarray  # (D,): ranks of the image ids
    labels: np.ndarray  # (D,): ranks of the category ids
    scores: np.ndarray  # (D,)
    hits: np.ndarray  # bool (T, D): finds a box at each IoU threshold
    ignored: np.ndarray  # bool (T, D): neither right nor wrong
    positives: np.ndarray  # int (I, K): boxes to find
    names: tuple[str, ...]  # of the K classes

    @cached_property
    def by_class(self) -> list[np.ndarray]:
        """The positions of each class's detections."""
        order = np.argsort(self.labels, kind="stable")
        ends = np.searchsorted(self.labels[order], np.arange(1, len(self.names)))
        return np.split(order, ends)

    @cached_property
    def thresholds(self) -> np.ndarray:
        """(S + 1,): the distinct scores, descending; before them one that keeps no detection."""
        return np.append(np.inf, self.scores[self.last])

    @cached_property
    def last(self) -> np.ndarray:
        """(S,): the position of the last detection of each distinct score."""
        return np.flatnonzero(np.append(np.diff(self.scores) != 0, [True] * bool(self.scores.size)))


def assign(
    coco: dict,
    results: Sequence[dict],
    iou_thresholds: Sequence[float],
    rule: str = "coco",
    one_class: bool = False,
    limit: int | None = LIMIT,
) -> Assignment:
    """
    Assign detections to annotated boxes of their image and class, the best score first.

    Args:
        coco: a parsed COCO json; its crowd regions are found by whatever is inside.
        results: detections in COCO's results format.
        iou_thresholds: a detection finds a box if their IoU is at least so much.
        rule: which box a detection takes. "coco": of those that are not found yet, the one that
            overlaps most. "voc": the one that overlaps most, and found before it is a false
            positive. "open_images": as "voc", but a crowd region is a box to find too.
        one_class: all classes count as one, "any class".
        limit: so many detections per image and class count; None: all.
    """
    image_ids = sorted(i["id"] for i in coco["images"])
    categories = sorted((c["id"], c["name"]) for c in coco["categories"])
    names = ("any class",) if one_class else tuple(name for _, name in categories)
    rank = {id_: k for k, id_ in enumerate(image_ids)}
    label = {id_: 0 if one_class else k for k, (id_, _) in enumerate(categories)}

    def arrays(records: Sequence[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        images = np.fromiter((rank[r["image_id"]] for r in records), int, len(records))
        labels = np.fromiter((label[r["category_id"]] for r in records), int, len(records))
        boxes = np.fromiter((v for r in records for v in r["bbox"]), float, 4 * len(records))
        return images, labels, boxes.reshape(-1, 4)

    annotations = coco.get("annotations", [])
    true_images, true_labels, true_boxes = arrays(annotations)
    is_crowd = np.array([bool(a.get("iscrowd")) for a in annotations], bool)
    images, labels, boxes = arrays(results)
    scores = np.fromiter((r["score"] for r in results), float, len(results))
    order = np.lexsort((images, -scores))  # stable: of equal scores, the images' order
    if limit is not None:
        order = order[position_in_group(images[order] * len(names) + labels[order]) < limit]
    images, labels, boxes, scores = images[order], labels[order], boxes[order], scores[order]

    detections, truths, overlaps = _pairs(
        *(images * len(names) + labels, boxes),
        *(true_images * len(names) + true_labels, true_boxes, is_crowd),
        lowest=min(iou_thresholds),
    )
    crowded = is_crowd[truths]
    hits = np.zeros((len(iou_thresholds), len(order)), bool)
    ignored = np.zeros_like(hits)
    choose = _coco if rule == "coco" else _voc
    for t, iou in enumerate(iou_thresholds):
        near = overlaps >= iou
        plain = near & ~crowded
        hits[t] = choose(detections[plain], truths[plain], overlaps[plain], len(order))
        inside = np.zeros(len(order), bool)
        inside[detections[near & crowded]] = True
        ignored[t] = inside & ~hits[t]
        if rule == "open_images":
            crowd = near & crowded & ~hits[t][detections]
            first = _voc(detections[crowd], truths[crowd], overlaps[crowd], len(order))
            hits[t] |= first
            ignored[t] &= ~first
    counted = np.ones(len(is_crowd), bool) if rule == "open_images" else ~is_crowd
    positives = np.zeros((len(image_ids), len(names)), int)
    np.add.at(positives, (true_images[counted], true_labels[counted]), 1)
    return Assignment(images, labels, scores, hits, ignored, positives, names)


def position_in_group(groups: np.ndarray) -> np.ndarray:
    """How many members of the same group come before each."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(groups[order]) != 0)[: len(order)])
    positions = np.empty(len(groups), int)
    sizes = np.diff(np.append(starts, len(order)))
    positions[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return positions


def _pairs(
    groups: np.ndarray,
    boxes: np.ndarray,
    true_groups: np.ndarray,
    true_boxes: np.ndarray,
    is_crowd: np.ndarray,
    lowest: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(detection, annotated box, IoU) of those of one group whose IoU is `lowest` or more."""
    order = np.argsort(true_groups, kind="stable")
    starts = np.searchsorted(true_groups[order], groups, "left")
    counts = np.searchsorted(true_groups[order], groups, "right") - starts
    found = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    ends = np.cumsum(counts)
    first = 0
    while first < len(groups):
        before = ends[first - 1] if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + CHUNK, "right")))
        some = counts[first:stop]
        d = np.repeat(np.arange(first, stop), some)
        offset = np.arange(len(d)) - np.repeat(np.cumsum(some) - some, some)
        g = order[np.repeat(starts[first:stop], some) + offset]
        iou = _iou(boxes[d], true_boxes[g], is_crowd[g])
        near = iou >= lowest
        found.append((d[near], g[near], iou[near]))
        first = stop
    detections, truths, overlaps = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return detections, truths, overlaps


def _iou(boxes: np.ndarray, truths: np.ndarray, is_crowd: np.ndarray) -> np.ndarray:
    """IoU of N pairs of (x, y, w, h); with a crowd region, the share of the box inside it."""
    near = np.maximum(boxes[:, :2], truths[:, :2])
    far = np.minimum(boxes[:, :2] + boxes[:, 2:], truths[:, :2] + truths[:, 2:])
    shared = np.prod(np.maximum(far - near, 0), axis=1)
    area = boxes[:, 2] * boxes[:, 3]
    whole = np.where(is_crowd, area, area + truths[:, 2] * truths[:, 3] - shared)
    return np.divide(shared, whole, out=np.zeros(len(shared)), where=whole > 0)


def _voc(d: np.ndarray, g: np.ndarray, iou: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` detections come first to the box that each overlaps most."""
    order = np.lexsort((g, -iou, d))  # of equals the first box
    d, g = d[order], g[order]
    _, best = np.unique(d, return_index=True)  # sorted by d: by score
    _, first = np.unique(g[best], return_index=True)
    hits = np.zeros(count, bool)
    hits[d[best][first]] = True
    return hits


def _coco(d: np.ndarray, g: np.ndarray, iou: np.ndarray, count: int) -> np.ndarray:
    """
    Which of `count` detections find a box if each in turn takes the best that is left.

    All propose to their best box at once, and each box keeps the detection of the best score;
    those refused propose again. This ends where taking turns by score does, in a few rounds.
    """
    order = np.lexsort((-g, -iou, d))  # of equals the last box, as in COCO's loop
    d, g = d[order], g[order]
    owner = np.full(g.max(initial=-1) + 1, count)
    hits = np.zeros(count, bool)
    while len(d):
        _, best = np.unique(d, return_index=True)
        np.minimum.at(owner, g[best], d[best])
        # a box that a better detection holds is out of reach for good
        alive = d <= owner[g]
        if alive.all():
            break
        d, g = d[alive], g[alive]
    hits[owner[owner < count]] = True
    return hits
