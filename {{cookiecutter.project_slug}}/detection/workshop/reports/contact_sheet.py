"""The contact sheet of `make explore`: the most unusual images with their boxes, and why."""

import os

import numpy as np
from markupsafe import Markup

from detection.utils.images import ImageError
from detection.utils.thumbnails import read_thumbnails
from detection.workshop.analysis.dataset_statistics import Split, merge
from detection.workshop.analysis.outliers import (
    STATISTICS_SIZE,
    Outlier,
    find_outliers,
    image_statistics,
    rank,
    unreadable_image,
)
from detection.workshop.reports.page import PICTURE_SIDE, PageBox, picture

MAX_SHARE = 1 / 6  # of the pictures for one kind of outlier, if there are others
MAX_NAMED = 4  # boxes, all of which are named; of more only those that are outliers
JUDGED_BY = (
    "Ranked by how far they are from what is usual in this data: sizes and shapes of boxes for "
    "their class, boxes outside the image or on top of one another, how many boxes, classes "
    "hardly seen together, the image's size, brightness and sharpness."
)


def sheet_section(
    class_names: list[str], splits: list[Split], image_roots: list[str], count: int, sample: int
) -> dict:
    """
    Pictures of the `count` most unusual images of all splits, with the reasons, then of usual ones.

    Args:
        image_roots: the folder of each split's images.
        sample: at most this many images, evenly spread, are read to judge their brightness and
            sharpness; all are judged by their annotations.

    Returns:
        `lines` above the pictures, `cards`, and `missing`, a line on unreadable images or "".
    """
    merged, which = merge(splits)

    def read(images: list[int], size: int, title: str):
        paths = [os.path.join(image_roots[which[i]], merged.file_names[i]) for i in images]
        return zip(images, read_thumbnails(paths, size, title), strict=True)

    total = len(merged.file_names)
    seen = np.linspace(0, total - 1, min(sample, total)).round().astype(int).tolist()
    statistics, unreadable = {}, {}
    for image, thumbnail in read(seen, STATISTICS_SIZE, "looking at images"):
        if isinstance(thumbnail, ImageError):
            unreadable[image] = thumbnail.reason
        else:
            statistics[image] = image_statistics(thumbnail)
    lines, missing = [JUDGED_BY], ""
    if statistics and len(seen) < total:
        lines[0] += (
            f" Brightness and sharpness are of {len(seen):,} of {total:,} images, evenly spread."
        )
    if unreadable:
        first = min(unreadable)
        missing = (
            f"{len(unreadable):,} of {len(seen):,} images are missing or broken; their boxes are "
            f"drawn on nothing. The first: {merged.file_names[first]} ({unreadable[first]}); "
            "make check names all."
        )
        lines.append(missing)
    outliers = find_outliers(merged, class_names, statistics)
    if statistics:  # if no image can be read, that is not unusual
        for image, reason in unreadable.items():
            outliers[image] = [unreadable_image(reason), *outliers.get(image, [])]
    chosen = rank(outliers, most=max(int(count * MAX_SHARE), 2))[:count]
    if len(chosen) < count:
        alike = len(outliers) - len(chosen)
        usual = [image for image in range(total) if image not in outliers]
        places = np.linspace(0, len(usual) - 1, min(count - len(chosen), len(usual)))
        chosen += [usual[k] for k in places.round().astype(int)]
        lines.append(
            f"{len(outliers):,} of {total:,} images are unusual in any of this"
            + (f", {alike:,} of them like others here and not shown" if alike else "")
            + "; the other pictures are of usual ones, evenly spread."
        )
    cards = []
    for image, pixels in read(chosen, PICTURE_SIDE, "drawing the most unusual"):
        members = np.flatnonzero(merged.owners == image)
        found = outliers.get(image, [])
        reasons = [outlier.text for outlier in found]
        if isinstance(pixels, ImageError):
            if image not in unreadable:  # it was not read before
                reasons.append(unreadable_image(pixels.reason).text)
            pixels = None
        cards.append(
            {
                "file_name": merged.file_names[image],
                "split": splits[which[image]].name,
                "boxes": f"{len(members)} box{'' if len(members) == 1 else 'es'}",
                "reasons": reasons,
                "picture": _draw(merged, class_names, image, members, found, pixels),
            }
        )
    return {"lines": lines, "cards": cards, "missing": missing}


def _draw(
    split: Split,
    class_names: list[str],
    image: int,
    members: np.ndarray,
    outliers: list[Outlier],
    pixels: np.ndarray | None,
) -> Markup:
    unusual = {box for outlier in outliers for box in outlier.boxes}
    boxes = []
    # the largest first, so that a pointer finds the small ones
    for box in sorted(members, key=lambda b: -split.boxes[b, 2:].prod()):
        label, is_odd = int(split.labels[box]), int(box) in unusual
        is_named = is_odd or len(members) <= MAX_NAMED
        boxes.append(PageBox(label, split.boxes[box], class_names[label], is_named, is_odd))
    labels, times = np.unique(split.labels[members], return_counts=True)
    holds = ", ".join(f"{n} {class_names[k]}" for k, n in zip(labels, times, strict=True))
    label = f"{split.file_names[image]} with {holds or 'no boxes'}"
    return picture(pixels, split.sizes[image], boxes, label)
