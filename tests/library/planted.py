"""Images with rectangles whose places can be read back from the pixels, for tests of boxes."""

from pathlib import Path

import cv2
import numpy as np
from detectron2.structures import BoxMode

BACKGROUND = 40
# one colour a class, RGB; far from each other and from the grey that fills a mosaic
COLORS = np.array([(255, 40, 40), (40, 255, 40), (40, 40, 255), (255, 255, 40), (40, 255, 255)])


def plant(folder: Path, number: int, size=(96, 64), seed=0, count=3) -> dict:
    """A data set dict with an image (width, height) of `count` rectangles, each a class of its own.

    The boxes keep a few pixels between each other and to the edges.
    """
    rng = np.random.default_rng((seed, number))
    width, height = size
    image = np.full((height, width, 3), BACKGROUND, np.uint8)
    columns = np.linspace(0, width, count + 1).round().astype(int)
    annotations = []
    for label, left, right in zip(rng.permutation(len(COLORS)), columns, columns[1:], strict=False):
        x1, x2 = left + rng.integers(2, 6), right - rng.integers(2, 6)
        y1, y2 = rng.integers(2, height // 3), height - rng.integers(2, height // 3)
        image[y1:y2, x1:x2] = COLORS[label]
        box = [int(v) for v in (x1, y1, x2 - x1, y2 - y1)]
        annotations.append(
            {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": int(label), "iscrowd": 0}
        )
    path = folder / f"{number}.png"
    cv2.imwrite(str(path), image[:, :, ::-1])
    return {
        "file_name": str(path),
        "image_id": number,
        "width": width,
        "height": height,
        "annotations": annotations,
    }


def coloured(image: np.ndarray, label: int, tolerance: int = 60) -> np.ndarray:
    """Where an RGB image (H, W, 3) has the colour of a class: bool (H, W)."""
    return (np.abs(image.astype(int) - COLORS[label]) <= tolerance).all(axis=2)
