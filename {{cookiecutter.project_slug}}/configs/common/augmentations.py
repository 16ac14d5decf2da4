"""
Augmentations: those that every config has, and more to choose from, by one line of a config:

    from .common.augmentations import mixing, strong
    dataloader.train.mapper.mixing = mixing
    dataloader.train.mapper.albumentations = strong

`make preview` shows what comes of them. Any transform of albumentations that keeps boxes can go
into such a list, by name, as importing that library takes seconds; the command line takes them too:

    'dataloader.train.mapper.albumentations=[{_target_: albumentations.VerticalFlip, p: 0.5}]'
"""

import os

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from detection.data.mixing import MixUp, Mosaic
from detection.data.resizing import ResizeShortestEdge

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import asks PyPI for a newer one

# what every config has: training images are resized and flipped, all others only resized
default = [
    L(ResizeShortestEdge)(
        short_edge_length=(832, 864, 896, 928, 960, 992, 1024),
        sample_style="choice",
        max_size=1333,
    ),
    L(T.RandomFlip)(horizontal=True),
]
default_test = [L(ResizeShortestEdge)(short_edge_length=1024, max_size=1333)]

# brightness, colour and sharpness: no box moves
photometric = [
    L("albumentations.RandomBrightnessContrast")(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
    L("albumentations.HueSaturationValue")(
        hue_shift_limit=8, sat_shift_limit=20, val_shift_limit=0, p=0.3
    ),
    L("albumentations.OneOf")(
        transforms=[
            L("albumentations.GaussianBlur")(blur_limit=(3, 5)),
            L("albumentations.GaussNoise")(std_range=(0.01, 0.04)),
            L("albumentations.ImageCompression")(quality_range=(60, 95)),
        ],
        p=0.2,
    ),
]

# for what has no upside, such as cells, or the ground from above; a quarter turn keeps boxes tight
turns = [L("albumentations.SquareSymmetry")(p=0.75)]

# cuts away only what lies outside of all boxes
crops = [L("albumentations.BBoxSafeRandomCrop")(erosion_rate=0.0, p=0.3)]

strong = [*crops, *photometric]

# scale jitter comes with both: each image shows at 0.4 to 1, or 0.5 to 1.5, of its size
mixing = [L(Mosaic)(p=0.5, scale=(0.4, 1.0)), L(MixUp)(p=0.1, scale=(0.5, 1.5))]
