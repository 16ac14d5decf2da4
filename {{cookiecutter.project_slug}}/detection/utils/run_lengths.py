"""COCO's run lengths: checked before pycocotools reads them, which trusts them, and written."""

import numpy as np

MOST_DIGITS = 7  # of 5 bits, of one run: more than any image has pixels


def run_length_problem(segmentation: dict, size: tuple[int, int] | None = None) -> str:
    """
    What is wrong with run lengths, compressed (text) or not (a list); empty if nothing.

    Nothing is allocated by the size that they claim.

    Args:
        segmentation: `{"size": [height, width], "counts": …}`.
        size: (width, height) of the image; None: not known.
    """
    height_width, counts = segmentation.get("size"), segmentation.get("counts")
    if not (_are_whole(height_width) and len(height_width) == 2):
        return f'"size" must be [height, width], it is {repr(height_width)[:60]}'
    height, width = height_width
    if size and (width, height) != tuple(size):
        return f"the mask is {width}×{height}, the image {size[0]}×{size[1]}"
    if isinstance(counts, str):
        runs = _uncompressed(counts)
        total = None if runs is None or (runs < 0).any() else int(runs.sum())
    else:
        total = sum(counts) if _are_whole(counts) else None
    if total is None:
        return '"counts" are not run lengths'
    if total != height * width:
        return f"its runs have {total} pixels in all, {width}×{height} are {height * width}"
    return ""


def _uncompressed(text: str) -> np.ndarray | None:
    """
    The runs of pycocotools' text, int64 (N,); None if it is cut off or something else.

    A run is written as digits of 5 bits, the lowest first, with 32 added where another follows and
    a sign in the last one's 16; from the fourth on as the difference to the one before the last.
    """
    if not text.isascii():
        return None
    digits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if not len(digits):
        return digits
    if digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return None
    ends = np.flatnonzero((digits & 32) == 0)
    starts = np.r_[0, ends[:-1] + 1]
    lengths = ends - starts + 1
    if lengths.max() > MOST_DIGITS:
        return None
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & 31) << (5 * places), starts)
    runs -= np.where(digits[ends] & 16, 1 << (5 * lengths), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def _are_whole(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1e9 for v in values)


def run_lengths(mask: np.ndarray) -> dict:
    """
    A mask as COCO's compressed run lengths, as pycocotools encodes it.

    Args:
        mask: bool (H, W).

    Returns:
        `{"size": [height, width], "counts": text}`.
    """
    pixels = mask.ravel(order="F")
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff(np.r_[0, edges, len(pixels)])
    if len(pixels) and pixels[0]:  # the first run is of the background
        runs = np.r_[0, runs]
    runs[3:] -= runs[1:-2].copy()
    digits = []
    for rest in runs.tolist():
        more = True
        while more:
            digit, rest = rest & 31, rest >> 5
            more = rest != (-1 if digit & 16 else 0)
            digits.append(48 + digit + 32 * more)
    return {"size": list(mask.shape), "counts": bytes(digits).decode()}
