"""Faster R-CNN on a plain ViT of timm, under ViTDet's pyramid."""

from detectron2.config import LazyCall as L

from detection.modeling.simple_pyramid import SimplePyramid

from .timm_fpn import model

model.backbone = L(SimplePyramid)(
    bottom_up=model.backbone.bottom_up, in_feature="res4", out_channels=256
)
model.backbone.bottom_up.out_features = ["res4"]
