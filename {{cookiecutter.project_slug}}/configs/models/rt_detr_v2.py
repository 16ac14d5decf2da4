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
    multi_scale=list(range(480, 801, 32)),  # of the canvas, in training
)
