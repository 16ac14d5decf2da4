"""
Augmentations: those that every config has, and more to choose from, by one line of a config:

    from .common.augmentations import mixing, strong
    dataloader.train.mapper.mixing = mixing
    dataloader.train.mapper.transforms = strong

`make preview` shows the result. A list can have any transform of torchvision.transforms.v2 that
supports boxes; boxes and masks move with the image. (A `fill` must be a single number.) The command
line takes them too:

    'dataloader.train.mapper.transforms=[{_target_: torchvision.transforms.v2.RandomVerticalFlip}]'

Transforms of albumentations go into `dataloader.train.mapper.albumentations`, once that library is
installed (`uv add albumentations`); they move boxes only.
"""

import torchvision.transforms.v2 as T
from detectron2.config import LazyCall as L
from detectron2.data.transforms import RandomFlip

from detection.data.copy_paste import CopyPaste
from detection.data.mixing import MixUp, Mosaic
from detection.data.resizing import ResizeShortestEdge
from detection.data.transforms import JPEG, BoxSafeCrop, ColorJitter, GaussianBlur, GaussianNoise

# what every config has: training images are resized and flipped, all others only resized
default = [
    L(ResizeShortestEdge)(
        short_edge_length=(832, 864, 896, 928, 960, 992, 1024),
        sample_style="choice",
        max_size=1333,
    ),
    L(RandomFlip)(horizontal=True),
]
default_test = [L(ResizeShortestEdge)(short_edge_length=1024, max_size=1333)]

# colour and sharpness; no box moves
photometric = [
    L(T.RandomApply)(
        transforms=[L(ColorJitter)(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.03)],
        p=0.6,
    ),
    L(T.RandomApply)(
        transforms=[
            L(T.RandomChoice)(
                transforms=[
                    L(GaussianBlur)(kernel_size=5, sigma=(0.5, 1.1)),
                    L(GaussianNoise)(sigma=(0.01, 0.04)),
                    L(JPEG)(quality=(60, 95)),
                ]
            )
        ],
        p=0.2,
    ),
]

# for images without a natural "up", such as cells or aerial photos; boxes stay tight
turns = [
    L(T.RandomHorizontalFlip)(),
    L(T.RandomVerticalFlip)(),
    L(T.RandomApply)(transforms=[L(T.RandomRotation)(degrees=(90, 90), expand=True)], p=0.5),
]

# cuts away only what is outside of all boxes
crops = [L(T.RandomApply)(transforms=[L(BoxSafeCrop)()], p=0.3)]

strong = [*crops, *photometric]

# what RT-DETR and D-FINE are trained with: colour, a smaller image on a black canvas, a crop that
# may cut objects
zoom = [
    L(T.RandomApply)(
        transforms=[L(ColorJitter)(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05)],
        p=0.5,
    ),
    L(T.RandomZoomOut)(fill=0),
    L(T.RandomApply)(transforms=[L(T.RandomIoUCrop)()], p=0.8),
]

# both also jitter the scale: images are shrunk to 0.4 to 1, or resized to 0.5 to 1.5, of their size
mixing = [L(Mosaic)(p=0.5, scale=(0.4, 1.0)), L(MixUp)(p=0.1, scale=(0.5, 1.5))]

# objects of other images, all classes equally often, so that rare ones are seen more
copy_paste = [L(CopyPaste)(p=0.5, count=(1, 3), scale=(0.5, 1.5), balance=1.0)]
