"""Fuses the boxes that several models find, or one model in several views of an image."""

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from signal import SIG_IGN, SIGINT, signal

import numpy as np


def weighted_boxes_fusion(
    boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    Weighted boxes fusion (Solovyev et al., 2021, arXiv:1910.13302): each box joins the cluster
    whose mean, weighted by score, it overlaps most. A cluster's score is the mean of its scores,
    lowered when fewer boxes than members are in it.

    Args:
        boxes: (N, 4) of one class, corners (x1, y1, x2, y2) in any unit.
        scores: (N,) in descending order, each multiplied by its member's weight.
        iou_threshold: a box joins a cluster that it overlaps more than this.
        weights: (M,), one for each member.

    Returns:
        Boxes (K, 4) and scores (K,).
    """
    means, sums = np.zeros_like(boxes), np.zeros_like(boxes)
    totals, counts = np.zeros(len(boxes)), np.zeros(len(boxes), dtype=int)
    size = 0
    for box, score in zip(boxes, scores, strict=True):
        nearest = _nearest(box, means[:size], iou_threshold)
        if nearest is None:
            nearest, means[size] = size, box
            size += 1
        sums[nearest] += score * box
        totals[nearest] += score
        counts[nearest] += 1
        if totals[nearest] > 0:
            means[nearest] = sums[nearest] / totals[nearest]
    agreement = np.minimum(counts[:size], len(weights)) / weights.sum()
    return means[:size], totals[:size] / counts[:size] * agreement


def non_maximum_weighted(
    boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    Non-maximum weighted (Zhou et al., CAD, ICCVW 2017): each box joins the best box that it
    overlaps most; a cluster becomes its mean, weighted by score and by IoU with its best box.

    Arguments and results as those of `weighted_boxes_fusion`; the score is that of the best box.
    """
    best: list[int] = []
    joins = np.zeros(len(boxes), dtype=int)  # the position in `best`
    for k, box in enumerate(boxes):
        nearest = _nearest(box, boxes[best], iou_threshold)
        if nearest is None:
            nearest = len(best)
            best.append(k)
        joins[k] = nearest
    fused = boxes[best]
    for cluster, leader in enumerate(best):
        own = boxes[joins == cluster]
        shares = scores[joins == cluster] * iou(boxes[leader], own)
        if shares.sum() > 0:
            fused[cluster] = np.average(own, axis=0, weights=shares)
    return fused, scores[best] / weights.max()


def suppress(
    boxes: np.ndarray,
    scores: np.ndarray,
    iou_threshold: float,
    weights: np.ndarray,
    sigma: float | None = None,
    min_score: float = 1e-6,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Non-maximum suppression; with `sigma` Gaussian soft-NMS (Bodla et al., 2017, arXiv:1704.04503).

    Arguments and results as those of `weighted_boxes_fusion`, and:
        sigma: a better box lowers the scores of the others by exp(-IoU² / sigma) instead of
            removing those above `iou_threshold`.
        min_score: boxes whose score soft-NMS lowers below it are removed.
    """
    scores = scores / weights.max()
    left, kept = np.arange(len(boxes)), []
    while len(left):
        best = left[scores[left].argmax()]
        kept.append(best)
        left = left[left != best]
        overlaps = iou(boxes[best], boxes[left])
        if sigma is None:
            left = left[overlaps <= iou_threshold]
        else:
            scores[left] *= np.exp(-(overlaps**2) / sigma)
            left = left[scores[left] > min_score]
    return boxes[kept], scores[kept]


METHODS: dict[str, Callable] = {
    "wbf": weighted_boxes_fusion,
    "nmw": non_maximum_weighted,
    "nms": suppress,
    "soft_nms": partial(suppress, sigma=0.5),
}


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N,) IoU of a box (4,) with boxes (N, 4), corners (x1, y1, x2, y2); none is empty."""
    shared = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersection = shared.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return intersection / ((box[2:] - box[:2]).prod() + areas - intersection)


def _nearest(box: np.ndarray, boxes: np.ndarray, iou_threshold: float) -> int | None:
    """The position of the box that overlaps most, and more than the threshold."""
    overlaps = iou(box, boxes)
    return int(overlaps.argmax()) if (overlaps > iou_threshold).any() else None


def fuse(
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    size: tuple[float, float],
    method: str = "wbf",
    iou_threshold: float = 0.55,
    weights: Sequence[float] | None = None,
    max_boxes: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Fuse what M members find in one image; boxes of different classes are never fused.

    Args:
        boxes: M arrays (N, 4) of corners (x1, y1, x2, y2) in pixels; N may differ and be 0.
        scores: M arrays (N,), 0 to 1.
        labels: M arrays (N,) of whole numbers.
        size: width and height of the image, to which the boxes are clipped.
        method: a key of METHODS.
        iou_threshold: boxes of one class with a higher IoU are one object.
        weights: M factors of the members' scores; None: all are 1.
        max_boxes: keep this many, the best ones; None: all.

    Returns:
        Boxes (K, 4), scores (K,) and labels (K,), by descending score.
    """
    members = list(zip(boxes, scores, labels, strict=True))
    factors = np.ones(len(members)) if weights is None else np.array(weights, dtype=float)
    corners = [np.asarray(member[0], dtype=float).reshape(-1, 4) for member in members]
    corners = np.clip(np.concatenate(corners), 0, (*size, *size))
    score = np.concatenate(
        [np.asarray(m[1], dtype=float) * w for m, w in zip(members, factors, strict=True)]
    )
    label = np.concatenate([np.asarray(member[2]).astype(int) for member in members])
    order = np.argsort(-score, kind="stable")
    order = order[(corners[order, 2:] > corners[order, :2]).all(axis=1)]
    fused = [(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=int))]
    for name in np.unique(label[order]):
        own = order[label[order] == name]
        kept, kept_scores = METHODS[method](corners[own], score[own], iou_threshold, factors)
        fused.append((kept, kept_scores, np.full(len(kept), name)))
    corners, score, label = map(np.concatenate, zip(*fused, strict=True))
    best = np.argsort(-score, kind="stable")[:max_boxes]
    return corners[best], score[best], label[best]


def fuse_results(
    images: Sequence[dict],
    members: Sequence[Sequence[dict]],
    report: Callable[[Iterable], Iterable] = iter,
    processes: int | None = None,
    **how,
) -> list[dict]:
    """
    Fuse the results of several models, image by image, in parallel.

    Args:
        images: of the COCO json, with `id`, `width` and `height`.
        members: results of each model: `image_id, category_id, bbox, score`, boxes as
            (x, y, w, h) in pixels.
        report: wraps the iterator over finished images, for example in a progress bar.
        processes: None: one per processor, or fewer for few images.
        how: `method`, `iou_threshold`, `weights` and `max_boxes` of `fuse`.

    Returns:
        The fused results, in the order of `images`.
    """
    found = {image["id"]: [[] for _ in members] for image in images}
    for number, results in enumerate(members):
        for result in results:
            found[result["image_id"]][number].append(result)
    tasks = [(image, found[image["id"]]) for image in images]
    fuse_one = partial(_fuse_image, how=how)
    # starting one takes as long as fusing some hundred images
    processes = processes or min(os.cpu_count() or 1, 1 + len(tasks) // 500)
    if processes == 1:
        done = list(report(map(fuse_one, tasks)))
    else:
        from multiprocessing import get_context

        # spawned: a fork of a process with threads may hang; Ctrl-C is left to this process
        with get_context("spawn").Pool(processes, signal, (SIGINT, SIG_IGN)) as pool:
            done = list(report(pool.imap(fuse_one, tasks, chunksize=16)))
    return [result for results in done for result in results]


def _fuse_image(task: tuple[dict, list[list[dict]]], how: dict) -> list[dict]:
    image, members = task
    boxes, scores, labels = [], [], []
    for results in members:
        xywh = np.array([r["bbox"] for r in results], dtype=float).reshape(-1, 4)
        boxes.append(np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]))
        scores.append(np.array([r["score"] for r in results]))
        labels.append(np.array([r["category_id"] for r in results]))
    boxes, scores, labels = fuse(boxes, scores, labels, (image["width"], image["height"]), **how)
    boxes[:, 2:] -= boxes[:, :2]
    return [
        {"image_id": image["id"], "category_id": label, "bbox": box, "score": score}
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
    ]
