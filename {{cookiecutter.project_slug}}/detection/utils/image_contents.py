"""Recognizes files of equal pixels, whatever their names and metadata."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from detection.utils.images import JPEG, Decoded, decode, jpeg_orientation, read_bytes
from detection.utils.progress import progress

START_OF_SCAN = 0xDA  # a JPEG's compressed pixels follow
METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # segments of applications, but Adobe's, and comments


def content_digest(data: bytes, decoded: Decoded | None = None) -> bytes:
    """
    What files of equal pixels have in common, and others do not.

    Of JPEG files it is without decoding: those with other metadata alone are equal, those that were
    compressed again are not.

    Args:
        data: a file's content.
        decoded: what `decode` made of it, if that is known.

    Raises:
        Exception: of many kinds, as of `decode`.
    """
    if data.startswith(JPEG):
        parts = [_without_metadata(data), bytes([jpeg_orientation(data)])]
    else:
        pixels = (decoded or decode(data)).pixels
        parts = [repr(pixels.shape).encode(), pixels]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def label_equal(paths: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """
    Number images so that those of equal pixels share a number.

    Returns:
        One whole number from 0 an image (images,), and the paths of those that cannot be read,
        each of which has a number of its own.
    """

    def digest(path: str) -> bytes | None:
        try:
            return content_digest(read_bytes(path))
        except Exception:  # of many kinds; `make check` says which
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(digest, paths)
        digests = list(progress(found, len(paths), "comparing images"))
    unread = [path for path, digest in zip(paths, digests, strict=True) if digest is None]
    numbers = {}
    keys = [k if digest is None else digest for k, digest in enumerate(digests)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys]), unread


def _without_metadata(data: bytes) -> bytes:
    """A JPEG file without the segments that do not change its pixels."""
    kept, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != START_OF_SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] not in METADATA:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])
