"""Weights in the format of transformers: checkpoint/hub.py, modeling/transformers_weights.py."""

import json

import huggingface_hub
import pytest
import torch
from detection.checkpoint.checkpointer import WholeFileCheckpointer
from detection.checkpoint.files import SafeCheckpointer, fetch
from detection.checkpoint.hub import license_of
from detection.checkpoint.load import load_weights
from detection.utils.errors import UserError
from tiny_detectors import CONFIGS, tiny_detector
from transformers import AutoConfig, AutoModelForObjectDetection

FAMILIES = ["rt_detr_v2", "d_fine", "rf_detr"]
OTHERS = ["person", "car", "dog", "car wash", "b"]


@pytest.fixture(params=FAMILIES)
def saved(request, tmp_path):
    """A model of five classes, as save_pretrained writes it."""
    torch.manual_seed(1)
    labels = dict(enumerate(OTHERS))
    config = AutoConfig.for_model(request.param, id2label=labels, **CONFIGS[request.param])
    net = AutoModelForObjectDetection.from_config(config)
    net.save_pretrained(tmp_path / "saved")
    return request.param, net, tmp_path / "saved"


def test_all_but_the_classes_are_loaded_and_classes_by_name(saved, lines):
    family, net, folder = saved
    detector = tiny_detector(family)
    fresh = {name: value.clone() for name, value in detector.state_dict().items()}
    SafeCheckpointer(detector, classes=["a", "dog", "b"]).load(str(folder))
    state, names = detector.state_dict(), detector.hub_names()
    theirs = net.state_dict()
    heads = 0
    for name, value in state.items():
        wanted = theirs[names[name]]
        if value.shape == wanted.shape:
            assert torch.equal(value, wanted), name
            continue
        heads += 1
        assert torch.equal(value[1], wanted[OTHERS.index("dog")])
        assert torch.equal(value[2], wanted[OTHERS.index("b")])
        assert torch.equal(value[0], fresh[name][0])
    assert heads >= 2
    (line,) = [line for line in lines() if "by name" in line]
    assert "dog" in line and "'a' start fresh" in line
    assert not [line for line in lines() if "lack" in line]


def test_without_names_the_heads_start_fresh(saved, lines):
    family, net, folder = saved
    (folder / "config.json").unlink()
    detector = tiny_detector(family)
    fresh = {name: value.clone() for name, value in detector.state_dict().items()}
    SafeCheckpointer(detector, classes=["a", "dog", "b"]).load(str(folder / "model.safetensors"))
    theirs = net.state_dict()
    for name, value in detector.state_dict().items():
        wanted = theirs[detector.hub_names()[name]]
        assert torch.equal(value, wanted if value.shape == wanted.shape else fresh[name]), name
    (line,) = [line for line in lines() if line.startswith("start fresh")]
    assert "class_embed" in line and "other shapes" not in line


def test_own_checkpoints_come_back_as_they_were(tmp_path):
    detector = tiny_detector("d_fine")
    WholeFileCheckpointer(detector, str(tmp_path), classes=["a", "b", "c"]).save("model_best")
    image = {"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)}
    other = tiny_detector("d_fine")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    load_weights(other, str(tmp_path), "best", ["a", "b", "c"])
    assert all(
        torch.equal(a, b)
        for a, b in zip(detector.state_dict().values(), other.state_dict().values(), strict=True)
    )
    load_weights(other, str(tmp_path), "best", ["c", "a", "b"])  # the heads are reordered
    one, two = (model.eval()([image])[0]["instances"] for model in (detector, other))
    assert torch.equal(one.scores, two.scores)
    assert torch.equal((one.pred_classes + 1) % 3, two.pred_classes)


def test_other_pixels_are_refused_with_the_settings(saved):
    family, _, folder = saved
    processor = {"do_rescale": True, "do_normalize": True, "image_mean": [0.1, 0.2, 0.3]}
    processor |= {"image_std": [0.5, 0.5, 0.5], "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    detector = tiny_detector(family)
    with pytest.raises(UserError) as error:
        SafeCheckpointer(detector).load(str(folder))
    assert "model.pixel_mean=[25.5,51,76.5]" in str(error.value)
    mean = {"pixel_mean": [76.5, 51, 25.5], "pixel_std": [127.5] * 3, "input_format": "BGR"}
    SafeCheckpointer(tiny_detector(family, **mean)).load(str(folder))


def test_settings_that_differ_are_reported(saved, lines):
    family, _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    config["decoder_n_points"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    SafeCheckpointer(tiny_detector(family), classes=["a", "b", "c"]).load(str(folder))
    (line,) = [line for line in lines() if "model.config." in line]
    assert line.split("model.config.")[1:] == ["decoder_n_points=7"]


def test_weights_of_another_model_are_refused(saved, tmp_path):
    family, _, folder = saved
    other = "rf_detr" if family != "rf_detr" else "d_fine"
    with pytest.raises(UserError, match="another"):
        SafeCheckpointer(tiny_detector(other)).load(str(folder))
    (tmp_path / "pickled").mkdir()
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickled/pytorch_model.bin")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        SafeCheckpointer(tiny_detector(other)).load(str(tmp_path / "pickled"))


def test_offline_the_files_to_fetch_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        fetch("hf://PekingU/rtdetr_v2_r50vd@main")
    said = str(error.value)
    assert "PekingU/rtdetr_v2_r50vd/resolve/main/model.safetensors" in said
    assert "config.json" in said and "preprocessor_config.json" in said
    assert "train.init_checkpoint" in said and "\n" not in said
    for path in ("hf://rtdetr", "hf://a/b/c", "hf://"):
        with pytest.raises(UserError, match="hf://owner/name"):
            fetch(path)


def test_the_license_is_read_from_the_models_card(tmp_path):
    assert license_of(tmp_path) == "not stated"
    card = "---\nlibrary_name: transformers\nlicense: apache-2.0\ntags: [a]\n---\n# Model\n"
    (tmp_path / "README.md").write_text(card)
    assert license_of(tmp_path) == "apache-2.0"
    (tmp_path / "README.md").write_text("# Model\nlicense: none\n")
    assert license_of(tmp_path) == "not stated"
