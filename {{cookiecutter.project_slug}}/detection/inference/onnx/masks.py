"""Masks of objects from the small ones that a model predicts inside of boxes; without PyTorch."""

import numpy as np

THRESHOLD = 0.5  # of the probability that a pixel is the object's


def pasted(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """
    A mask of the whole image, as detectron2's `paste_masks_in_image` makes it.

    Args:
        mask: float (M, M), probabilities.
        box: (4,), corners in pixels.
        size: the image's height and width.

    Returns:
        bool (height, width).
    """
    height, width = size
    result = np.zeros(size, bool)
    x1, y1 = np.maximum(np.floor(box[:2]).astype(int) - 1, 0)
    x2, y2 = np.minimum(np.ceil(box[2:]).astype(int) + 1, (width, height))
    rows = _weights(y1, y2, box[1], box[3], mask.shape[0])
    columns = _weights(x1, x2, box[0], box[2], mask.shape[1])
    result[y1:y2, x1:x2] = rows @ mask @ columns.T >= THRESHOLD
    return result


def _weights(first: int, last: int, start: float, end: float, count: int) -> np.ndarray:
    """Of `count` values between `start` and `end` in the pixels `first` to `last`, interpolated."""
    places = (np.arange(first, last, dtype=np.float32) + 0.5 - start) / (end - start) * count - 0.5
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(count, dtype=np.float32)))
