"""Splits a COCO json into parts with the same class mix that share no image and no group."""

import json
import re
import warnings
from fractions import Fraction

import numpy as np

from detection.data.coco import validate
from detection.utils.errors import UserError

PASSES = 10  # over all groups, to rebalance the folds
TRIED = 256  # other groups that an exchange is tried with


def check_records(coco: dict, json_file: str) -> None:
    """
    Refuse a parsed COCO file that cannot be split; `make check` finds the rest.

    Raises:
        UserError: ids that are missing, repeated or unknown; no annotations at all.
    """
    if not coco.get("annotations"):
        raise UserError(f"{json_file}: has no annotations, so there is nothing to split by")
    validate(coco, json_file, ("id", "file_name"), ("image_id", "category_id"))


def count_boxes(coco: dict) -> np.ndarray:
    """Boxes of each class in each image: whole numbers (images, classes), in the file's order."""
    rows = {image["id"]: row for row, image in enumerate(coco["images"])}
    columns = {category["id"]: column for column, category in enumerate(coco["categories"])}
    counts = np.zeros((len(rows), len(columns)), int)
    for annotation in coco["annotations"]:
        counts[rows[annotation["image_id"]], columns[annotation["category_id"]]] += 1
    return counts


def label_by(images: list[dict], key: str, pattern: str, json_file: str) -> np.ndarray:
    """
    Number the images by an attribute of their records, such as `video_id`.

    Args:
        images: the records.
        key: the attribute.
        pattern: a regular expression; only the part of the attribute that its first group matches
            counts, or that all of it matches if it has no group. Empty: the whole attribute.
        json_file: the file's name, for errors.

    Returns:
        One whole number per image (images,), the same for the same value.

    Raises:
        UserError: an image lacks the attribute or does not match, or the pattern is invalid.
    """
    lacking = [image for image in images if image.get(key) is None]
    if lacking:
        keys = sorted(set().union(*images) - {key})
        raise UserError(
            f'{json_file}: {len(lacking)} of {len(images)} images have no "{key}", such as '
            f"{lacking[0]['file_name']}; the images' attributes are {', '.join(keys)}"
        )
    values = [json.dumps(image[key], sort_keys=True) for image in images]
    if pattern:
        try:
            matches = [re.search(pattern, str(image[key])) for image in images]
        except re.error as e:
            raise UserError(f"{pattern}: is not a regular expression ({e})") from e
        for image, match in zip(images, matches, strict=True):
            if not match:
                raise UserError(f"{json_file}: {key} {image[key]!r} has nothing like {pattern}")
        values = [(match[1] if match.re.groups else match[0]) or "" for match in matches]
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def merge_groups(*groupings: np.ndarray) -> np.ndarray:
    """
    Join images that share a group in any of several groupings, directly or through others.

    Args:
        groupings: whole numbers from 0 (images,), one array for each grouping.

    Returns:
        The group of each image (images,), numbered from 0.
    """
    num_images = len(groupings[0])
    # a graph of images and groups, the nodes of each grouping after those before
    starts = num_images + np.cumsum([0, *(int(groups.max()) + 1 for groups in groupings)])
    nodes = np.hstack([groups + start for groups, start in zip(groupings, starts, strict=False)])
    images = np.tile(np.arange(num_images), len(groupings))
    from scipy.sparse import coo_array  # slow to import
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(nodes), bool), (images, nodes)), shape=2 * (starts[-1],))
    components = connected_components(graph, directed=False)[1][:num_images]
    return np.unique(components, return_inverse=True)[1].reshape(-1)


def assign_folds(counts: np.ndarray, groups: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """
    Assign images to folds of the same class mix: scikit-learn's StratifiedGroupKFold, rebalanced.

    It balances labels of samples, of which an image has several: a sample is a box here. Two more
    labels, one that every image has and one of images without boxes, balance those as well.

    Args:
        counts: boxes (images, classes).
        groups: the group of each image (images,); a group stays together.
        num_folds: at least 2.
        seed: the same seed gives the same folds.

    Returns:
        The fold of each image (images,), from 0.

    Raises:
        UserError: fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second to import

    num_groups = len(np.unique(groups))
    if num_groups < num_folds:
        raise UserError(
            f"{num_groups} groups in {len(groups)} images are too few for {num_folds} folds; "
            "ask for fewer folds, or group by something finer"
        )
    labels = _labels(counts)
    images, classes = np.nonzero(labels)
    times = labels[images, classes]
    images, classes = np.repeat(images, times), np.repeat(classes, times)
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    folds = np.full(len(counts), -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class of few boxes: `table` shows it
        for fold, (_, samples) in enumerate(splitter.split(classes, classes, groups[images])):
            folds[images[samples]] = fold
    folds = _rebalance(folds, labels, groups, np.full(num_folds, 1 / num_folds), seed)
    return _checked(folds, groups, num_folds)


def hold_out(counts: np.ndarray, groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """
    Hold part of the images out, with the class mix of the rest.

    The images are split into up to 20 parts, or 100 for a small fraction, and those are taken that
    come nearest to the wanted share of every class.

    Args:
        counts, groups, seed: as in `assign_folds`.
        fraction: the share of images to hold out, between 0 and 1.

    Returns:
        1 for an image that is held out, 0 for the rest (images,).

    Raises:
        UserError: a single group.
    """
    most = max(2, min(len(np.unique(groups)), round(min(max(20, 1 / fraction), 100))))
    parts = Fraction(fraction).limit_denominator(most)
    parts = min(max(parts, Fraction(1, most)), Fraction(most - 1, most))
    parts_of = assign_folds(counts, groups, parts.denominator, seed)
    labels = _labels(counts)
    shares = np.stack([labels[parts_of == part].sum(0) for part in range(parts.denominator)])
    shares = shares / np.maximum(labels.sum(0), 1)
    taken, held = [], np.zeros(labels.shape[1])
    for number in range(1, parts.numerator + 1):
        target = fraction * number / parts.numerator * (labels.sum(0) > 0)
        errors = ((held + shares - target) ** 2).sum(1)
        errors[taken] = np.inf
        taken.append(int(errors.argmin()))
        held += shares[taken[-1]]
    is_val = np.isin(parts_of, taken).astype(int)
    is_val = _rebalance(is_val, labels, groups, np.array([1 - fraction, fraction]), seed)
    return _checked(is_val, groups, 2)


def random_folds(num_images: int, num_folds: int, seed: int) -> np.ndarray:
    """Folds as a plain shuffle gives them, to compare with; the fold of each image (images,)."""
    return np.random.default_rng(seed).permutation(num_images) % num_folds


def subset(coco: dict, chosen: np.ndarray) -> dict:
    """The json with the images at which `chosen` (images,) is true and their annotations alone."""
    images = [image for image, is_in in zip(coco["images"], chosen, strict=True) if is_in]
    ids = {image["id"] for image in images}
    annotations = [a for a in coco["annotations"] if a["image_id"] in ids]
    return {**coco, "images": images, "annotations": annotations}


def _labels(counts: np.ndarray) -> np.ndarray:
    """What is to be even: boxes of each class, images, empty images (images, classes + 2)."""
    return np.column_stack([counts, np.ones(len(counts), int), counts.sum(1) == 0])


def _rebalance(
    folds: np.ndarray, labels: np.ndarray, groups: np.ndarray, targets: np.ndarray, seed: int
) -> np.ndarray:
    """
    Exchange groups between folds, or move one, as long as that brings the folds nearer to targets.

    Distance is the sum of squared differences between the share of each label that a fold has and
    the one that it should have: of a rare class each box weighs more. StratifiedGroupKFold never
    revises a choice. For 1,000 images in 100 groups, 5 classes and 5 folds, this reduces the
    largest relative error of a class's share from 47% to 26% (mean of 10 random data sets).

    Args:
        folds: the fold of each image (images,); no group is in two.
        labels: how often each image has each label (images, labels).
        groups: of the images (images,), numbered from 0.
        targets: the share of all that each fold should have (folds,).
        seed: of the order in which groups are tried, and with which others.

    Returns:
        The fold of each image (images,).
    """
    loads = np.zeros((groups.max() + 1, labels.shape[1]))
    np.add.at(loads, groups, labels / np.maximum(labels.sum(0), 1))
    place = np.zeros(len(loads), int)
    place[groups] = folds
    excess = np.stack([loads[place == f].sum(0) for f in range(len(targets))])
    excess -= targets[:, None] * (loads.sum(0) > 0)
    rng = np.random.default_rng(seed)
    for _ in range(PASSES):
        is_better = False
        for group in rng.permutation(len(loads)):
            here = place[group]
            others = rng.integers(len(loads), size=min(TRIED, len(loads)))
            moves = range(len(targets)) if (place == here).sum() > 1 else ()  # to each fold
            to = np.concatenate([place[others], np.array(moves, int)])
            change = np.concatenate([loads[others], np.zeros((len(moves), loads.shape[1]))])
            change -= loads[group]
            # of the sum of squares, if `here` changes by `change` and `to` by its opposite
            gain = 2 * (change * (excess[here] - excess[to] + change)).sum(1)
            gain[to == here] = 0
            best = int(gain.argmin())
            if gain[best] < -1e-9:
                is_better = True
                excess[here] += change[best]
                excess[to[best]] -= change[best]
                place[group] = to[best]
                if best < len(others):
                    place[others[best]] = here
        if not is_better:
            break
    return place[groups]


def _checked(folds: np.ndarray, groups: np.ndarray, num_folds: int) -> np.ndarray:
    """The folds, if every image is in one, none is empty and no group is in two."""
    pairs = np.unique(np.column_stack([groups, folds]), axis=0)
    if len(pairs) > len(np.unique(groups)) or set(folds) != set(range(num_folds)):
        raise RuntimeError("a group is in two folds, an image in none, or a fold is empty")
    return folds
