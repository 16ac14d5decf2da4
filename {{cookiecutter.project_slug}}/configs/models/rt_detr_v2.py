"""RT-DETRv2 R50 (Lv et al., arXiv:2407.17140), as `transformers` has it."""

from detectron2.config import LazyCall as L

from detection.classes import CLASSES
from detection.modeling.transformers_detector import TransformersDetector

model = L(TransformersDetector)(
    model_type="rt_detr_v2",
    num_classes=len(CLASSES),
    config=dict(  # what differs from RTDetrV2Config's defaults, and what one may want to change
        freeze_backbone_batch_norms=True,  # False where nothing is pretrained
        num_queries=300,
        num_denoising=100,
        decoder_layers=6,
        backbone_config=dict(
            model_type="rt_detr_resnet",
            depths=[3, 4, 6, 3],
            out_features=["stage2", "stage3", "stage4"],
        ),
    ),
    input_format="RGB",
    pixel_mean=[0.0, 0.0, 0.0],
    pixel_std=[255.0, 255.0, 255.0],
    size_divisibility=32,
    takes_mask=False,
    multi_scale=list(range(480, 801, 32)),  # of the canvas, in training
    gradient_checkpointing=False,
    log_layers=False,
    test_score_thresh=0.001,
    max_detections_per_image=100,
)
