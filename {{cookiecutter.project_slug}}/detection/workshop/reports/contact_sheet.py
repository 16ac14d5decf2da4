"""A contact sheet for pages: the oddest images of a data set with their boxes, and why."""

import os

import numpy as np
from markupsafe import Markup

from detection.utils.images import ImageError
from detection.utils.thumbnails import LOOK_SIZE, look_at, read_thumbnails
from detection.workshop.analysis import outliers as oddness
from detection.workshop.analysis.dataset_statistics import Split, merge
from detection.workshop.analysis.outliers import Oddity
from detection.workshop.reports.page import PageBox, picture

PICTURE = 420  # pixels of a picture's longer side
KINDS = 6  # of oddities at least, if there are so many: one has this part of the pictures at most
FEW = 4  # boxes, all of which are named; of more only the odd ones


def sheet_section(
    class_names: list[str], splits: list[Split], image_roots: list[str], count: int, sample: int
) -> dict:
    """
    Pictures of the `count` oddest images of all splits, with the reasons, then of usual ones.

    Args:
        image_roots: the folder of each split's images.
        sample: at most so many images, evenly spread, are looked at for their brightness and
            sharpness; all are judged by their annotations.

    Returns:
        `lines` above the pictures, `cards`, and `missing`, the line on images that are not there.
    """
    merged, which = merge(splits)

    def paths(images: list[int]) -> list[str]:
        return [os.path.join(image_roots[which[i]], merged.file_names[i]) for i in images]

    total = len(merged.file_names)
    seen = np.linspace(0, total - 1, min(sample, total)).round().astype(int).tolist()
    looks, unreadable = {}, {}
    thumbnails = read_thumbnails(paths(seen), LOOK_SIZE, "looking at images")
    for image, thumbnail in zip(seen, thumbnails, strict=True):
        if isinstance(thumbnail, ImageError):
            unreadable[image] = thumbnail.reason
        else:
            looks[image] = look_at(thumbnail)
    lines = [_how_judged(len(seen), total, looks)]
    oddities = oddness.find_oddities(merged, class_names, looks)
    missing = ""
    if unreadable:
        first = min(unreadable)
        missing = (
            f"{len(unreadable):,} of {len(seen):,} images are missing or broken; their boxes are "
            f"drawn on nothing. The first: {merged.file_names[first]} ({unreadable[first]}); "
            "make check names all."
        )
        lines.append(missing)
    if len(unreadable) < len(seen):  # where none is there, that none is there is not odd
        for image, reason in unreadable.items():
            oddities[image] = [oddness.unreadable(reason), *oddities.get(image, [])]
    chosen = oddness.rank(oddities, most=max(count // KINDS, 2))[:count]
    if len(chosen) < count:
        alike = len(oddities) - len(chosen)
        usual = [image for image in range(total) if image not in oddities]
        places = np.linspace(0, len(usual) - 1, min(count - len(chosen), len(usual)))
        chosen += [usual[k] for k in places.round().astype(int)]
        lines.append(
            f"{len(oddities):,} of {total:,} images are odd in any of this"
            + (f", {alike:,} of them like others here and not shown" if alike else "")
            + "; the other pictures are of usual ones, evenly spread."
        )
    pictures = read_thumbnails(paths(chosen), PICTURE, "drawing the oddest")
    cards = []
    for image, pixels in zip(chosen, pictures, strict=True):
        members = np.flatnonzero(merged.owners == image)
        reasons = [oddity.text for oddity in oddities.get(image, [])]
        drawn = pixels
        if isinstance(pixels, ImageError):
            drawn = None
            if image not in unreadable:  # not among those looked at before
                reasons.append(oddness.unreadable(pixels.reason).text)
        cards.append(
            {
                "file_name": merged.file_names[image],
                "split": splits[which[image]].name,
                "boxes": f"{len(members)} box{'' if len(members) == 1 else 'es'}",
                "reasons": reasons,
                "picture": _draw(
                    merged, class_names, image, members, oddities.get(image, []), drawn
                ),
            }
        )
    return {"lines": lines, "cards": cards, "missing": missing}


def _draw(
    split: Split,
    class_names: list[str],
    image: int,
    members: np.ndarray,
    oddities: list[Oddity],
    pixels: np.ndarray | None,
) -> Markup:
    if pixels is None:
        wide, high = split.sizes[image] * PICTURE / split.sizes[image].max()
    else:
        high, wide = pixels.shape[:2]
    odd = {box for oddity in oddities for box in oddity.boxes}
    boxes = []
    # the largest first, so that a pointer finds the small ones
    for box in sorted(members, key=lambda b: -split.boxes[b, 2:].prod()):
        x, y, w, h = split.boxes[box] / np.tile(split.sizes[image], 2)
        label, is_odd = int(split.labels[box]), int(box) in odd
        is_named = is_odd or len(members) <= FEW
        boxes.append(PageBox(label, (x, y, x + w, y + h), class_names[label], is_named, is_odd))
    labels, times = np.unique(split.labels[members], return_counts=True)
    holds = ", ".join(f"{n} {class_names[k]}" for k, n in zip(labels, times, strict=True))
    label = f"{split.file_names[image]} with {holds or 'no boxes'}"
    return picture(pixels, (max(round(wide), 1), max(round(high), 1)), boxes, label)


def _how_judged(seen: int, total: int, looks: dict) -> str:
    line = (
        "Ranked by how far they are from what is usual in this data: sizes and shapes of boxes for "
        "their class, boxes outside the image or on top of one another, how many boxes, classes "
        "hardly seen together, the image's size, brightness and sharpness."
    )
    if looks and seen < total:
        line += f" Brightness and sharpness are of {seen:,} of {total:,} images, evenly spread."
    return line
