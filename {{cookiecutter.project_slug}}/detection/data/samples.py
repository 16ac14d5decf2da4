"""A training image on its way to the model: its pixels, boxes, classes and masks."""

from itertools import compress
from typing import NamedTuple

import numpy as np

from detection.data.masks import Mask


class Sample(NamedTuple):
    """
    Attributes:
        image: uint8 (H, W, 3) RGB.
        boxes: float64 (N, 4), corners (x1, y1, x2, y2) in pixels of `image`.
        labels: int64 (N,), positions in the data set's classes.
        masks: N of them; None: not asked for.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: list[Mask] | None = None

    def clipped(self, min_area: float, min_visibility: float) -> "Sample":
        """
        The boxes cut off at the image's edges; those that lose too much are dropped.

        Args:
            min_area: the least that must remain of a box, in square pixels.
            min_visibility: the least part of its area that must remain, from 0 to 1.
        """
        height, width = self.image.shape[:2]
        boxes = np.clip(self.boxes, 0, (width, height, width, height))
        sides, whole = boxes[:, 2:] - boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]
        area = sides.prod(axis=1)
        # a side so short that it is rounded away when the model makes it float32 is none
        keep = (sides > 1e-4).all(axis=1) & (area >= min_area)
        keep &= area >= min_visibility * whole.prod(axis=1)
        masks = None if self.masks is None else list(compress(self.masks, keep))
        return Sample(self.image, boxes[keep], self.labels[keep], masks)
