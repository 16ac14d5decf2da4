"""Weights of any source: found, read without running their code, and accounted for."""

import functools
import os
import pickle
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from conftest import PROJECT_ROOT
from detectron2.config import instantiate
from safetensors.torch import save_file

from detection.checkpoints import WholeFileCheckpointer, load_weights
from detection.classes import CLASSES
from detection.config import load_config
from detection.errors import UserError

SMOKE = str(PROJECT_ROOT / "configs/debug/smoke.py")


def smoke_model(*overrides: str) -> torch.nn.Module:
    return instantiate(load_config(SMOKE, overrides).model)


@pytest.fixture(scope="module")
def of_80_classes(tmp_path_factory) -> dict[str, str]:
    """A detector of 80 classes, in files of all kinds, by their endings."""
    torch.manual_seed(80)
    state = smoke_model("model.roi_heads.num_classes=80").state_dict()
    folder = tmp_path_factory.mktemp("weights of 80")
    arrays = {name: value.numpy() for name, value in state.items()}
    zoo = {"model": arrays, "__author__": "Detectron2 Model Zoo"}
    # as NumPy 1 wrote those of the zoo
    pickled = pickle.dumps(zoo, protocol=2).replace(b"cnumpy._core.", b"cnumpy.core.")
    (folder / "zoo.pkl").write_bytes(pickled)
    torch.save({"model": state, "iteration": 3}, folder / "trained.pth")
    torch.save(state, folder / "state.pth")
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, folder / "wrapped.pth")
    save_file(state, folder / "state.safetensors")
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.fixture
def server(of_80_classes):
    """The URL of the files' folder."""
    folder = os.path.dirname(of_80_classes["zoo.pkl"])

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def load(model: torch.nn.Module, path: str) -> None:
    WholeFileCheckpointer(model, "").resume_or_load(path, resume=False)


@pytest.mark.parametrize(
    "name", ["zoo.pkl", "trained.pth", "state.pth", "wrapped.pth", "state.safetensors"]
)
def test_all_but_the_heads_of_other_classes_is_loaded(name, of_80_classes, lines):
    model = smoke_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load(model, of_80_classes[name])

    wanted = torch.load(of_80_classes["state.pth"])
    heads = {f"roi_heads.box_predictor.{layer}" for layer in ("cls_score", "bbox_pred")}
    for key, value in model.state_dict().items():
        is_of_head = key.rpartition(".")[0] in heads
        assert torch.equal(value, before[key] if is_of_head else wanted[key]), key
    (line,) = [line for line in lines() if "Loading" not in line]
    assert f"number of classes than {len(CLASSES)}: roi_heads.box_predictor" in line


def test_of_a_url(server, of_80_classes, monkeypatch, tmp_path):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    model = smoke_model()
    load(model, f"{server}/zoo.pkl")
    wanted = torch.load(of_80_classes["state.pth"])["backbone.fpn_lateral2.weight"]
    assert torch.equal(model.backbone.fpn_lateral2.weight, wanted)
    with pytest.raises(UserError, match="404") as error:
        load(model, f"{server}/gone.pkl")
    assert f"put it at {tmp_path}/gone.pkl" in str(error.value)


def test_of_the_zoo_from_the_place_that_the_error_names(of_80_classes, monkeypatch, tmp_path):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens
    model = smoke_model()
    with pytest.raises(UserError) as error:
        load(model, "detectron2://COCO-Detection/a/model.pkl")
    assert "\n" not in str(error.value)
    assert "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection/a/model" in str(error.value)
    place = tmp_path / "detectron2/COCO-Detection/a/model.pkl"
    assert f"put it at {place}, " in str(error.value)
    place.write_bytes(open(of_80_classes["zoo.pkl"], "rb").read())
    load(model, "detectron2://COCO-Detection/a/model.pkl")


def test_what_else_differs_is_told_once_a_kind(of_80_classes, lines):
    model = smoke_model(
        "model.roi_heads.num_classes=80",
        "model.roi_heads.box_head.fc_dims=[128,128]",  # a layer more
        "model.proposal_generator.head.num_anchors=6",
        "model.proposal_generator.anchor_generator.aspect_ratios=[0.3,0.5,0.8,1.2,2,3]",
    )
    load(model, of_80_classes["zoo.pkl"])
    said = [line for line in lines() if "fresh" in line]
    assert len(said) == 2
    assert "have other shapes: proposal_generator.rpn_head.anchor_deltas, " in said[0]
    assert said[1].endswith("lack them: roi_heads.box_head.fc2")

    # and what is left over, of a larger model
    model = smoke_model("model.roi_heads.num_classes=80")
    model.roi_heads.box_head = model.roi_heads.box_predictor = torch.nn.Identity()
    load(model, of_80_classes["zoo.pkl"])
    assert lines()[-1].endswith("lacks them: roi_heads")


def test_weights_of_another_model_are_refused(of_80_classes, tmp_path):
    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="nothing in these weights fits the model"):
        load(smoke_model(), str(tmp_path / "other.pth"))


@pytest.mark.parametrize("content", [[1, 2], {"model": None}, {"model": [1]}, {"model": {"a": 1}}])
def test_files_of_something_else_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match="no file of weights"):
        load(smoke_model(), str(tmp_path / "other.pth"))


def test_weights_of_a_diverged_training_are_not_evaluated(tmp_path):
    model = smoke_model()
    model.roi_heads.box_predictor.cls_score.bias.data[0] = torch.nan
    torch.save({"model": model.state_dict()}, tmp_path / "diverged.pth")
    with pytest.raises(UserError, match=r"cls_score\.bias is not finite"):
        load_weights(smoke_model(), "", str(tmp_path / "diverged.pth"))


def test_of_pycls_by_names_alike(tmp_path, lines):
    model = smoke_model()
    named = {
        k.removeprefix("backbone.bottom_up."): v + 1
        for k, v in model.state_dict().items()
        if k.startswith("backbone.bottom_up.") and not k.endswith("num_batches_tracked")
    }
    torch.save({"model_state": named, "cfg": "of pycls"}, tmp_path / "a.pyth")
    before = model.backbone.bottom_up.stem.conv1.weight.clone()
    load(model, str(tmp_path / "a.pyth"))
    assert torch.equal(model.backbone.bottom_up.stem.conv1.weight, before + 1)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["bad.pkl", "bad.pth"])
def test_no_code_in_weights_is_run(name, tmp_path):
    trap = {"model": {"w": np.zeros(3)}, "__author__": Touch(tmp_path / "ran")}
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, tmp_path / name)
    with pytest.raises(UserError, match="no file of weights") as error:
        load(smoke_model(), str(tmp_path / name))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["cut.pkl", "cut.pth", "cut.safetensors", "page.pth", "none.pth"])
def test_damaged_files_are_one_line(name, of_80_classes, tmp_path):
    path = tmp_path / name
    kind = path.suffix
    source = {".pkl": "zoo.pkl", ".pth": "state.pth"}.get(kind, "state.safetensors")
    content = open(of_80_classes[source], "rb").read()
    if name.startswith("cut"):
        path.write_bytes(content[: len(content) // 2])
    elif name.startswith("page"):
        path.write_bytes(b"<!DOCTYPE html><html>please log in</html>")
    with pytest.raises(UserError) as error:
        load(smoke_model(), str(path))
    assert str(error.value).startswith(f"{path}: no ") and "\n" not in str(error.value)
