"""
Boxes stay on their objects through transforms of albumentations.

The library is not a dependency: tests/test_generated_project.py installs it and names this file.
"""

import albumentations as A
import numpy as np
import pytest
from detection.data.albumentations import Pipeline
from detection.data.samples import Sample
from detection.utils.errors import UserError
from planted import plant
from test_mappers import FLIP, check_boxes, mapper, seed_all

SLACK = 1e-4  # it keeps boxes in float32


@pytest.mark.parametrize(
    ("transforms", "slack"),
    [
        ([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)], SLACK),
        ([A.RandomRotate90(p=1)], SLACK),
        ([A.SquareSymmetry(p=1), A.BBoxSafeRandomCrop(p=0.5)], SLACK),
        ([A.RandomScale((-0.4, 0.6), p=1)], 1.5),
        ([A.RandomBrightnessContrast(0.05, 0.05, p=1)], 0),
    ],
)
def test_boxes_stay_on_their_objects(tmp_path, transforms, slack):
    records = [plant(tmp_path, 0), plant(tmp_path, 1, (64, 96))]
    augment = mapper(albumentations=transforms, augmentations=[FLIP])
    for seed in range(20):
        seed_all(seed)
        check_boxes(augment(records[seed % 2]), slack)


def test_images_without_boxes(tmp_path):
    empty = {**plant(tmp_path, 0), "annotations": []}
    augment = mapper(albumentations=[A.HorizontalFlip(p=1), A.BBoxSafeRandomCrop(p=1)])
    assert len(augment(empty)["instances"]) == 0


def test_masks_are_refused():
    with pytest.raises(UserError, match="albumentations do not move masks"):
        mapper(albumentations=[A.HorizontalFlip()], masks=True)


def test_transforms_follow_the_seed_and_are_independent_of_each_other():
    pipeline = Pipeline([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)], 1, 0)
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    sample = Sample(image, np.zeros((0, 4)), np.zeros(0, dtype=np.int64))
    corners = {0: 0, 3: 0, 6: 0, 9: 0}
    for seed in range(200):
        np.random.seed(seed)
        corner = int(pipeline(sample).image[0, 0, 0])
        corners[corner] += 1
        np.random.seed(seed)
        assert pipeline(sample).image[0, 0, 0] == corner
    assert min(corners.values()) > 25, corners


def test_mistyped_argument_of_albumentations():
    with pytest.warns(UserWarning, match="blur_limt"):  # its own, easily overlooked
        flip = A.OneOf([A.HorizontalFlip(p=1), A.Blur(blur_limt=3)])
    with pytest.raises(UserError, match=r"Blur.*blur_limt"):
        mapper(albumentations=[flip])
