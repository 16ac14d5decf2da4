"""Cascade R-CNN on Swin-B (Liu et al., 2021), with the heads of ViTDet's comparison."""

from detectron2.config import LazyCall as L
from detectron2.modeling import SwinTransformer

from .cascade_rcnn import model

model.backbone.bottom_up = L(SwinTransformer)(
    depths=[2, 2, 18, 2],
    drop_path_rate=0.4,
    embed_dim=128,
    num_heads=[4, 8, 16, 32],
)
model.backbone.in_features = ("p0", "p1", "p2", "p3")
model.backbone.norm = "LN"
model.proposal_generator.head.conv_dims = [-1, -1]
for box_head in model.roi_heads.box_heads:
    box_head.conv_dims = [256, 256, 256, 256]
    box_head.fc_dims = [1024]
    box_head.conv_norm = "LN"

# as in the pretraining
model.input_format = "RGB"
model.pixel_mean = [123.675, 116.280, 103.530]
model.pixel_std = [58.395, 57.120, 57.375]
