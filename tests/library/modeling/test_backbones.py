"""Backbones of timm: their feature maps, weights from files, frozen parts, and clear refusals."""

import os
import shutil

import huggingface_hub
import pytest
import timm
import torch
from conftest import PROJECT_ROOT
from detection.config import load_config
from detection.modeling.build import without_pretrained_download
from detection.modeling.simple_pyramid import SimplePyramid
from detection.modeling.timm_backbone import TimmBackbone, pixel_statistics
from detection.utils.errors import UserError
from detectron2.config import instantiate
from safetensors.torch import save_file

SWIN_ARGS = {"strict_img_size": False}
SWIN = {"model_name": "swin_tiny_patch4_window7_224", "model_args": SWIN_ARGS}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[torch.nn.Module, str]:
    """A classifier, as if trained, and the file of its weights."""
    torch.manual_seed(7)
    model = timm.create_model("resnet18.a1_in1k").eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(model.state_dict(), file)
    return model, str(file)


@pytest.mark.parametrize(
    ("settings", "channels"),
    [
        ({"model_name": "convnext_atto"}, [40, 80, 160, 320]),
        (SWIN, [96, 192, 384, 768]),  # its maps come channels last
        ({"model_name": "efficientnet_b0"}, [24, 40, 112, 320]),
        ({"model_name": "resnet18", "out_features": ["res3", "res4"]}, [128, 256]),
    ],
)
def test_maps_are_what_output_shape_says(settings, channels):
    backbone = TimmBackbone(pretrained=False, **settings)
    shapes = backbone.output_shape()
    assert [shape.channels for shape in shapes.values()] == channels
    maps = backbone(torch.rand(2, 3, 64, 96))  # of a size that no model was made for
    assert list(maps) == list(shapes)
    for name, features in maps.items():
        stride = 2 ** int(name.removeprefix("res"))
        assert stride == shapes[name].stride
        assert features.shape == (2, shapes[name].channels, 64 // stride, 96 // stride)


def test_shifted_windows_do_not_join_opposite_edges():
    """Of a Swin on a map that its windows do not divide, as on all images of other sizes."""
    torch.manual_seed(0)
    backbone = TimmBackbone("swin_tiny_patch4_window7_224", ["res2"], False, model_args=SWIN_ARGS)
    image = torch.rand(1, 3, 128, 128)
    changed = image.clone()
    changed[..., -4:, :] = 0
    with torch.no_grad():
        one, two = (backbone.eval()(x)["res2"] for x in (image, changed))
    rows = (one - two).abs().amax((0, 1, 3)) > 1e-6
    assert rows[-1] and not rows[:16].any()


def test_a_plain_vit_gives_a_pyramid():
    vit = TimmBackbone(
        "vit_tiny_patch16_224",
        ["res4"],
        pretrained=False,
        model_args={"depth": 4, "embed_dim": 64, "num_heads": 2, "dynamic_img_size": True},
    )
    assert len(vit.net.model.blocks) == 4, "its last block gives the map"
    pyramid = SimplePyramid(vit, out_channels=32)
    maps = pyramid(torch.rand(2, 3, 64, 96))
    assert list(maps) == list(pyramid.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    for name, features in maps.items():
        stride = pyramid.output_shape()[name].stride
        assert features.shape == (2, 32, max(1, 64 // stride), -(-96 // stride))


def test_weights_from_a_file_give_the_classifiers_own_features(trained):
    model, file = trained
    backbone = TimmBackbone("resnet18.a1_in1k", checkpoint_path=file, freeze_at=3)
    images = torch.rand(2, 3, 64, 96)
    backbone.train()  # BatchNorm stays as it is, even so
    with torch.no_grad():
        expected = model.forward_intermediates(images, intermediates_only=True)[1:]
        for features, wanted in zip(backbone(images).values(), expected, strict=True):
            torch.testing.assert_close(features, wanted)
    learning = {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}
    assert learning == {"layer3", "layer4"}


def test_frozen_layers_keep_their_statistics():
    backbone = TimmBackbone("resnet18", pretrained=False, freeze_at=2, freeze_norm=False)
    backbone.train()(torch.rand(2, 3, 64, 64))
    net = backbone.net
    for frozen in (net.bn1, net.layer1[1].bn2):
        assert not frozen.running_mean.any()
    assert net.layer2[0].bn1.running_mean.any()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model_name": "resnet9000"}, "resnet9000"),
        ({"model_name": "resnet18.nobodys"}, "Invalid pretrained tag (nobodys)"),
        ({"model_name": "vit_tiny_patch16_224"}, "has no feature map of stride 4"),
        ({"model_name": "resnet34", "checkpoint_path": "FILE"}, "no weights of this model"),
        ({"model_name": "resnet18", "checkpoint_path": "gone.pth"}, "gone.pth: no such file"),
        ({"model_name": "resnet18", "checkpoint_path": __file__}, "download it again"),
        ({"model_name": "resnet18", "pretrained": False, "freeze_at": 1}, "there is no res1"),
    ],
)
def test_what_cannot_be_is_one_line(settings, says, trained):
    settings = {key: trained[1] if value == "FILE" else value for key, value in settings.items()}
    with pytest.raises(UserError) as error:
        TimmBackbone(**settings)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["code", "cut", "empty", "page"])
def test_unusable_files_of_weights_are_one_line(content, trained, tmp_path):
    path = tmp_path / "weights.pth"
    state = trained[0].state_dict()
    torch.save({**state, "loader": os.getcwd} if content == "code" else state, path)
    if content == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif content != "code":
        path.write_bytes({"empty": b"", "page": b"<html>log in"}[content])
    with pytest.raises(UserError) as error:
        TimmBackbone("resnet18", checkpoint_path=str(path))
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert "weights_only" not in message


def test_offline_the_file_to_fetch_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        TimmBackbone("resnet18.a1_in1k")
    said = str(error.value)
    assert said.startswith("cannot fetch https://") and "\n" not in said
    assert "timm/resnet18.a1_in1k/resolve/main/model.safetensors" in said
    assert "model.backbone.bottom_up.checkpoint_path" in said


def test_pixels_are_normalized_as_in_the_pretraining():
    path = str(PROJECT_ROOT / "configs/faster_rcnn_swin_tiny_FPN.py")
    name = "model.backbone.bottom_up.model_name=test_resnet.r160_in1k"
    cfg = load_config(path, [name, "~model.backbone.bottom_up.model_args"])
    assert cfg.dataloader.test.mapper.image_format == cfg.model.input_format == "RGB"
    # and what is to be loaded from a checkpoint downloads nothing
    model = instantiate(without_pretrained_download(cfg.model))
    assert model.pixel_mean.flatten().tolist() == pytest.approx([127.5] * 3)
    assert model.pixel_std.flatten().tolist() == pytest.approx([127.5] * 3)
    assert pixel_statistics("resnet18.a1_in1k", "mean") == pytest.approx([123.675, 116.28, 103.53])


@pytest.mark.slow
def test_a_resumed_training_needs_the_pretrained_file_no_more(trained, train_net, tmp_path):
    file = tmp_path / "copy.safetensors"
    shutil.copy(trained[1], file)
    args = [
        "model.backbone.bottom_up.model_name=resnet18.a1_in1k",
        f"model.backbone.bottom_up.checkpoint_path='{file}'",
        "model.backbone.bottom_up.freeze_at=2",
        f"train.output_dir='{tmp_path}/run'",
        "train.eval_period=0",
        "writers.wandb=null",
    ]
    config = "configs/faster_rcnn_convnext_tiny_FPN.py"
    train_net(*args, "train.max_iter=1", config=config)
    file.unlink()
    train_net(*args, "train.max_iter=2", "--resume", config=config)
    state = torch.load(tmp_path / "run/model_final.pth")
    assert state["iteration"] == 1
    frozen = state["model"]["backbone.bottom_up.net.layer1.0.conv1.weight"]
    assert torch.equal(frozen, trained[0].layer1[0].conv1.weight)
    learnt = state["model"]["backbone.bottom_up.net.layer2.0.conv1.weight"]
    assert not torch.equal(learnt, trained[0].layer2[0].conv1.weight)
