"""
Which images of a data set are unlike the others, and why.

An image gets points for each kind of outlier that it has; the sum ranks the images. Only the worst
of a kind counts, so that a crowd of unusual boxes does not bury the rest. Measured values are
judged by their robust z-score, |value − median| / (1.4826 × median absolute deviation): from MIN_Z
on they get z / MIN_Z points. Nothing gets more than MAX_POINTS.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from detection.evaluation.matching import box_iou
from detection.workshop.analysis.dataset_statistics import (
    Split,
    box_ratios,
    box_sides,
    co_occurrence,
    outside_by,
)

STATISTICS_SIZE = 256  # pixels of the longer side: images of any size are compared at this one
MIN_Z = 3.5  # about 1 in 2,000 normally distributed values
MAX_POINTS = 4.0
MIN_VALUES = 20  # fewer values have no usual one to be far from
BORDER = 0.01  # of the image's sides: a box so near the border counts as cut by it
DOUBLE_IOU = 0.85  # from which two boxes of a class are probably the same object twice
RARE_PAIR = 2  # images; two classes together in no more are a rare combination
COMMON = 0.02  # of the images: what more of them have is usual, however far from the median
MIN_CONTRAST = 5.0  # gray levels; an image with less is one colour all over


class ImageStatistics(NamedTuple):
    """How an image looks, in gray levels from 0 to 255."""

    brightness: float  # the mean
    contrast: float  # the standard deviation
    sharpness: float  # the variance of the Laplacian


class Outlier(NamedTuple):
    """What is unusual in an image; `boxes` are those concerned, positions in the split's boxes."""

    kind: str
    points: float
    text: str
    boxes: tuple[int, ...] = ()


Found = Iterator[tuple[int, Outlier]]  # with the position of the image


def image_statistics(thumbnail: np.ndarray) -> ImageStatistics:
    """How an image looks, from its thumbnail of STATISTICS_SIZE, uint8 (H, W, 3) BGR."""
    gray = cv2.cvtColor(thumbnail, cv2.COLOR_BGR2GRAY)
    sharpness = cv2.Laplacian(gray, cv2.CV_64F).var()
    return ImageStatistics(float(gray.mean()), float(gray.std()), float(sharpness))


def find_outliers(
    split: Split, class_names: list[str], statistics: dict[int, ImageStatistics]
) -> dict[int, list[Outlier]]:
    """
    What is unusual in each image of `split`.

    Args:
        statistics: {position of an image: how it looks}, of those that have been read.

    Returns:
        {position of an image: its outliers, the worst first}; usual images are left out.
    """
    found = defaultdict(dict)
    for image, outlier in (
        *_unusual_boxes(split, class_names),
        *_misplaced_boxes(split, class_names),
        *_double_boxes(split, class_names),
        *_rare_pairs(split, class_names),
        *_unusual_counts(split),
        *_unusual_sizes(split),
        *_unusual_looks(statistics),
    ):
        known = found[image].get(outlier.kind)
        if known:  # all boxes are shown, though only the worst counts
            worst = max(known, outlier, key=lambda o: o.points)
            outlier = worst._replace(boxes=(*known.boxes, *outlier.boxes))
        found[image][outlier.kind] = outlier
    return {i: sorted(kinds.values(), key=lambda o: -o.points) for i, kinds in found.items()}


def rank(outliers: dict[int, list[Outlier]], most: int) -> list[int]:
    """
    Positions of images, the most unusual first.

    Args:
        most: images of each kind of outlier; one more is left out if it shows nothing else.
    """
    ranked = sorted(outliers, key=lambda image: (-sum(o.points for o in outliers[image]), image))
    shown, chosen = Counter(), []
    for image in ranked:
        kinds = {outlier.kind for outlier in outliers[image]}
        if any(shown[kind] < most for kind in kinds):
            chosen.append(image)
            shown.update(kinds)
    return chosen


def unreadable_image(reason: str) -> Outlier:
    """The outlier of an image file that is missing or broken."""
    return Outlier("file", MAX_POINTS, f"image missing or broken: {reason}")


def _z(values: np.ndarray, least: float) -> np.ndarray:
    """Robust z-scores; `least` is the smallest spread that is believed."""
    distance = values - np.median(values)
    return distance / max(1.4826 * np.median(np.abs(distance)), least)


def _points(z: float) -> float:
    return min(abs(float(z)) / MIN_Z, MAX_POINTS)


def _unusual_boxes(split: Split, class_names: list[str]) -> Found:
    starts, ends = split.boxes[:, :2], split.boxes[:, :2] + split.boxes[:, 2:]
    sizes = split.sizes[split.owners]
    # what the border cuts is small, flat or tall for no other reason
    cut = ((starts < BORDER * sizes) | (ends > (1 - BORDER) * sizes)).any(axis=1)
    for label, name in enumerate(class_names):
        members = np.flatnonzero((split.labels == label) & split.has_area)
        if len(members) < MIN_VALUES:
            continue
        boxes, owners = split.boxes[members], split.owners[members].tolist()
        sides, ratios = box_sides(boxes), box_ratios(boxes)
        usual = np.median(sides)
        z = _z(np.log2(sides), 0.25)
        for k in np.flatnonzero((z >= MIN_Z) | ((z <= -MIN_Z) & ~cut[members])):
            factor = max(sides[k] / usual, usual / sides[k])
            way = "larger" if sides[k] > usual else "smaller"
            text = f"{name} {factor:.1f} times {way} than usual ({sides[k]:.0f} px a side)"
            yield owners[k], Outlier("size", _points(z[k]), text, (int(members[k]),))
        z = _z(np.log2(ratios), 0.25)
        for k in np.flatnonzero((np.abs(z) >= MIN_Z) & ~cut[members]):
            width, height = boxes[k, 2:]
            way = "flat" if ratios[k] < np.median(ratios) else "tall"
            text = f"{name} unusually {way} ({width:.0f} × {height:.0f} px)"
            yield owners[k], Outlier("shape", _points(z[k]), text, (int(members[k]),))


def _misplaced_boxes(split: Split, class_names: list[str]) -> Found:
    outside = outside_by(split)
    sides = split.sizes[split.owners].max(axis=1)
    for box in np.flatnonzero(outside > 1):
        points = min(1.5 + 10 * outside[box] / sides[box], MAX_POINTS)
        text = f"{class_names[split.labels[box]]} reaches {outside[box]:.0f} px out of the image"
        yield int(split.owners[box]), Outlier("place", points, text, (int(box),))
    for box in np.flatnonzero(~split.has_area):
        text = f"{class_names[split.labels[box]]} has a box without area"
        yield int(split.owners[box]), Outlier("area", 2.0, text, (int(box),))


def _double_boxes(split: Split, class_names: list[str]) -> Found:
    members = np.flatnonzero(split.has_area)
    members = members[np.argsort(split.owners[members], kind="stable")]
    owners = split.owners[members]
    for boxes in np.split(members, np.flatnonzero(np.diff(owners)) + 1):
        labels, iou = split.labels[boxes], box_iou(split.boxes[boxes], split.boxes[boxes])
        is_double = (iou >= DOUBLE_IOU) & (labels[:, None] == labels)
        for i, j in np.argwhere(np.triu(is_double, 1)):
            points = 1.5 + 1.5 * (iou[i, j] - DOUBLE_IOU) / (1 - DOUBLE_IOU)
            text = f"two {class_names[labels[i]]} boxes cover each other (IoU {iou[i, j]:.2f})"
            pair = int(boxes[i]), int(boxes[j])
            yield int(split.owners[pair[0]]), Outlier("double", points, text, pair)


def _rare_pairs(split: Split, class_names: list[str]) -> Found:
    together = co_occurrence(split, len(class_names))
    present = split.presence(len(class_names))
    # a class of a handful of images is rare with anything
    is_known = np.diag(together) >= MIN_VALUES
    rare = (together > 0) & (together <= RARE_PAIR) & np.outer(is_known, is_known)
    for a, b in np.argwhere(np.triu(rare, 1)):
        others = together[a, b] - 1
        text = f"{class_names[a]} with {class_names[b]}, in "
        text += "one other image" if others else "no other image"
        for image in np.flatnonzero(present[:, a] & present[:, b]):
            yield int(image), Outlier("pair", 1.0 if others else 1.4, text)


def _unusual_counts(split: Split) -> Found:
    counts = split.counts
    empty, filled = np.flatnonzero(counts == 0), np.flatnonzero(counts)
    if len(empty) <= COMMON * len(counts):
        for image in empty:
            yield int(image), Outlier("count", 1.0, "no boxes, unlike nearly all other images")
    if len(filled) >= MIN_VALUES:
        usual, z = np.median(counts[filled]), _z(np.log2(counts[filled]), 0.5)
        is_rare = counts[filled] > np.quantile(counts, 1 - COMMON)
        for k in np.flatnonzero((z >= MIN_Z) & is_rare):
            text = f"{counts[filled[k]]} boxes, usually {usual:.0f}"
            yield int(filled[k]), Outlier("count", _points(z[k]), text)


def _unusual_sizes(split: Split) -> Found:
    if len(split.sizes) < MIN_VALUES:
        return
    sides, ratios = np.sqrt(split.sizes.prod(axis=1)), split.sizes[:, 0] / split.sizes[:, 1]
    z = np.maximum(np.abs(_z(np.log2(sides), 0.15)), np.abs(_z(np.log2(ratios), 0.15)))
    _, which, times = np.unique(split.sizes, axis=0, return_inverse=True, return_counts=True)
    is_common = times[which.reshape(-1)] > max(COMMON * len(split.sizes), 1)
    for image in np.flatnonzero((z >= MIN_Z) & ~is_common):
        width, height = split.sizes[image].astype(int)
        yield int(image), Outlier("image size", _points(z[image]), f"is {width} × {height} px")


def _unusual_looks(statistics: dict[int, ImageStatistics]) -> Found:
    flat = {image for image, s in statistics.items() if s.contrast < MIN_CONTRAST}
    for image in flat:
        shade = f"of brightness {statistics[image].brightness:.0f} of 255"
        yield image, Outlier("look", 3.0, f"one colour all over, {shade}")
    images = [image for image in statistics if image not in flat]
    if len(images) < MIN_VALUES:
        return
    brightness = np.array([statistics[image].brightness for image in images])
    usual, z = np.median(brightness), _z(brightness, 12.0)
    for k in np.flatnonzero(np.abs(z) >= MIN_Z):
        way = "dark" if brightness[k] < usual else "bright"
        text = f"{way}: {brightness[k]:.0f} of 255, usually {usual:.0f}"
        yield images[k], Outlier("look", _points(z[k]), text)
    z = _z(np.log2([statistics[image].sharpness + 1 for image in images]), 0.6)
    for k in np.flatnonzero(z <= -MIN_Z):
        yield images[k], Outlier("sharpness", _points(z[k]), "blurred, compared with the others")
