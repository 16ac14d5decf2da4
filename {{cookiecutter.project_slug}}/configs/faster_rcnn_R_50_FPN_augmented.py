"""Faster R-CNN R50-FPN with mosaic, mixup and strong augmentation, trained twice as long."""

from .common.augmentations import mixing, strong
from .faster_rcnn_R_50_FPN import (
    dataloader,
    dataset,
    lr_multiplier,
    model,
    optimizer,
    train,
    writers,
)

train.output_dir = "output/faster_rcnn_R_50_FPN_augmented"
train.max_iter = 2 * train.max_iter  # harder images take longer to learn

dataloader.train.mapper.mixing = mixing
dataloader.train.mapper.transforms = strong
