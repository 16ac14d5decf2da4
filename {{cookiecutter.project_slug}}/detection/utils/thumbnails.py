"""Reads small copies of images, in parallel."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from detection.utils.images import ImageError, read_image
from detection.utils.progress import progress

Region = tuple[float, float, float, float]  # left, top, right, bottom as parts of the image
WHOLE = (0.0, 0.0, 1.0, 1.0)


def read_thumbnail(path: str, max_size: int, region: Region = WHOLE) -> np.ndarray:
    """
    An image or a region of it, shrunk until its longer side is at most `max_size` pixels; never
    enlarged.

    Args:
        path: of the image; it is upright as its EXIF data say.

    Returns:
        uint8 (H, W, 3) BGR.

    Raises:
        ImageError: the file is missing, cannot be read, or is not an image.
    """
    left, top, right, bottom = region
    wanted = min(max_size / max(right - left, bottom - top, 1e-3), 1e6)
    image = read_image(path, at_least=round(wanted))
    height, width = image.shape[:2]
    x, y = min(int(left * width), width - 1), min(int(top * height), height - 1)
    image = image[y : max(round(bottom * height), y + 1), x : max(round(right * width), x + 1)]
    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    scale = max_size / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def read_thumbnails(
    paths: list[str], max_size: int, title: str, regions: list[Region] | None = None
) -> Iterator[np.ndarray | ImageError]:
    """`read_thumbnail` of many, in order; what cannot be read is its error."""

    def read(path: str, region: Region) -> np.ndarray | ImageError:
        try:
            return read_thumbnail(path, max_size, region)
        except ImageError as e:
            return e

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV lets go of the interpreter
        found = pool.map(read, paths, regions or [WHOLE] * len(paths))
        yield from progress(found, len(paths), title)
