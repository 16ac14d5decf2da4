"""Small copies of images, read in parallel: for pages and statistics."""

import base64
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from detection.utils.images import ImageError, read_image
from detection.utils.progress import progress

LOOK_SIZE = 256  # pixels of the longer side: images of any size are compared at this one


class Look(NamedTuple):
    """How an image looks, in gray levels from 0 to 255."""

    brightness: float  # the mean
    contrast: float  # the standard deviation
    sharpness: float  # the variance of the Laplacian


def read_thumbnail(path: str, max_size: int) -> np.ndarray:
    """
    An image, shrunk until its longer side is at most `max_size` pixels; never enlarged.

    Args:
        path: of the image; it is upright as its EXIF data say.

    Returns:
        uint8 (H, W, 3) BGR.

    Raises:
        ImageError: the file is missing, unreadable or not an image.
    """
    image = cv2.cvtColor(read_image(path, at_least=max_size), cv2.COLOR_RGB2BGR)
    scale = max_size / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def look_at(thumbnail: np.ndarray) -> Look:
    """How an image looks, from its thumbnail of LOOK_SIZE."""
    gray = cv2.cvtColor(thumbnail, cv2.COLOR_BGR2GRAY)
    return Look(float(gray.mean()), float(gray.std()), float(cv2.Laplacian(gray, cv2.CV_64F).var()))


def read_thumbnails(
    paths: list[str], max_size: int, title: str
) -> Iterator[np.ndarray | ImageError]:
    """
    `read_thumbnail` of many, in order; what cannot be read is its error.
    """

    def read(path: str) -> np.ndarray | ImageError:
        try:
            return read_thumbnail(path, max_size)
        except ImageError as e:
            return e

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV lets go of the interpreter
        yield from progress(pool.map(read, paths), len(paths), title)


def jpeg_uri(image: np.ndarray, quality: int = 80) -> str:
    """A `data:` URI of a uint8 (H, W, 3) BGR image, to stand in a page."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
