"""
Augmentations to choose from; a config takes a list, or its own selection, in one line:

    from .common.augmentations import mixing, strong
    dataloader.train.mapper.mixing = mixing
    dataloader.train.mapper.albumentations = strong

`make preview` shows what comes of them. Any transform of albumentations that keeps boxes can go
into such a list; the command line takes them too:

    'dataloader.train.mapper.albumentations=[{_target_: albumentations.VerticalFlip, p: 0.5}]'
"""

from detectron2.config import LazyCall as L

from detection.data.albumentations import A
from detection.data.mixing import MixUp, Mosaic

# brightness, colour and sharpness: no box moves
photometric = [
    L(A.RandomBrightnessContrast)(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
    L(A.HueSaturationValue)(hue_shift_limit=8, sat_shift_limit=20, val_shift_limit=0, p=0.3),
    L(A.OneOf)(
        transforms=[
            L(A.GaussianBlur)(blur_limit=(3, 5)),
            L(A.GaussNoise)(std_range=(0.01, 0.04)),
            L(A.ImageCompression)(quality_range=(60, 95)),
        ],
        p=0.2,
    ),
]

# for what has no upside, such as cells, or the ground from above; a quarter turn keeps boxes tight
turns = [L(A.SquareSymmetry)(p=0.75)]

# cuts away only what lies outside of all boxes
crops = [L(A.BBoxSafeRandomCrop)(erosion_rate=0.0, p=0.3)]

strong = [*crops, *photometric]

# scale jitter comes with both: each image shows at 0.4 to 1, or 0.5 to 1.5, of its size
mixing = [L(Mosaic)(p=0.5, scale=(0.4, 1.0)), L(MixUp)(p=0.1, scale=(0.5, 1.5))]
