"""Finds images that look the same, such as frames of one video or copies in other sizes."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from detection.utils.errors import UserError
from detection.utils.images import read_image
from detection.utils.progress import progress

HASH_SIZE = 16  # 256 bits
BLOCK = 1024  # images compared at once, with all that follow


def hash_images(paths: Sequence[str]) -> np.ndarray:
    """
    The perceptual hashes of images: bits, (images, 256), that differ little if the images do.

    JPEGs are decoded at a fraction of their size.

    Raises:
        UserError: an image cannot be read.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = pool.map(_hash_image, paths)
        try:
            return np.stack(list(progress(hashes, len(paths), "hashing images")))
        except UserError:
            pool.shutdown(cancel_futures=True)
            raise


def group_similar(hashes: np.ndarray, max_distance: int) -> np.ndarray:
    """
    Group images that look the same, directly or through others.

    Args:
        hashes: bits (images, 256).
        max_distance: bits in which the hashes of two such images may differ. Of 364 microscope
            images, two of one field of view differed in 26 bits and all other pairs in at least
            88; saving again, scaling and blurring changed up to 6, cropping 2% off each side 20
            to 44.

    Returns:
        The group of each image (images,), numbered from 0.
    """
    unique, places = np.unique(hashes, axis=0, return_inverse=True)
    signs = unique.astype(np.float32) * 2 - 1
    labels = np.arange(len(unique))
    for start in range(0, len(unique), BLOCK):
        # the scalar product of signs is the bits that agree less those that differ
        distances = (signs.shape[1] - signs[start : start + BLOCK] @ signs[start:].T) / 2
        rows, columns = np.nonzero(distances <= max_distance)
        pairs = (labels[rows + start], labels[columns + start])
        graph = coo_array((np.ones(len(rows), bool), pairs), shape=(len(unique), len(unique)))
        labels = connected_components(graph, directed=False)[1][labels]
    return labels[places.reshape(-1)]


def _hash_image(path: str) -> np.ndarray:
    import imagehash  # takes a second to import

    image = Image.fromarray(read_image(path, at_least=8 * HASH_SIZE))
    return imagehash.phash(image, hash_size=HASH_SIZE).hash.reshape(-1)
