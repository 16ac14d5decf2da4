"""metric_names.py: the team's names for what real models and evaluations report."""

import pytest
import torch
from detection.utils.errors import UserError
from detection.writers.metric_names import PRESETS, MetricNames
from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

NAME = "metric names test"


@pytest.fixture
def metric_names():
    """Builds MetricNames for a data set with the given classes."""

    def build(preset: str, classes=("can",)) -> MetricNames:
        MetadataCatalog.pop(NAME, None)
        MetadataCatalog.get(NAME).set(thing_classes=list(classes))
        return MetricNames(preset, NAME)

    yield build
    MetadataCatalog.pop(NAME, None)


STAGES = range(3)
RPN = {"loss_rpn_cls": "loss_rpn_cls", "loss_rpn_loc": "loss_rpn_bbox"}
BOX = {"loss_cls": "loss_cls", "loss_box_reg": "loss_bbox"}
# model -> {detectron2's loss: mmdetection's}
LOSSES = {
    "mask_rcnn_fpn": {**RPN, **BOX, "loss_mask": "loss_mask", "fast_rcnn/cls_accuracy": "acc"},
    "cascade_rcnn": {
        **RPN,
        **{f"{old}_stage{k}": f"s{k}.{new}" for k in STAGES for old, new in BOX.items()},
        **{f"stage{k}/fast_rcnn/cls_accuracy": f"s{k}.acc" for k in STAGES},
        "loss_mask": "loss_mask",
    },
    "retinanet": BOX,
    "fcos": {
        "loss_fcos_cls": "loss_cls",
        "loss_fcos_loc": "loss_bbox",
        "loss_fcos_ctr": "loss_centerness",
    },
}


def training_scalars(model_file: str) -> tuple[set[str], set[str]]:
    """The names of the losses that a real model returns, and of what else it reports."""
    torch.manual_seed(0)
    cfg = model_zoo.get_config(f"common/models/{model_file}.py").model
    cfg.backbone.bottom_up.stages.depth = 18
    cfg.backbone.bottom_up.stages.pop("stride_in_1x1", None)
    if cfg.backbone.top_block.get("in_channels") == 2048:
        cfg.backbone.top_block.in_channels = 512
    heads = cfg.get("roi_heads", {})
    for head in heads.get("box_heads", [heads.box_head] if "box_head" in heads else []):
        head.fc_dims = [32]
    predictors = [heads.box_predictor] if "box_predictor" in heads else []
    for predictor in heads.get("box_predictors", predictors):
        predictor.input_shape = ShapeSpec(channels=32)
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8, 40, 40]]))
    instances.gt_classes = torch.tensor([0])
    instances.gt_masks = PolygonMasks([[[8.0, 8, 40, 8, 40, 40]]])
    with EventStorage() as storage:
        losses = instantiate(cfg)([{"image": torch.zeros(3, 64, 64), "instances": instances}])
    return set(losses), set(storage.latest())


@pytest.mark.parametrize("model_file", LOSSES)
def test_losses_of_real_models_get_mmdetections_names(model_file, metric_names):
    expected = LOSSES[model_file]
    losses, others = training_scalars(model_file)
    assert losses == {name for name in expected if "accuracy" not in name}
    assert {name for name in expected if "accuracy" in name} <= others
    for preset, prefix in (("mmdet2", "train/"), ("mmdet3", "")):
        to_new = metric_names(preset)
        for old, new in expected.items():
            factor = 100 if "accuracy" in old else 1
            assert to_new(old, 0.5) == (f"{prefix}{new}", 0.5 * factor)
        assert to_new("total_loss", 0.5) == (f"{prefix}loss", 0.5)
        # what mmdetection does not have keeps its name, and no two things share one
        names = losses | others | {"total_loss"}
        assert len({to_new(name, 0)[0] for name in names}) == len(names)
        for name in others - set(expected):
            assert to_new(name, 0.5) == (f"train/{name}", 0.5)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("mmdet2", {"AP": "val/bbox_mAP", "AP50": "val/bbox_mAP_50", "APs": "val/bbox_mAP_s"}),
        ("mmdet3", {"AP": "coco/bbox_mAP", "AP50": "coco/bbox_mAP_50", "APs": "coco/bbox_mAP_s"}),
        ("detectron2", {"AP": "bbox/AP", "AP50": "bbox/AP50", "APs": "bbox/APs"}),
    ],
)
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_scale_and_names_of_evaluations(preset, expected, task, metric_names):
    to_new = metric_names(preset)
    for old, new in expected.items():
        name, value = to_new(f"{task}/{old}", 40)
        assert name == new.replace("bbox", task)
        assert value == pytest.approx(40 if preset == "detectron2" else 0.4)
        assert to_new.is_evaluation(f"{task}/{old}")
    for old in ("total_loss", "lr", "bbox_loss", "fast_rcnn/cls_accuracy", "bbox"):
        assert not to_new.is_evaluation(old)


@pytest.mark.parametrize(
    ("preset", "names"),
    [
        ("mmdet2", ["val/loss", "val/loss_rpn_bbox", "val/loss_other"]),
        ("mmdet3", ["val/loss", "val/loss_rpn_bbox", "val/loss_other"]),
        ("detectron2", ["val_loss/total_loss", "val_loss/loss_rpn_loc", "val_loss/loss_other"]),
    ],
)
def test_names_of_validation_losses(preset, names, metric_names):
    losses = ("total_loss", "loss_rpn_loc", "loss_other")
    assert [metric_names(preset)(f"val_loss/{loss}", 2)[0] for loss in losses] == names


def test_every_preset_names_all_coco_metrics(metric_names):
    metrics = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AP-can", "AP50-can")
    for preset in PRESETS:
        to_new = metric_names(preset)
        names = [to_new(f"{task}/{m}", 1)[0] for task in ("bbox", "segm") for m in metrics]
        assert len(set(names)) == 16, preset
        assert len({name.split("/")[0] for name in names}) == (2 if preset == "detectron2" else 1)


HOSTILE = ["종이 팩", "a/b", "x.y", 'q"uote', "{class}", "\\1", "AP", "-", "AP50-x", "*"]


@pytest.mark.parametrize("preset", PRESETS)
def test_classes_of_any_name(preset, metric_names):
    to_new = metric_names(preset, HOSTILE)
    section, factor = {
        "mmdet2": ("val/bbox_mAP", 0.01),
        "mmdet3": ("coco/", 0.01),
        "detectron2": ("bbox/AP", 1),
    }[preset]
    seen = set()
    for class_name in HOSTILE:
        for metric in ("AP", "AP50"):
            name, value = to_new(f"bbox/{metric}-{class_name}", 40)
            assert value == pytest.approx(40 * factor)
            assert name.startswith(section)
            assert name.count("/") == 1, "a class opens no section of its own"
            assert class_name.replace("/", "_") in name
            assert ("50" in name.replace(class_name, "")) == (metric == "AP50")
            seen.add(name)
    assert len(seen) == 2 * len(HOSTILE)


def test_examples_of_class_names(metric_names):
    for preset, ap, ap50 in (
        ("mmdet2", "val/bbox_mAP_종이_팩", "val/bbox_mAP_50_종이_팩"),
        ("mmdet3", "coco/종이_팩_precision", "coco/종이_팩_precision_50"),
        ("detectron2", "bbox/AP-종이_팩", "bbox/AP50-종이_팩"),
    ):
        to_new = metric_names(preset, ["종이/팩"])
        assert to_new("bbox/AP-종이/팩", 1)[0] == ap
        assert to_new("bbox/AP50-종이/팩", 1)[0] == ap50


@pytest.mark.parametrize(
    ("preset", "classes", "named"),
    [
        ("mmdet2", ["50"], ("bbox/AP50", "bbox/AP-50", "val/bbox_mAP_50")),
        ("mmdet2", ["can", "s"], ("bbox/APs", "bbox/AP-s", "val/bbox_mAP_s")),
        ("mmdet2", ["can", "50_can"], ("bbox/AP50-can", "bbox/AP-50_can", "val/bbox_mAP_50_can")),
        ("mmdet2", ["a/b", "a_b"], ("bbox/AP-a/b", "bbox/AP-a_b", "val/bbox_mAP_a_b")),
        ("mmdet3", ["a/b", "a_b"], ("bbox/AP-a/b", "bbox/AP-a_b", "coco/a_b_precision")),
        ("mmdet3", ["x", "segm_x"], ("bbox/AP-segm_x", "segm/AP-x", "coco/segm_x_precision")),
        ("detectron2", ["a/b", "a_b"], ("bbox/AP-a/b", "bbox/AP-a_b", "bbox/AP-a_b")),
    ],
)
def test_classes_that_would_share_a_name_are_refused(preset, classes, named, metric_names):
    with pytest.raises(UserError) as error:
        metric_names(preset, classes)
    assert "\n" not in str(error.value) and "detection/classes.py" in str(error.value)
    for name in named:
        assert name in str(error.value)


def test_classes_named_like_metrics_collide_in_mmdet2_alone(metric_names):
    for preset in ("mmdet3", "detectron2"):
        to_new = metric_names(preset, ["50", "s", "75"])
        assert to_new("bbox/AP-50", 1)[0] != to_new("bbox/AP50", 1)[0]
        assert to_new("bbox/AP-s", 1)[0] != to_new("bbox/APs", 1)[0]


def test_what_a_preset_does_not_name(metric_names):
    for preset in ("mmdet2", "mmdet3"):
        to_new = metric_names(preset)
        assert to_new("loss_new", 0.3) == ("train/loss_new", 0.3)
        assert to_new("roi_head/num_fg_samples", 12) == ("train/roi_head/num_fg_samples", 12)
        assert to_new("train/mine", 0.3) == ("train/mine", 0.3)
    assert metric_names("mmdet2")("keypoints/AP", 40) == ("val/keypoints_AP", 40)
    assert metric_names("mmdet2")("lr", 0.1) == ("learning_rate", 0.1)
    assert metric_names("mmdet3")("lr", 0.1) == ("lr", 0.1)
    for name in ("loss_new", "roi_head/num_fg_samples", "lr", "keypoints/AP"):
        assert metric_names("detectron2")(name, 40) == (name, 40)


def test_unknown_preset(metric_names):
    with pytest.raises(UserError, match="'mmdet1'; there are mmdet2, mmdet3, detectron2"):
        metric_names("mmdet1")
