"""
Makes samples of more than 8 bits, integers or floats, 8.

White, which becomes 255, is

- `WHITE`, if it is set;
- for integers of fewer than 32 bits the largest that the file's bits per sample hold, or as many
  bits as a TIFF's MaxSampleValue needs: 4095 for a 12-bit TIFF, 65535 for a PNG of 16 bits;
- for floats and 32-bit integers, which hardly ever use their whole range, the first of 1 (floats
  only), 255 and 65535 that no value exceeds, else the largest value.
"""

import numpy as np

# e.g. 4095 where files of 16 bits hold values of 12 and do not say so, which `make check` finds
WHITE = None

BITS_PER_SAMPLE, MAX_SAMPLE_VALUE, SAMPLE_FORMAT, S_MAX_SAMPLE_VALUE = 258, 281, 339, 341  # TIFF's
SIGNED = 2  # a SAMPLE_FORMAT


def to_eight_bits(values: np.ndarray, tags: dict) -> tuple[np.ndarray, float, float]:
    """
    Scale samples to 0…255.

    Args:
        values: integers or floats, of any shape.
        tags: TIFF's, by number, or what is known of another file in their words.

    Returns:
        uint8 of the same shape, the largest sample, and the sample that became 255.
    """
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, posinf=0, neginf=0)
    peak = values.max().item()
    white = WHITE or _white(values.dtype, tags, peak)
    if values.dtype.kind == "f":
        values = (values * (255 / white)).round()
    elif white == 65535:
        values = values >> 8
    else:
        values = (values * (256 / (white + 1))).astype(np.int64)
    return values.clip(0, 255).astype(np.uint8), peak, white


def bits_per_sample(tags: dict) -> int:
    """Of the deepest channel; 0 if the tags do not say."""
    return max(np.atleast_1d(tags.get(BITS_PER_SAMPLE, 0)).tolist())


def _white(dtype: np.dtype, tags: dict, peak: float) -> float:
    said = max(np.atleast_1d(tags.get(S_MAX_SAMPLE_VALUE, tags.get(MAX_SAMPLE_VALUE, 0))).tolist())
    bits = min(bits_per_sample(tags) or 64, 8 * dtype.itemsize)
    if dtype.kind != "f" and bits < 32:
        is_signed = SIGNED in np.atleast_1d(tags.get(SAMPLE_FORMAT, 1))
        return 2 ** (int(said).bit_length() or bits - is_signed) - 1
    steps = (1, 255, 65535) if dtype.kind == "f" else (255, 65535)
    largest = max(said, peak)
    return next((white for white in steps if largest <= white), largest)
