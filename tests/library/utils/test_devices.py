"""A device is used after it has computed something; a GPU that cannot be used is never ignored."""

import subprocess
import sys
import time

import pytest
import torch
from conftest import PROJECT_ROOT
from detection.config import load_config
from detection.engine.setup import check
from detection.utils import devices
from detection.utils.arguments import parse_args
from detection.utils.errors import UserError

SMOKE = ["--config-file", "configs/debug/smoke.py"]


@pytest.fixture(autouse=True)
def fresh():
    devices.failure_of.cache_clear()
    yield
    devices.failure_of.cache_clear()


@pytest.fixture
def unused_gpu(tmp_path, monkeypatch):
    """A machine whose nvidia-smi lists a GPU that PyTorch does not; returns its PATH."""
    smi = tmp_path / "bin/nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 'Tesla P100-PCIE-16GB, 470.57, 16280 MiB'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(smi.parent), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    if torch.cuda.is_available():
        pytest.skip("PyTorch can use this machine's GPU")


def chosen(*overrides: str) -> str:
    args = parse_args([*SMOKE, *overrides])
    cfg = load_config(args.config_file, args.opts)
    check(args, cfg)
    return cfg.train.device


def test_auto_is_the_cpu_of_a_machine_without_a_gpu():
    assert chosen("train.device=auto") == "cpu"


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_an_unused_gpu_stops_a_training_unless_the_cpu_is_asked_for(device, unused_gpu):
    with pytest.raises(UserError) as error:
        chosen(f"train.device={device}")
    message = str(error.value)
    assert "train.device=cpu" in message and "tools/doctor.py" in message and "\n" not in message
    if device == "auto":
        assert "P100" in message and "UV_TORCH_BACKEND=auto" in message
    assert chosen("train.device=cpu") == "cpu"


def test_a_hidden_gpu_is_not_asked_for(unused_gpu, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert chosen() == "cpu"


def test_the_doctor_names_an_unused_gpu(unused_gpu):
    command = [sys.executable, "tools/doctor.py"]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Tesla P100-PCIE-16GB, 470.57" in done.stdout
    assert "UV_TORCH_BACKEND=auto" in done.stdout.split("wrong")[1]


@pytest.mark.parametrize("device", ["meta", "gpu", "xla"])
def test_a_device_that_computes_nothing_is_refused(device):
    """`meta` has no numbers, `gpu` is no device, and `xla` is not built in."""
    with pytest.raises(UserError, match=f"train.device={device}") as error:
        chosen(f"train.device={device}")
    assert "train.device=cpu" in str(error.value) and "\n" not in str(error.value)


def test_wrong_numbers_are_found_where_the_model_needs_them(monkeypatch):
    """As RoIAlign's on MPS were; one-stage models do without it."""
    right, calls = devices.roi_align, []

    def wrong_at_first(features, *args, **options):
        calls.append(features.device)
        return right(features, *args, **options) * (100 if len(calls) == 1 else 1)

    monkeypatch.setattr(devices, "roi_align", wrong_at_first)
    assert devices.failure_of("cpu", has_rois=False) is None and not calls
    assert "other numbers" in devices.failure_of("cpu", has_rois=True)


def test_a_device_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(devices, "TIME_LIMIT", 0.1)
    monkeypatch.setattr(devices, "_operations", lambda *_: time.sleep(60))
    assert "0.1 s" in devices.failure_of("cpu")
