"""Faster R-CNN X101-FPN (ResNeXt-101 32x8d), fine-tuned from COCO."""

from detectron2.config import LazyCall as L

from detection.modeling.resnext import resnext_stages

from .faster_rcnn_R_50_FPN import (
    dataloader,
    dataset,
    lr_multiplier,
    model,
    optimizer,
    train,
    writers,
)

train.output_dir = "output/faster_rcnn_X_101_32x8d_FPN"
train.init_checkpoint = (
    "detectron2://COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x/139173657/model_final_68b088.pkl"
)

model.backbone.bottom_up.stages = L(resnext_stages)(
    depth=101, num_groups=32, width_per_group=8, norm="FrozenBN"
)
model.pixel_std = [57.375, 57.120, 58.395]  # unlike the zoo's ResNets, it was trained with these
