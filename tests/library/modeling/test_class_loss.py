"""Class weights and focal loss of R-CNNs' box heads, against losses computed by hand."""

import copy

import pytest
import torch
from detection.config import load_config
from detection.modeling.build import build_model
from detection.modeling.class_loss import set_class_loss
from detection.utils.errors import UserError
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

NAMES = ["종이", "can", "glass"]


@pytest.fixture
def head():
    torch.manual_seed(0)
    transform = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    return FastRCNNOutputLayers(ShapeSpec(channels=8), box2box_transform=transform, num_classes=3)


@pytest.fixture
def batch():
    """Scores and deltas of six boxes, and what they are assigned to; 3 is the background."""
    generator = torch.Generator().manual_seed(1)
    boxes = Boxes(torch.tensor([[0.0, 0, 9, 9]]).repeat(6, 1))
    proposals = Instances((16, 16), proposal_boxes=boxes, gt_boxes=boxes)
    proposals.gt_classes = torch.tensor([0, 2, 1, 3, 3, 0])
    numbers = torch.randn(6, 4 + 12, generator=generator)
    return (numbers[:, :4], numbers[:, 4:]), [proposals]


def losses(head, batch):
    with EventStorage():
        return {k: float(v) for k, v in head.losses(*batch).items()}


def by_hand(batch, weights, gamma):
    (scores, _), (proposals,) = batch
    total = 0.0
    for row, label in zip(scores.double(), proposals.gt_classes, strict=True):
        p = row.softmax(0)[label]
        total += [*weights, 1.0][label] * (1 - p) ** gamma * -p.log()
    return float(total / len(scores))


@pytest.mark.parametrize(
    ("given", "weights", "gamma"),
    [
        ({"weights": [2.0, 0.5, 3.0]}, [2.0, 0.5, 3.0], 0),
        ({"weights": {"can": 4}}, [1, 4, 1], 0),
        ({"focal_gamma": 2.0}, [1, 1, 1], 2),
        ({"weights": {"종이": 2}, "focal_gamma": 1.5}, [2, 1, 1], 1.5),
    ],
)
def test_equals_the_loss_by_hand(head, batch, given, weights, gamma):
    before = losses(head, batch)
    set_class_loss(head, NAMES, **given)
    after = losses(copy.deepcopy(head), batch)  # as the averaged model is
    assert after["loss_cls"] == pytest.approx(by_hand(batch, weights, gamma), rel=1e-5)
    assert after["loss_cls"] != pytest.approx(before["loss_cls"], rel=1e-3)
    assert after["loss_box_reg"] == before["loss_box_reg"]
    assert (
        head.state_dict().keys()
        == type(head)(
            ShapeSpec(channels=8), box2box_transform=head.box2box_transform, num_classes=3
        )
        .state_dict()
        .keys()
    ), "checkpoints stay the same"


def test_equal_weights_change_nothing(head, batch):
    before = losses(head, batch)
    set_class_loss(head, NAMES, [1, 1.0, 1], 0)
    assert losses(head, batch) == before and "losses" not in vars(head)


@pytest.mark.parametrize("model", ["faster_rcnn", "cascade_rcnn", "mask_rcnn"])
def test_all_box_heads_of_a_config_take_it(model):
    overrides = ["train.device=cpu", "train.class_loss.weights={Battery: 3, Metal: 2}"]
    cfg = load_config(f"configs/{model}_R_50_FPN.py", overrides)
    heads = [m for m in build_model(cfg, False).modules() if isinstance(m, FastRCNNOutputLayers)]
    assert len(heads) == (3 if model == "cascade_rcnn" else 1)
    for head in heads:
        assert sorted(head.class_factors.tolist()) == [1.0] * 9 + [2.0, 3.0]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"weights": [1, 2]}, "2 weights for 3 classes"),
        ({"weights": {"cans": 2}}, "'cans'"),
        ({"weights": [1, 0, 1]}, "above 0"),
        ({"focal_gamma": -1}, "focal_gamma=-1"),
    ],
)
def test_what_does_not_fit_is_one_line(head, given, named):
    with pytest.raises(UserError) as error:
        set_class_loss(head, NAMES, **given)
    assert named in str(error.value) and "train.class_loss" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_models_refuse_it():
    cfg = load_config(
        "configs/retinanet_R_50_FPN.py", ["train.device=cpu", "train.class_loss.focal_gamma=2"]
    )
    with pytest.raises(UserError, match="RetinaNet"):
        build_model(cfg, pretrained=False)
