"""Every config builds and takes a step; overrides reach it, and mistyped ones do not pass."""

import math
from pathlib import Path

import pytest
import torch
from conftest import PROJECT_ROOT
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.events import EventStorage

from detection.classes import CLASSES
from detection.config import apply_overrides, load_config, parse_args
from detection.errors import UserError

LEAVES = sorted(
    str(path.relative_to(PROJECT_ROOT))
    for folder in ("configs", "configs/debug")
    for path in (PROJECT_ROOT / folder).glob("*.py")
)


# what a small machine without a network can bear
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


@pytest.mark.parametrize("config_file", LEAVES)
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


def test_milestones_follow_max_iter():
    cfg = load_config(str(PROJECT_ROOT / LEAVES[-1]), ["train.max_iter=90"])
    cfg.lr_multiplier = LazyConfig.load(
        str(PROJECT_ROOT / "configs/common/schedule.py")
    ).lr_multiplier_step
    multiplier = instantiate(cfg.lr_multiplier)
    assert [round(multiplier(i / 90), 3) for i in (69, 70, 83, 84, 89)] == [1, 0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.max_itr=3", "did you mean train.max_iter?"),
        ("model.roi_head.num_classes=3", "did you mean model.roi_heads.num_classes?"),
        ("writers.wanb.project=x", "did you mean writers.wandb.project?"),
        ("dataloader.train.mapper.augmentations.7.prob=1", "no such config key"),
        ("train.max_iter.x=3", "did you mean train.max_iter?"),
        ("train.max_iter=[3", "cannot read the overrides"),
    ],
)
def test_override_that_names_no_key_is_refused(override, said):
    with pytest.raises(UserError) as error:
        load_config(str(PROJECT_ROOT / "configs/faster_rcnn_R_50_FPN.py"), [override])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides_reach_the_config():
    cfg = load_config(
        str(PROJECT_ROOT / "configs/faster_rcnn_R_50_FPN.py"),
        [
            "train.max_iter=7",
            "writers.tensorboard=null",
            "optimizer.nesterov=True",  # an argument of SGD that the config does not mention
            "~writers.json",
            "+train.note=mine",
            "dataloader.train.mapper.augmentations.0.short_edge_length=[64,96]",
        ],
    )
    assert cfg.train.max_iter == 7 and cfg.train.note == "mine"
    assert cfg.writers.tensorboard is None and "json" not in cfg.writers
    assert cfg.optimizer.nesterov is True
    assert list(cfg.dataloader.train.mapper.augmentations[0].short_edge_length) == [64, 96]
    apply_overrides(cfg, ["train.max_iter=8"])
    assert cfg.train.max_iter == 8


@pytest.mark.parametrize("folder", ["/데이터/사진 모음", "/Bilder/größe's", "C:/写真"])
def test_overrides_in_any_script(folder):
    overrides = [f"dataset.train.json_file={folder}/train.json", "train.max_iter=7"]
    cfg = load_config(str(PROJECT_ROOT / "configs/debug/smoke.py"), overrides)
    assert cfg.dataset.train.json_file == f"{folder}/train.json" and cfg.train.max_iter == 7


def test_flags_may_come_after_overrides():
    args = parse_args(["train.max_iter=3", "--config-file", "a.py", "--resume", "~writers.json"])
    assert args.config_file == "a.py" and args.resume
    assert args.opts == ["train.max_iter=3", "~writers.json"]
