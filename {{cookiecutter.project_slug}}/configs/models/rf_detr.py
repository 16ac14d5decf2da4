"""RF-DETR M (Robinson et al., arXiv:2511.09554), as `transformers` has it."""

from detectron2.config import LazyCall as L

from detection.classes import CLASSES
from detection.modeling.transformers_detector import TransformersDetector

model = L(TransformersDetector)(
    model_type="rf_detr",
    num_classes=len(CLASSES),
    config=dict(  # what differs from RfDetrConfig's defaults, and what one may want to change
        num_queries=300,
        group_detr=13,
        decoder_layers=4,
        decoder_n_points=2,
        dropout=0.0,
        backbone_config=dict(  # DINOv2 S, with attention in windows
            model_type="rf_detr_dinov2",
            image_size=576,
            patch_size=16,
            num_windows=2,
            hidden_size=384,
            num_attention_heads=6,
            num_hidden_layers=12,
            out_features=["stage3", "stage6", "stage9", "stage12"],
        ),
    ),
    input_format="RGB",
    pixel_mean=[123.675, 116.280, 103.530],
    pixel_std=[58.395, 57.120, 57.375],
    size_divisibility=32,  # patch_size × num_windows
    takes_mask=True,
    multi_scale=list(range(416, 737, 32)),  # of the canvas, in training
)
