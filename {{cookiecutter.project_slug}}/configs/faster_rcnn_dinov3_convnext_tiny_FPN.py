"""
Faster R-CNN on DINOv3's ConvNeXt-Tiny (Siméoni et al., arXiv:2508.10104), from its weights by timm.

The weights are under Meta's DINOv3 License, not an open-source one: read it before you submit.
"""

from .faster_rcnn_convnext_tiny_FPN import (
    dataloader,
    dataset,
    lr_multiplier,
    model,
    optimizer,
    train,
    writers,
)

train.output_dir = "output/faster_rcnn_dinov3_convnext_tiny_FPN"

model.backbone.bottom_up.model_name = "convnext_tiny.dinov3_lvd1689m"
