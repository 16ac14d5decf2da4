"""Small copies of images, read in parallel: for pages, and to tell how images look."""

import base64
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

LOOK_SIZE = 256  # pixels of the longer side: images of any size are compared at this one


class Look(NamedTuple):
    """How an image looks, in gray levels from 0 to 255."""

    brightness: float  # the mean
    contrast: float  # the standard deviation
    sharpness: float  # the variance of the Laplacian


def read_thumbnail(path: str, width: int, height: int, max_size: int) -> np.ndarray:
    """
    An image, shrunk until its longer side is at most `max_size` pixels; never enlarged.

    Args:
        path: JPEG, PNG or what else OpenCV reads; turned as its EXIF orientation says.
        width, height: what the annotations say; a JPEG much larger is decoded at a fraction.

    Returns:
        uint8 (H, W, 3) BGR.

    Raises:
        OSError: the file is not there, cannot be read, or is no image; its `strerror` says which.
    """
    try:
        data = np.fromfile(path, np.uint8)  # cv2.imread cannot open every file name on Windows
    except ValueError as e:  # a null byte in its name
        raise OSError(None, str(e), path) from e
    factor = next((f for f in (8, 4, 2) if max(width, height) >= f * max_size), 1)
    flag = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4}
    flag |= {2: cv2.IMREAD_REDUCED_COLOR_2, 1: cv2.IMREAD_COLOR}
    try:
        image = cv2.imdecode(data, flag[factor]) if data.size else None
    except cv2.error:
        image = None
    if image is None:
        raise OSError(None, "no image that can be read", path)
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
    files: list[tuple[str, int, int]], max_size: int, title: str
) -> Iterator[np.ndarray | OSError]:
    """
    `read_thumbnail` of many (path, width, height), in order; what cannot be read is its error.

    Shows a progress bar on a terminal, and a line elsewhere.
    """
    is_terminal = sys.stderr.isatty()
    if not is_terminal:
        print(f"{title}: {len(files):,}", file=sys.stderr)

    def read(file: tuple[str, int, int]) -> np.ndarray | OSError:
        try:
            return read_thumbnail(*file, max_size)
        except OSError as e:
            return e

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV lets go of the interpreter
        yield from tqdm(
            pool.map(read, files),
            title,
            total=len(files),
            disable=not is_terminal,
            unit=" images",
            leave=False,
        )


def jpeg_uri(image: np.ndarray, quality: int = 80) -> str:
    """A `data:` URI of a uint8 (H, W, 3) BGR image, to stand in a page."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
