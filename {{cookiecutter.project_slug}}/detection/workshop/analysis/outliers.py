"""
How odd each image of a data set is, and why: the first to look at are the oddest.

An image gets points for each kind of oddity that it has, and its oddness is their sum; of one kind
only its worst counts, so that a crowd of odd boxes does not bury the rest. Measures are told odd by
their robust z-score, |value − median| / (1.4826 × median absolute deviation): from LIMIT on they
get z / LIMIT points. Nothing gets more than MOST.
"""

from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np

from detection.utils.thumbnails import Look
from detection.workshop.analysis.dataset_statistics import (
    Split,
    box_ratios,
    box_sides,
    co_occurrence,
    outside_by,
)

LIMIT = 3.5  # about 1 in 2,000 of normally distributed values
MOST = 4.0
FEWEST = 20  # fewer values have no usual one to be far from
EDGE = 0.01  # of the image's sides: so near the border a box counts as cut by it
SAME = 0.85  # IoU from which two boxes of a class are probably the same object twice
RARE_PAIR = 2  # images; so few that show two classes together are a rare combination
COMMON = 0.02  # of the images: what more of them have is not odd, however far from the median
FLAT = 5.0  # gray levels; less contrast is one colour all over


class Oddity(NamedTuple):
    """One thing odd in an image; `boxes` are those concerned, positions in the split's boxes."""

    kind: str
    points: float
    text: str
    boxes: tuple[int, ...] = ()


Oddities = dict[int, list[Oddity]]  # {position of the image: what is odd in it, the worst first}


def find_oddities(split: Split, class_names: list[str], looks: dict[int, Look]) -> Oddities:
    """
    What is odd in each image of `split`; images without oddities are left out.

    Args:
        looks: {position of an image: how it looks}, of those that have been read.
    """
    found = defaultdict(dict)
    for search in (_odd_boxes, _odd_places, _doubles, _odd_pairs):
        for image, oddity in search(split, class_names):
            _keep_worst(found[image], oddity)
    for search in (_odd_counts, _odd_sizes):
        for image, oddity in search(split):
            _keep_worst(found[image], oddity)
    for image, oddity in _odd_looks(looks):
        _keep_worst(found[image], oddity)
    return {
        image: sorted(kinds.values(), key=lambda o: -o.points) for image, kinds in found.items()
    }


def rank(oddities: Oddities, most: int) -> list[int]:
    """
    Positions of images, the oddest first, without those of which there are enough.

    Args:
        most: images of each kind of oddity; one more is left out if it shows nothing else.
    """
    ranked = sorted(oddities, key=lambda image: (-sum(o.points for o in oddities[image]), image))
    shown, chosen = Counter(), []
    for image in ranked:
        kinds = {oddity.kind for oddity in oddities[image]}
        if any(shown[kind] < most for kind in kinds):
            chosen.append(image)
            shown.update(kinds)
    return chosen


def unreadable(reason: str) -> Oddity:
    """The oddity of an image file that is not there, or is no image."""
    return Oddity("file", MOST, f"image missing or broken: {reason}")


def doubled(split: Split) -> list[tuple[int, int, float]]:
    """Pairs of boxes of one class in one image whose IoU is at least SAME, with that IoU."""
    order = np.lexsort((split.labels, split.owners))
    order = order[split.has_area[order]]
    pairs = []
    # neighbours in that order, then those two apart, ... until none are of one image and class
    for apart in range(1, len(order)):
        first, second = order[:-apart], order[apart:]
        alike = (split.owners[first] == split.owners[second]) & (
            split.labels[first] == split.labels[second]
        )
        if not alike.any():
            break
        first, second = first[alike], second[alike]
        ious = _ious(split.boxes[first], split.boxes[second])
        same = ious >= SAME
        pairs += zip(first[same].tolist(), second[same].tolist(), ious[same].tolist(), strict=True)
    return pairs


def _keep_worst(kinds: dict[str, Oddity], oddity: Oddity) -> None:
    known = kinds.get(oddity.kind)
    if known is None:
        kinds[oddity.kind] = oddity
    else:  # all boxes are shown, though only the worst counts
        worst = max(known, oddity, key=lambda o: o.points)
        kinds[oddity.kind] = worst._replace(boxes=(*known.boxes, *oddity.boxes))


def _z(values: np.ndarray, least: float) -> np.ndarray:
    """Robust z-scores; `least` is the smallest spread that is believed."""
    distance = values - np.median(values)
    return distance / max(1.4826 * np.median(np.abs(distance)), least)


def _points(z: float) -> float:
    return min(abs(float(z)) / LIMIT, MOST)


def _odd_boxes(split: Split, class_names: list[str]):
    starts, ends = split.boxes[:, :2], split.boxes[:, :2] + split.boxes[:, 2:]
    sizes = split.sizes[split.owners]
    # what the border cuts is small, flat or tall for no other reason
    cut = ((starts < EDGE * sizes) | (ends > (1 - EDGE) * sizes)).any(axis=1)
    for label, name in enumerate(class_names):
        members = np.flatnonzero((split.labels == label) & split.has_area)
        if len(members) < FEWEST:
            continue
        boxes = split.boxes[members]
        sides, ratios = box_sides(boxes), box_ratios(boxes)
        usual = np.median(sides)
        z = _z(np.log2(sides), 0.25)
        for k in np.flatnonzero((z >= LIMIT) | ((z <= -LIMIT) & ~cut[members])):
            factor = max(sides[k] / usual, usual / sides[k])
            way = "larger" if sides[k] > usual else "smaller"
            text = f"{name} {factor:.1f} times {way} than usual ({sides[k]:.0f} px a side)"
            yield int(split.owners[members[k]]), _box_oddity("size", z[k], text, members[k])
        z = _z(np.log2(ratios), 0.25)
        for k in np.flatnonzero((np.abs(z) >= LIMIT) & ~cut[members]):
            width, height = boxes[k, 2:]
            way = "flat" if ratios[k] < np.median(ratios) else "tall"
            text = f"{name} unusually {way} ({width:.0f} × {height:.0f} px)"
            yield int(split.owners[members[k]]), _box_oddity("shape", z[k], text, members[k])


def _box_oddity(kind: str, z: float, text: str, box: int) -> Oddity:
    return Oddity(kind, _points(z), text, (int(box),))


def _odd_places(split: Split, class_names: list[str]):
    outside = outside_by(split)
    sides = split.sizes[split.owners].max(axis=1)
    for box in np.flatnonzero(outside > 1):
        name, pixels = class_names[split.labels[box]], outside[box]
        points = min(1.5 + 10 * pixels / sides[box], MOST)
        text = f"{name} reaches {pixels:.0f} px out of the image"
        yield int(split.owners[box]), Oddity("place", points, text, (int(box),))
    for box in np.flatnonzero(~split.has_area):
        text = f"{class_names[split.labels[box]]} has a box without area"
        yield int(split.owners[box]), Oddity("area", 2.0, text, (int(box),))


def _doubles(split: Split, class_names: list[str]):
    for a, b, iou in doubled(split):
        points = 1.5 + 1.5 * (iou - SAME) / (1 - SAME)
        text = f"two {class_names[split.labels[a]]} boxes cover each other (IoU {iou:.2f})"
        yield int(split.owners[a]), Oddity("double", points, text, (a, b))


def _odd_pairs(split: Split, class_names: list[str]):
    together = co_occurrence(split, len(class_names))
    present = split.presence(len(class_names))
    # a class of a handful of images is rare with whatever it is
    is_known = np.diag(together) >= FEWEST
    rare = (together > 0) & (together <= RARE_PAIR) & np.outer(is_known, is_known)
    for a, b in np.argwhere(np.triu(rare, 1)):
        others = together[a, b] - 1
        text = f"{class_names[a]} with {class_names[b]}, in "
        text += "one other image" if others else "no other image"
        for image in np.flatnonzero(present[:, a] & present[:, b]):
            yield int(image), Oddity("pair", 1.0 if others else 1.4, text)


def _odd_counts(split: Split):
    counts = split.counts
    empty = np.flatnonzero(counts == 0)
    if len(empty) <= COMMON * len(counts):
        for image in empty:
            yield int(image), Oddity("count", 1.0, "no boxes, as hardly any other image")
    filled = np.flatnonzero(counts)
    if len(filled) >= FEWEST:
        usual, z = np.median(counts[filled]), _z(np.log2(counts[filled]), 0.5)
        is_rare = counts[filled] > np.quantile(counts, 1 - COMMON)
        for k in np.flatnonzero((z >= LIMIT) & is_rare):
            text = f"{counts[filled[k]]} boxes, usually {usual:.0f}"
            yield int(filled[k]), Oddity("count", _points(z[k]), text)


def _odd_sizes(split: Split):
    if len(split.sizes) < FEWEST:
        return
    sides, ratios = np.sqrt(split.sizes.prod(axis=1)), split.sizes[:, 0] / split.sizes[:, 1]
    z = np.maximum(np.abs(_z(np.log2(sides), 0.15)), np.abs(_z(np.log2(ratios), 0.15)))
    _, which, times = np.unique(split.sizes, axis=0, return_inverse=True, return_counts=True)
    is_common = times[which.reshape(-1)] > max(COMMON * len(split.sizes), 1)
    for image in np.flatnonzero((z >= LIMIT) & ~is_common):
        width, height = split.sizes[image].astype(int)
        yield int(image), Oddity("image size", _points(z[image]), f"is {width} × {height} px")


def _odd_looks(looks: dict[int, Look]):
    flat = [image for image, look in looks.items() if look.contrast < FLAT]
    for image in flat:
        shade = f"of brightness {looks[image].brightness:.0f} of 255"
        yield image, Oddity("look", 3.0, f"one colour all over, {shade}")
    images = [image for image in looks if image not in set(flat)]
    if len(images) < FEWEST:
        return
    brightness = np.array([looks[image].brightness for image in images])
    z = _z(brightness, 12.0)
    for k in np.flatnonzero(np.abs(z) >= LIMIT):
        shade, usual = brightness[k], np.median(brightness)
        text = f"{'dark' if shade < usual else 'bright'}: {shade:.0f} of 255, usually {usual:.0f}"
        yield images[k], Oddity("look", _points(z[k]), text)
    z = _z(np.log2([looks[image].sharpness + 1 for image in images]), 0.6)
    for k in np.flatnonzero(z <= -LIMIT):
        yield images[k], Oddity("sharpness", _points(z[k]), "blurred, next to the others")


def _ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(K,) IoU of K boxes (x, y, w, h) with K others."""
    starts = np.maximum(first[:, :2], second[:, :2])
    ends = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    overlap = np.maximum(ends - starts, 0).prod(axis=1)
    return overlap / (first[:, 2:].prod(axis=1) + second[:, 2:].prod(axis=1) - overlap)
