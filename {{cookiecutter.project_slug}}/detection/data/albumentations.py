"""
Applies transforms of albumentations, which a project installs itself: `uv add albumentations`.

No other module knows this library. It is no longer maintained, and its successor is under the AGPL.
"""

import os
import random
import warnings
from collections.abc import Sequence

import numpy as np

from detection.data.samples import Sample
from detection.utils.errors import UserError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import asks PyPI for a newer one


class Pipeline:
    """Applies albumentations transforms to an image and its boxes."""

    def __init__(self, transforms: Sequence, min_area: float, min_visibility: float):
        """
        Args:
            transforms: albumentations' transforms or compositions, applied in this order.
            min_area: boxes that are left with fewer square pixels are dropped.
            min_visibility: boxes of which a smaller part is left, from 0 to 1, are dropped.

        Raises:
            UserError: a transform was given an argument that it does not have, or the library is
                not installed.
        """
        try:
            import albumentations as A
        except ModuleNotFoundError as e:
            raise UserError(
                "dataloader.train.mapper.albumentations: albumentations is not installed: "
                "uv add albumentations, or use dataloader.train.mapper.transforms"
            ) from e
        _refuse_unknown_arguments(transforms)
        bbox_params = A.BboxParams(
            "pascal_voc",
            label_fields=["labels"],
            min_area=min_area,
            min_visibility=min_visibility,
            clip=True,
            filter_invalid_bboxes=True,
        )
        with warnings.catch_warnings():
            # it warns if no transform moves boxes
            warnings.filterwarnings("ignore", message="Got processor for bboxes")
            self._compose = A.Compose(list(transforms), bbox_params=bbox_params)

    def __call__(self, sample: Sample) -> Sample:
        """Transform a sample, with random numbers that depend on NumPy's global generator."""
        # One generator for all transforms: `set_random_seed` would give each its own one with the
        # same numbers, so that two flips of p=0.5 would always happen together.
        self._compose.set_random_state(
            np.random.default_rng(np.random.randint(2**32, dtype=np.uint64)),
            random.Random(np.random.randint(2**32, dtype=np.uint64).item()),
        )
        result = self._compose(image=sample.image, bboxes=sample.boxes, labels=sample.labels)
        return Sample(
            result["image"],
            np.asarray(result["bboxes"], dtype=np.float64).reshape(-1, 4),
            np.asarray(result["labels"], dtype=np.int64).reshape(-1),
        )


def _refuse_unknown_arguments(transforms: Sequence) -> None:
    for transform in transforms:
        if unknown := getattr(transform, "invalid_args", None):
            raise UserError(
                f"albumentations' {type(transform).__name__} has no argument "
                f"{', '.join(unknown)}; see dataloader.train.mapper.albumentations"
            )
        _refuse_unknown_arguments(getattr(transform, "transforms", ()))
