"""Fuses the boxes that several models, or several views of an image, found; by ensemble-boxes."""

import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import ensemble_boxes
import numpy as np

# wbf: Solovyev et al., arXiv:1910.13302; soft_nms: Bodla et al., arXiv:1704.04503;
# nmw: Zhou et al., CAD, ICCVW 2017. A box of wbf and nmw is a mean of those it stands for.
METHODS: dict[str, Callable] = {
    "wbf": ensemble_boxes.weighted_boxes_fusion,
    "nmw": ensemble_boxes.non_maximum_weighted,
    "nms": ensemble_boxes.nms,
    "soft_nms": partial(ensemble_boxes.soft_nms, method=2, sigma=0.5, thresh=1e-6),
}


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
    Fuse what each of M members found in one image; boxes of different classes never meet.

    Args:
        boxes: M arrays (N, 4) of corners (x1, y1, x2, y2) in pixels; N may differ and be 0.
        scores: M arrays (N,), 0 to 1.
        labels: M arrays (N,) of whole numbers.
        size: width and height of the image, to which the boxes are clipped.
        method: a key of METHODS.
        iou_threshold: boxes of one class that overlap more are one object.
        weights: M factors of the members' scores; None weighs all alike.
        max_boxes: keep only so many, the best ones.

    Returns:
        Boxes (K, 4), scores (K,) and labels (K,), by descending score.
    """
    scale = np.array([*size, *size], dtype=float)
    members = []
    for member in zip(boxes, scores, labels, strict=True):
        corners, score, label = (np.asarray(part, dtype=float) for part in member)
        corners = np.clip(corners.reshape(-1, 4) / scale, 0, 1)
        is_box = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
        members.append((corners[is_box], score[is_box], label[is_box]))
    if not any(len(score) for _, score, _ in members):
        return np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=int)
    weights = None if weights is None else list(weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of boxes without area, of which none are left
        corners, score, label = METHODS[method](
            *(list(parts) for parts in zip(*members, strict=True)),
            weights=weights,
            iou_thr=iou_threshold,
        )
    corners, score, label = np.asarray(corners), np.asarray(score), np.asarray(label).astype(int)
    best = np.argsort(-score, kind="stable")[:max_boxes]
    return corners[best] * scale, score[best], label[best]


def fuse_results(
    images: Sequence[dict],
    members: Sequence[Sequence[dict]],
    report: Callable = lambda images: images,
    processes: int | None = None,
    **how,
) -> list[dict]:
    """
    Fuse the results of several models, image by image, in parallel.

    Args:
        images: of the COCO json, with `id`, `width` and `height`.
        members: results of each model: `image_id, category_id, bbox, score`, boxes as
            (x, y, w, h) in pixels.
        report: wraps the iterator over finished images, e.g. in a progress bar.
        processes: None takes all processors, or fewer for few images.
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

        # spawned: a fork of a process with threads may hang
        with get_context("spawn").Pool(processes) as pool:
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
