"""Gives a model the anchors of configs/common/anchors.py."""

import math
from collections.abc import Mapping, Sequence

from omegaconf import DictConfig

from detection.utils.errors import UserError


def set_anchors(owner: DictConfig, anchors: Mapping[str, Sequence[float] | None]) -> None:
    """
    Set sizes and aspect ratios of a config's anchors, and the outputs of the head to their number.

    Args:
        owner: what has `anchor_generator` and `head`: an RPN, or a one-stage model.
        anchors: `sizes` by level of the pyramid, finest first, in pixels, and `aspect_ratios`
            (height / width) of all levels; without them, or with None, they stay as they are.

    Raises:
        UserError: another key, or anything but lists of positive numbers.
    """
    for name, values in anchors.items():
        is_known, is_list = name in ("sizes", "aspect_ratios"), isinstance(values, Sequence)
        are_positive = is_list and len(values) and all(map(_is_positive, values))
        if not is_known or not (values is None or are_positive):
            raise UserError(
                f"configs/common/anchors.py: {name}={values} is not None or a list of positive "
                "numbers named sizes or aspect_ratios; `make explore ARGS=--write-anchors` writes "
                "both"
            )
    generator = owner.anchor_generator
    count = len(generator.sizes[0])
    if anchors.get("sizes") is not None:
        generator.sizes = by_level(anchors["sizes"], [count] * len(generator.strides))
    if anchors.get("aspect_ratios") is not None:
        generator.aspect_ratios = list(anchors["aspect_ratios"])
        owner.head.num_anchors = count * len(generator.aspect_ratios)


def by_level(sizes: Sequence[float], counts: Sequence[int]) -> list[list[float]]:
    """
    The sizes of each level, as many as `counts` says: from the level's own on, in equal steps of an
    octave. Levels beyond the last size have twice that of the one before.
    """
    more = [sizes[-1] * 2**k for k in range(1, len(counts) - len(sizes) + 1)]
    return [
        [size, *(round(size * 2 ** (k / count), 2) for k in range(1, count))]
        for size, count in zip([*sizes, *more], counts, strict=False)
    ]


def _is_positive(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf
