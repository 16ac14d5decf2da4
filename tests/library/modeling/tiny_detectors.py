"""DETRs that are small enough to train in a test, with random weights."""

import torch
from conftest import PROJECT_ROOT
from detection.modeling.dino.detector import DINO
from detection.modeling.transformers_detector import TransformersDetector
from detectron2.config import LazyConfig, instantiate

HYBRID = {
    "d_model": 32,
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_in_channels": [32, 32, 32],
    "encoder_in_channels": [16, 24, 32],
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 20,
    "num_denoising": 8,
    "freeze_backbone_batch_norms": False,
}
CONFIGS = {
    "rt_detr_v2": dict(
        **HYBRID,
        backbone_config={
            "model_type": "rt_detr_resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "out_features": ["stage2", "stage3", "stage4"],
        },
    ),
    "d_fine": dict(
        **HYBRID,
        backbone_config={
            "model_type": "hgnet_v2",
            "out_indices": [2, 3, 4],
            "hidden_sizes": [8, 16, 24, 32],
            "stem_channels": [3, 8, 8],
            "stage_in_channels": [8, 8, 16, 24],
            "stage_mid_channels": [8, 8, 8, 8],
            "stage_out_channels": [8, 16, 24, 32],
            "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [1, 1, 1, 1],
        },
    ),
    "rf_detr": {
        "d_model": 32,
        "decoder_ffn_dim": 32,
        "decoder_layers": 2,
        "decoder_self_attention_heads": 4,
        "decoder_cross_attention_heads": 4,
        "decoder_n_points": 2,
        "num_queries": 20,
        "group_detr": 2,
        "dropout": 0.0,
        "backbone_config": {
            "model_type": "rf_detr_dinov2",
            "image_size": 96,
            "patch_size": 16,
            "num_windows": 2,
            "hidden_size": 24,
            "num_attention_heads": 2,
            "num_hidden_layers": 4,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
    },
    "deformable_detr": {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "num_queries": 20,
        "num_feature_levels": 2,
        "auxiliary_loss": True,
        "backbone_config": {
            "model_type": "resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 16, 24, 32],
            "depths": [1, 1, 1, 1],
            "out_features": ["stage3", "stage4"],
        },
    },
}
MASKED = {"rf_detr", "deformable_detr"}
IMAGENET = {"pixel_mean": [123.675, 116.280, 103.530], "pixel_std": [58.395, 57.120, 57.375]}


def tiny_detector(family: str, num_classes: int = 3, **arguments) -> TransformersDetector:
    """A detector whose predictions differ from query to query, as a trained one's do."""
    torch.manual_seed(0)
    if family in MASKED:
        arguments = {**IMAGENET, "takes_mask": True, **arguments}
    detector = TransformersDetector(family, num_classes, config=CONFIGS[family], **arguments)
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if parameter.ndim > 1 and "backbone" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return detector


def tiny_dino(num_classes: int = 3, transformer: dict | None = None, **arguments) -> DINO:
    """DINO on a ResNet-18, with predictions that differ from query to query."""
    torch.manual_seed(0)
    model = LazyConfig.load(str(PROJECT_ROOT / "configs/models/dino.py")).model
    model.backbone.bottom_up.stages.depth = 18
    del model.backbone.bottom_up.stages.stride_in_1x1  # ResNet-50's blocks only
    sizes = {
        "dim": 32,
        "num_heads": 4,
        "feedforward_dim": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
    }
    model.transformer.update({**sizes, "num_queries": 20, **(transformer or {})})
    model.denoising.num_queries = 8
    model.update(num_classes=num_classes, **arguments)
    detector = instantiate(model)
    with torch.no_grad():
        for parameter in detector.transformer.parameters():
            if parameter.ndim > 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return detector
