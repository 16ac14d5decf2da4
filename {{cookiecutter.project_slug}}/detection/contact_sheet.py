"""A contact sheet for pages: the oddest images of a data set with their boxes, and why."""

from __future__ import annotations

import os

import numpy as np

from detection import oddness
from detection.exploration import Split, merge
from detection.oddness import Oddity
from detection.pages import PageBox, picture
from detection.thumbnails import LOOK_SIZE, look_at, read_thumbnails

PICTURE = 420  # pixels of a picture's longer side


def sheet_section(
    class_names: list[str], splits: list[Split], image_roots: list[str], count: int, sample: int
) -> dict:
    """
    Pictures of the `count` oddest images of all splits, with the reasons.

    Args:
        image_roots: the folder of each split's images.
        sample: at most so many images, evenly spread, are looked at for their brightness and
            sharpness; all are judged by their annotations.
    """
    merged, which = merge(splits)

    def files(images: list[int]) -> list[tuple[str, int, int]]:
        return [
            (
                os.path.join(image_roots[which[image]], merged.file_names[image]),
                *merged.sizes[image].astype(int).tolist(),
            )
            for image in images
        ]

    total = len(merged.file_names)
    seen = np.linspace(0, total - 1, min(sample, total)).round().astype(int).tolist()
    looks, unreadable = {}, {}
    thumbnails = read_thumbnails(files(seen), LOOK_SIZE, "looking at images")
    for image, thumbnail in zip(seen, thumbnails, strict=True):
        if isinstance(thumbnail, OSError):
            unreadable[image] = oddness.unreadable(thumbnail.strerror)
        else:
            looks[image] = look_at(thumbnail)
    lines = [_how_judged(len(seen), total, looks)]
    oddities = oddness.find_oddities(merged, class_names, looks)
    if unreadable:
        first = merged.file_names[min(unreadable)]
        which_root = image_roots[which[min(unreadable)]]
        reason = unreadable[min(unreadable)].text.removeprefix("the image ")
        told = f"{len(unreadable):,} of {len(seen):,} images cannot be shown: {first} {reason} "
        lines.append(f"{told} (in {which_root}). make check names them all.")
    if len(unreadable) < len(seen):  # where none is there, that none is there is not odd
        for image, oddity in unreadable.items():
            oddities[image] = [oddity, *oddities.get(image, [])]
    chosen = oddness.rank(oddities)[:count]
    if not chosen:
        lines.append("No image stands out.")
    pictures = read_thumbnails(files(chosen), PICTURE, "drawing the oddest")
    cards = []
    for image, pixels in zip(chosen, pictures, strict=True):
        members = np.flatnonzero(merged.owners == image)
        card = {
            "file_name": merged.file_names[image],
            "split": splits[which[image]].name,
            "boxes": f"{len(members)} box{'' if len(members) == 1 else 'es'}",
            "reasons": [oddity.text for oddity in oddities[image]],
            "picture": None,
        }
        if not isinstance(pixels, OSError):
            card["picture"] = _draw(merged, class_names, image, members, oddities[image], pixels)
        cards.append(card)
    return {"lines": lines, "cards": cards}


def _draw(
    split: Split,
    class_names: list[str],
    image: int,
    members: np.ndarray,
    oddities: list[Oddity],
    pixels: np.ndarray,
):
    odd = {box for oddity in oddities for box in oddity.boxes}
    names_all = len(members) <= 4
    boxes = []
    # the largest first, so that a pointer finds the small ones
    for box in sorted(members, key=lambda b: -split.boxes[b, 2:].prod()):
        x, y, w, h = split.boxes[box] / np.tile(split.sizes[image], 2)
        label = int(split.labels[box])
        is_named = names_all or box in odd
        boxes.append(PageBox(label, (x, y, x + w, y + h), class_names[label], is_named))
    names, times = np.unique(split.labels[members], return_counts=True)
    holds = ", ".join(f"{n} {class_names[k]}" for k, n in zip(names, times, strict=True))
    label = f"{split.file_names[image]} with {holds or 'no boxes'}"
    return picture(pixels, boxes, label)


def _how_judged(seen: int, total: int, looks: dict) -> str:
    line = (
        "Ranked by how far they are from what is usual in this data: sizes and shapes of boxes for "
        "their class, boxes outside the image or on top of one another, how many boxes, classes "
        "hardly seen together, the image's size, brightness and sharpness."
    )
    if looks and seen < total:
        line += f" Brightness and sharpness are of {seen:,} of {total:,} images, evenly spread."
    return line
