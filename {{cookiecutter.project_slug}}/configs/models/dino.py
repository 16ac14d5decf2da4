"""DINO R50 with four scales (Zhang et al., arXiv:2203.03605)."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet

from detection.classes import CLASSES
from detection.modeling.dino.criterion import Criterion
from detection.modeling.dino.denoising import ContrastiveDenoising
from detection.modeling.dino.detector import DINO
from detection.modeling.dino.neck import ChannelMapper
from detection.modeling.dino.transformer import DeformableTransformer

model = L(DINO)(
    backbone=L(ChannelMapper)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
            stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="FrozenBN"),
            out_features=["res3", "res4", "res5"],
            freeze_at=2,
        ),
        in_features="${.bottom_up.out_features}",  # with res2: five scales
        out_channels="${..transformer.dim}",
        num_levels="${..transformer.num_levels}",
        norm_inputs=False,  # True: for Swin and ConvNeXt
    ),
    transformer=L(DeformableTransformer)(
        num_classes="${..num_classes}",
        dim=256,
        num_heads=8,
        feedforward_dim=2048,
        num_levels=4,
        num_points=4,
        encoder_layers=6,
        decoder_layers=6,
        num_queries=900,
        gradient_checkpointing=False,
    ),
    denoising=L(ContrastiveDenoising)(
        num_classes="${..num_classes}",
        dim="${..transformer.dim}",
        num_queries=100,  # 0: no denoising
        label_noise=0.5,
        box_noise=0.4,
    ),
    criterion=L(Criterion)(
        class_weight=1.0,
        box_weight=5.0,
        iou_weight=2.0,
        class_cost=2.0,
        box_cost=5.0,
        iou_cost=2.0,
    ),
    num_classes=len(CLASSES),
    input_format="RGB",
    pixel_mean=[123.675, 116.280, 103.530],
    pixel_std=[58.395, 57.120, 57.375],
    size_divisibility=32,
    log_layers=False,
    test_score_thresh=0.001,
    max_detections_per_image=100,
)
