"""Weights of any source: found, read without running their code, and accounted for."""

import functools
import os
import pickle
import socket
import subprocess
import sys
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from conftest import PROJECT_ROOT
from detection.checkpoint.checkpointer import WholeFileCheckpointer
from detection.checkpoint.files import fetch
from detection.checkpoint.load import load_weights
from detection.checkpoint.reading import read_weights
from detection.classes import CLASSES
from detection.config import load_config
from detection.utils.errors import UserError
from detectron2.config import instantiate
from safetensors.torch import save_file

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
    WholeFileCheckpointer(model, "").load(path, checkpointables=[])


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


def test_server_that_never_answers(monkeypatch, tmp_path):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr("detection.checkpoint.files.DOWNLOAD_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError) as error:
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/model.pkl")
    assert f"put it at {tmp_path}/model.pkl" in str(error.value)


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
    assert "anchors.py" in said[0] and "proposal_generator.rpn_head.anchor_deltas, " in said[0]
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
@pytest.mark.parametrize("ending", ["pth", "pkl"])
def test_files_of_something_else_are_refused(content, ending, tmp_path):
    path = tmp_path / f"other.{ending}"
    if ending == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    refused(path)


def refused(path) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(UserError) as error:
        load(smoke_model(), str(path))
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and "; " in message
    assert "weights_only" not in message and len(message) < len(str(path)) + 300
    return message


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


@pytest.mark.parametrize("form", ["bad.pkl", "bad.pth", "old.pth", "bad.pyth"])
def test_no_code_in_weights_is_run(form, tmp_path):
    trap = {"model": {"w": torch.zeros(3)}, "__author__": Touch(tmp_path / "ran")}
    path = tmp_path / form
    if form.endswith(".pkl"):
        trap["model"] = {"w": np.zeros(3)}
        path.write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, path, _use_new_zipfile_serialization=form != "old.pth")
    message = refused(path)
    assert "open" in message and ".safetensors" in message, "names the code, and a way without it"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["cut.pkl", "cut.pth", "cut.safetensors", "page.pth", "page.pkl", "none.pth", "no.pkl"]
)
def test_damaged_files_are_one_line(name, of_80_classes, tmp_path):
    path = tmp_path / name
    kind = path.suffix
    source = {".pkl": "zoo.pkl", ".pth": "state.pth"}.get(kind, "state.safetensors")
    content = open(of_80_classes[source], "rb").read()
    if name.startswith("cut"):
        for part in (len(content) // 2, 100, 5):
            path.write_bytes(content[:part])
            refused(path)
    elif name.startswith("page"):
        path.write_bytes(b"<!DOCTYPE html><html>please log in</html>")
        assert "web page" in refused(path)
    elif name.startswith("none"):
        with pytest.raises(UserError, match="no such file"):
            load(smoke_model(), str(path))
    else:
        path.write_bytes(b"")
        assert "empty" in refused(path)


def test_an_archive_of_other_files_is_named(tmp_path):
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes/readme.txt", "hello")
    assert "notes/readme.txt" in refused(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert "git lfs pull" in refused(path)
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    assert "TorchScript" in refused(path)


TIB = 1 << 40
HOSTILE = {
    # bytes, text and frames of 16 TiB
    "bytes.pkl": b"\x80\x04\x8e" + (16 * TIB).to_bytes(8, "little") + b"x.",
    "bytearray.pkl": b"\x80\x05\x96" + (16 * TIB).to_bytes(8, "little") + b"x.",
    "text.pkl": b"\x80\x04\x8d" + (16 * TIB).to_bytes(8, "little") + b"x.",
    "frame.pkl": b"\x80\x04\x95" + (16 * TIB).to_bytes(8, "little") + b"}.",
    # a place in the memo, for which all places before it would be made
    "memo.pkl": b"\x80\x02}r" + (1 << 26).to_bytes(4, "little") + b".",
    "memo_text.pkl": b"}p50000000\n.",
    "array.pkl": b"cnumpy\nndarray\n(L17592186044416L\ntR.",
    "scalar.pkl": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'V900000000'\ntRtR.",
    "objects.pkl": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    b"(I1\n(I100000000\ntcnumpy\ndtype\n(S'O'\ntRI00\n(ltb.",
    "many.pkl": b"\x80\x02(" + b"]" * 6_000_000 + b"l.",
    "nested.pkl": b"\x80\x02" + b"(" * 200_000 + b"l" * 200_000 + b".",
    "nested.pth": b"\x80\x02" + b"(" * 200_000 + b"l" * 200_000 + b".",
    "header.safetensors": (50_000_000_000).to_bytes(8, "little") + b"{}",
    "nested.safetensors": (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "json.safetensors": (9).to_bytes(8, "little") + b'{"a": [1}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_claim_too_much_are_one_line(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    refused(path)


READ = """
import resource, sys
from detection.utils.errors import UserError
from detection.checkpoint.reading import read_weights
for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_weights(path)
    except UserError:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_what_a_file_claims_takes_no_memory(tmp_path):
    """In a process of its own, whose peak is known."""
    for name, content in HOSTILE.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"model": {"w": torch.zeros(3)}}, tmp_path / "small.pth")
    with (
        zipfile.ZipFile(tmp_path / "small.pth") as small,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb,
    ):
        for part in small.infolist():
            is_array = part.filename.endswith("data/0")
            content = bytes(400_000_000) if is_array else small.read(part)
            bomb.writestr(part.filename, content, zipfile.ZIP_DEFLATED, 1)
    paths = [str(tmp_path / name) for name in [*HOSTILE, "bomb.pth"]]
    grown = subprocess.run(
        [sys.executable, "-c", READ, *paths],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout.split()
    by_file = dict(zip(paths, map(int, grown), strict=True))  # in KiB
    assert max(by_file.values()) < 150_000, by_file


@pytest.mark.parametrize(
    "tensor", [torch.zeros(3).to_sparse(), torch.zeros(3, device="meta"), torch.zeros(3) * 1j]
)
def test_tensors_without_plain_numbers_are_refused(tensor, tmp_path):
    torch.save({"model": {"w": tensor}}, tmp_path / "other.pth")
    refused(tmp_path / "other.pth")


def test_any_damaged_byte_is_one_line_or_none(of_80_classes, tmp_path):
    """Bytes of the structure, not of the numbers, where most damages would go unseen."""
    small = {"backbone.fpn_lateral2.bias": torch.ones(64)}
    arrays = {name: value.numpy() for name, value in small.items()}
    contents = {
        "a.pkl": pickle.dumps({"model": arrays, "__author__": "x"}, protocol=2),
        "b.pkl": pickle.dumps({"model": arrays, "__author__": "x"}, protocol=5),
    }
    torch.save(small, tmp_path / "a.pth")
    torch.save(small, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    save_file(small, tmp_path / "a.safetensors")
    for path in (tmp_path / "a.pth", tmp_path / "b.pth", tmp_path / "a.safetensors"):
        contents[path.name] = path.read_bytes()
    rng = np.random.default_rng(0)
    for name, content in contents.items():
        path = tmp_path / name
        for _ in range(300):
            damaged = np.frombuffer(content, np.uint8).copy()
            for place in rng.integers(0, len(damaged), rng.integers(1, 4)):
                damaged[place] = rng.integers(0, 256)
            path.write_bytes(damaged.tobytes())
            try:
                read_weights(str(path))
            except UserError as e:
                assert str(e).startswith(f"{path}: ") and "\n" not in str(e)
