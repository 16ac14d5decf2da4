"""Mosaic and mixup: augmentations that combine several training images into one."""

from collections.abc import Callable

import cv2
import numpy as np

from detection.data.resizing import resize
from detection.data.samples import Sample, joined

# All random numbers come from NumPy's global generator, like those of detectron2's augmentations.


class Mosaic:
    """
    Four images around a point near the middle (Bochkovskiy et al., arXiv:2004.10934).

    The image itself and three others each fill a quarter with a window of theirs. The result has
    the size of the image itself.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.4, 1.0),
        center: tuple[float, float] = (0.3, 0.7),
        fill: int = 114,
    ):
        """
        Args:
            p: the probability.
            scale: from, to; at 1 an image is as large as the result, at 0.5 half as long.
            center: from, to; where the four meet, as parts of width and height.
            fill: the grey level, 0 to 255, where an image is too small for its quarter.
        """
        self.p = p
        self.scale = tuple(scale)
        self.center = tuple(center)
        self.fill = fill

    def __call__(
        self, sample: Sample, draw: Callable[[], Sample], min_area: float, min_visibility: float
    ) -> Sample:
        """
        Args:
            sample: the image itself.
            draw: reads another image of the data set, at random.
            min_area: boxes that are left with fewer square pixels are dropped.
            min_visibility: boxes of which a smaller part is left, from 0 to 1, are dropped.
        """
        if np.random.rand() >= self.p:
            return sample
        height, width = sample.image.shape[:2]
        x = round(width * np.random.uniform(*self.center))
        y = round(height * np.random.uniform(*self.center))
        canvas = np.full_like(sample.image, self.fill)
        own = np.random.randint(4)
        parts = []
        for quarter in range(4):
            is_right, is_lower = quarter % 2, quarter // 2
            room = (width - x if is_right else x), (height - y if is_lower else y)
            if min(room) < 1:
                continue
            source = sample if quarter == own else draw()
            part = _window(source, (width, height), room, np.random.uniform(*self.scale))
            part = part.clipped(min_area, min_visibility)
            # a part smaller than its quarter touches the point where all four meet
            h, w = part.image.shape[:2]
            left, top = (x if is_right else x - w), (y if is_lower else y - h)
            canvas[top : top + h, left : left + w] = part.image
            parts.append(part.moved(canvas, (-left, -top)))
        return joined(canvas, parts)


class MixUp:
    """Blends in another image (Zhang et al., arXiv:1902.04103); the boxes of both are kept."""

    def __init__(
        self, p: float = 0.15, scale: tuple[float, float] = (0.5, 1.5), alpha: float = 32.0
    ):
        """
        Args:
            p: the probability.
            scale: from, to; at 1 the other image is as large as the image itself.
            alpha: the image's own share is drawn from Beta(alpha, alpha); the larger alpha, the
                nearer it is to one half.
        """
        self.p = p
        self.scale = tuple(scale)
        self.alpha = alpha

    def __call__(
        self, sample: Sample, draw: Callable[[], Sample], min_area: float, min_visibility: float
    ) -> Sample:
        """As `Mosaic.__call__`."""
        if np.random.rand() >= self.p:
            return sample
        height, width = sample.image.shape[:2]
        size = width, height
        part = _window(draw(), size, size, np.random.uniform(*self.scale))
        part = part.clipped(min_area, min_visibility)
        h, w = part.image.shape[:2]
        left, top = np.random.randint(width - w + 1), np.random.randint(height - h + 1)
        canvas = sample.image.copy()
        where = np.s_[top : top + h, left : left + w]
        share = np.random.beta(self.alpha, self.alpha)
        canvas[where] = cv2.addWeighted(canvas[where], share, part.image, 1 - share, 0)
        return joined(canvas, [sample, part.moved(canvas, (-left, -top))])


def _window(sample: Sample, size: tuple[int, int], room: tuple[int, int], scale: float) -> Sample:
    """
    A window of an image, at random, resized.

    Args:
        sample: the image.
        size: (width, height) of the picture into which the whole image would fit at scale 1.
        room: (width, height) of the window at most, in pixels of that picture.
        scale: how large the image shows.

    Returns:
        The window with its boxes and masks, which may reach beyond it.
    """
    height, width = sample.image.shape[:2]
    scale *= min(size[0] / width, size[1] / height)
    (x, source_width, new_width), (y, source_height, new_height) = (
        _span(length, available, scale)
        for length, available in ((width, room[0]), (height, room[1]))
    )
    window = sample.image[y : y + source_height, x : x + source_width]
    window = resize(window, new_height, new_width)
    return sample.moved(window, (x, y), (new_width / source_width, new_height / source_height))


def _span(length: int, available: int, scale: float) -> tuple[int, int, int]:
    """Where a window begins along one axis, and its length in the image and as it will be."""
    source = min(length, max(1, round(available / scale)))
    new = min(available, max(1, round(source * scale)))
    return np.random.randint(length - source + 1), source, new
