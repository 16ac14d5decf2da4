"""Reads small copies of images, in parallel."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from tqdm import tqdm

from detection.utils.images import ImageError, read_image


def read_thumbnail(path: str, max_size: int) -> np.ndarray:
    """
    An image, shrunk until its longer side is at most `max_size` pixels; never enlarged.

    Args:
        path: of the image; it is upright as its EXIF data say.

    Returns:
        uint8 (H, W, 3) BGR.

    Raises:
        ImageError: the file is missing, cannot be read, or is not an image.
    """
    image = cv2.cvtColor(read_image(path, at_least=max_size), cv2.COLOR_RGB2BGR)
    scale = max_size / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def read_thumbnails(
    paths: list[str], max_size: int, title: str
) -> Iterator[np.ndarray | ImageError]:
    """
    `read_thumbnail` of many, in order; what cannot be read is its error.

    Shows a progress bar on a terminal, and a line elsewhere.
    """
    is_terminal = sys.stderr.isatty()
    if not is_terminal:
        print(f"{title}: {len(paths):,}", file=sys.stderr)

    def read(path: str) -> np.ndarray | ImageError:
        try:
            return read_thumbnail(path, max_size)
        except ImageError as e:
            return e

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV lets go of the interpreter
        yield from tqdm(
            pool.map(read, paths),
            title,
            total=len(paths),
            disable=not is_terminal,
            unit=" images",
            leave=False,
        )
