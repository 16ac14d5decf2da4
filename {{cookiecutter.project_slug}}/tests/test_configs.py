"""Every config builds, takes a training step and is evaluated; misspelt overrides are refused."""

import math
from pathlib import Path

import pytest
import torch
from conftest import PROJECT_ROOT, SMOKE, config_files
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage

from detection.classes import CLASSES
from detection.config import load_config
from detection.utils.errors import UserError

# Overrides for configs that are too large for a small machine, or download weights.
BACKBONE = "model.backbone.bottom_up"
FEW_BOXES = [
    "model.roi_heads.batch_size_per_image=16",
    "model.proposal_generator.post_nms_topk=[64,64]",
]
TINY_DETR = [
    "model.multi_scale=[64,96]",
    "model.config={d_model:32,decoder_ffn_dim:32,decoder_layers:2,num_queries:9}",
]
TINY_ENCODER = [
    *TINY_DETR,
    "model.config={encoder_hidden_dim:32,encoder_ffn_dim:32,encoder_in_channels:[16,24,32]}",
    "model.config={decoder_in_channels:[32,32,32],freeze_backbone_batch_norms:False}",
]
TINY_RT_DETR = [
    *TINY_ENCODER,
    "model.config.backbone_config={embedding_size:8,hidden_sizes:[8,16,24,32],depths:[1,1,1,1]}",
]
TINY_D_FINE = [
    *TINY_ENCODER,
    "model.config.backbone_config={stem_channels:[3,8,8],stage_in_channels:[8,8,16,24]}",
    "model.config.backbone_config={stage_mid_channels:[8,8,8,8],stage_num_blocks:[1,1,1,1]}",
    "model.config.backbone_config={stage_out_channels:[8,16,24,32],hidden_sizes:[8,16,24,32]}",
    "model.config.backbone_config={stage_numb_of_layers:[1,1,1,1]}",
]
TINY_RF_DETR = [
    *TINY_DETR,
    "model.config={group_detr:2,decoder_self_attention_heads:4,decoder_cross_attention_heads:4}",
    "model.config.backbone_config={hidden_size:24,num_attention_heads:2,num_hidden_layers:12}",
]
TINY_DINO = [
    "model.transformer={dim:64,feedforward_dim:64,encoder_layers:2,decoder_layers:2,num_queries:9}"
]
SHRUNK = {
    **dict.fromkeys(["d_fine_M", "d_fine_L", "d_fine_X"], TINY_D_FINE),
    **dict.fromkeys(["rf_detr_M", "rf_detr_L"], TINY_RF_DETR),
    **dict.fromkeys(["rt_detr_v2_R_50", "rt_detr_v2_X"], TINY_RT_DETR),
    "dino_R_50": TINY_DINO,
    "dino_convnext_l": [
        *TINY_DINO,
        f"{BACKBONE}.model_name=convnext_atto.d2_in1k",
        f"{BACKBONE}.pretrained=False",
    ],
    "dino_swin_l": [
        *TINY_DINO,
        f"{BACKBONE}.pretrained=False",
        f"{BACKBONE}.model_args={{embed_dim:16,depths:[2,2,2,2],num_heads:[1,2,4,8]}}",
    ],
    "cascade_rcnn_swin_b_FPN": FEW_BOXES,
    "faster_rcnn_R_101_FPN": [f"{BACKBONE}.stages.depth=50"],
    "faster_rcnn_X_101_32x8d_FPN": [f"{BACKBONE}.stages.depth=50"],
    "faster_rcnn_convnext_tiny_FPN": [
        f"{BACKBONE}.model_name=convnext_atto.d2_in1k",
        f"{BACKBONE}.pretrained=False",
    ],
    "faster_rcnn_dinov2_vit_s": [
        f"{BACKBONE}.model_name=vit_tiny_patch16_224.augreg_in21k",
        f"{BACKBONE}.pretrained=False",
        f"{BACKBONE}.model_args={{depth:4,embed_dim:64,num_heads:2,img_size:64}}",
    ],
    "faster_rcnn_dinov3_convnext_tiny_FPN": [
        f"{BACKBONE}.model_name=convnext_atto.d2_in1k",
        f"{BACKBONE}.pretrained=False",
    ],
    "faster_rcnn_efficientnet_b3_FPN": [
        f"{BACKBONE}.model_name=efficientnet_b0.ra_in1k",
        f"{BACKBONE}.pretrained=False",
        f"{BACKBONE}.freeze_norm=False",
    ],
    "faster_rcnn_swin_tiny_FPN": [f"{BACKBONE}.pretrained=False"],
    "faster_rcnn_mvitv2_t_FPN": FEW_BOXES,
    "faster_rcnn_vitdet_b": [*FEW_BOXES, "model.backbone.square_pad=96"],
}


@pytest.mark.parametrize("config_file", config_files())
def test_config_takes_a_training_step_and_is_evaluated(config_file, on_toy, tmp_path):
    overrides = [*on_toy, *SHRUNK.get(Path(config_file).stem, []), f"train.output_dir='{tmp_path}'"]
    overrides.append("dataloader.evaluator.only_seen=True")
    cfg = load_config(str(PROJECT_ROOT / config_file), overrides)
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]

    batch = next(iter(instantiate(cfg.dataloader.train)))
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    optimizer.step()

    assert len(batch) == 2
    assert all(math.isfinite(loss.item()) for loss in losses.values()), losses
    after = [p for p in model.parameters() if p.requires_grad]
    assert any(not torch.equal(b, a) for b, a in zip(before, after, strict=True))

    model.eval()
    images = next(iter(instantiate(cfg.dataloader.test)))
    with torch.no_grad():
        outputs = model(images)
    instances = outputs[0]["instances"]
    assert (instances.pred_classes < len(CLASSES)).all()
    assert instances.has("pred_masks") == ("mask" in config_file)
    evaluator = instantiate(cfg.dataloader.evaluator)
    evaluator.process(images, outputs)
    assert "AP" in evaluator.evaluate()["bbox"]
    scheduler = instantiate(cfg.lr_multiplier)
    assert scheduler(0.0) < scheduler(0.5) and scheduler(0.999) < scheduler(0.5)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("train.max_itr=3", "train.max_iter"),
        ("model.roi_head.num_classes=3", "model.roi_heads.num_classes"),
        ("writers.wanb.project=x", "writers.wandb.project"),
    ],
)
def test_misspelt_override_is_refused(override, meant):
    with pytest.raises(UserError) as error:
        load_config(str(PROJECT_ROOT / SMOKE), [override])
    assert meant in str(error.value) and "\n" not in str(error.value)
