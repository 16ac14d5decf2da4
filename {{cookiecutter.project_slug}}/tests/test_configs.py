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
SHRUNK = {
    "cascade_rcnn_swin_b_FPN": FEW_BOXES,
    "faster_rcnn_R_101_FPN": [f"{BACKBONE}.stages.depth=50"],
    "faster_rcnn_X_101_32x8d_FPN": [f"{BACKBONE}.stages.depth=50"],
    "faster_rcnn_convnext_tiny_FPN": [
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
