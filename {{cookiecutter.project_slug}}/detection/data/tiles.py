"""Cuts images into overlapping tiles, so that small objects are not shrunk until they vanish."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from detection.data.samples import Sample, corners
from detection.utils.errors import UserError

logger = logging.getLogger(__name__)

MIN_SIZE = 32  # pixels


class Window(NamedTuple):
    """A part of an image, in whole pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Tiles:
    """
    The settings of configs/common/tiles.py, which describes them.

    Raises:
        UserError: one of them is out of its range.
    """

    enabled: bool
    size: int
    overlap: float
    full_image: bool
    min_visibility: float
    empty_rate: float
    iou_threshold: float
    max_per_image: int
    batch_size: int

    def __post_init__(self):
        for name, least in (("size", MIN_SIZE), ("max_per_image", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(f"tiles.{name}={value}: give a whole number from {least} up")
        for name in ("overlap", "min_visibility", "empty_rate", "iou_threshold"):
            value, is_open = getattr(self, name), name in ("overlap", "iou_threshold")
            if not 0 <= value <= 1 or (is_open and value == 1):
                bound = "less than 1" if is_open else "at most 1"
                raise UserError(f"tiles.{name}={value}: give a number from 0 up and {bound}")

    @classmethod
    def of(cls, settings: Mapping | None) -> "Tiles | None":
        """The settings of a config's node; None if there is none, or it is not enabled."""
        return cls(**settings) if settings and settings["enabled"] else None

    def windows(self, width: int, height: int) -> list[Window]:
        """
        The tiles of an image, row by row; a single one is the whole image.

        All have one size: `size`, or the image's side where that is shorter. They are evenly
        spread, and so neighbours may share more than `overlap`.
        """
        return [
            Window(left, top, min(self.size, width), min(self.size, height))
            for top in self._starts(height)
            for left in self._starts(width)
        ]

    def _starts(self, length: int) -> list[int]:
        steps = math.ceil(max(0, length - self.size) / max(1, int(self.size * (1 - self.overlap))))
        return [round(k * (length - self.size) / steps) for k in range(steps + 1)] if steps else [0]


def tile_records(images: Sequence[dict], tiles: Tiles) -> tuple[list[dict], list[dict]]:
    """
    Make records of tiles, and of whole images, to train on.

    An object belongs to the tiles that show `tiles.min_visibility` of its box or more. A tile that
    shows only smaller parts of objects, or crowd regions, would teach that they are background, and
    is left out.

    Args:
        images: detectron2's data set dicts.
        tiles: the settings.

    Returns:
        Records with objects, or of whole images, and tiles without anything. A tile's record has
        the `annotations` of its objects, as in the whole image; `tile`, its upper left corner
        (x, y); its own `width` and `height`, and the image's as `whole_size`.

    Raises:
        UserError: no tile has an object.
    """
    filled, empty = [], []
    for image in images:
        windows = tiles.windows(image["width"], image["height"])
        if tiles.full_image or len(windows) == 1:
            filled.append(image)
        if len(windows) == 1:
            continue
        annotations = image.get("annotations", [])
        objects = [a for a in annotations if not a.get("iscrowd", 0)]
        size = image["width"], image["height"]
        pixels = np.broadcast_to(np.uint8(0), (*size[::-1], 3))  # an image in one byte of memory
        whole = Sample(pixels, corners(objects), np.arange(len(objects)))
        everything = corners(annotations)
        for window in windows:
            kept = whole.cropped(*window).clipped(0, tiles.min_visibility).labels
            record = {
                **image,
                "width": window.width,
                "height": window.height,
                "tile": (window.left, window.top),
                "whole_size": size,
                "annotations": [objects[k] for k in kept],
            }
            if len(kept):
                filled.append(record)
            elif tiles.empty_rate and not _overlaps(everything, window).any():
                empty.append(record)
    if not filled:
        raise UserError(
            f"tiles.size={tiles.size}: no tile shows as much of an object as tiles.min_visibility="
            f"{tiles.min_visibility:g} says; give a larger size, or tiles.full_image=True"
        )
    logger.info(
        f"tiles of {tiles.size} px: {len(images):,} images become {len(filled):,} images and tiles "
        f"with objects; {len(empty):,} tiles are empty, each epoch draws {tiles.empty_rate:.0%}"
    )
    return filled, empty


def _overlaps(boxes: np.ndarray, window: Window) -> np.ndarray:
    """Whether boxes (N, 4) reach into the window: bool (N,)."""
    start = np.array(window[:2])
    return ((boxes[:, :2] < start + window[2:]) & (boxes[:, 2:] > start)).all(axis=1)
