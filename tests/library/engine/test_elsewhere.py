"""
Windows and macOS, as far as Linux can be them: processes are spawned, not forked, and terminals
know only Korean letters or only Western ones, whatever the classes are called.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT_ROOT, read_metrics
from detection.classes import CLASSES
from detection.utils.cli import named_path
from detection.utils.paths import from_here
from detectron2.utils.file_io import PathManager
from omegaconf import OmegaConf

SMOKE = "configs/debug/smoke.py"
NAMES = [f"종이 🗑 {name} – é" for name in CLASSES]
# run by each process, those that others spawn too, before anything else
CUSTOMIZE = f"""
import multiprocessing
import detection.classes
multiprocessing.set_start_method("spawn", force=True)
detection.classes.CLASSES = {NAMES!r}
"""


class Elsewhere:
    """Runs the project's programs there, on the toy data with other class names."""

    def __init__(self, folder: Path, toy: Path):
        self.folder = folder
        (folder / "sitecustomize.py").write_text(CUSTOMIZE, encoding="utf-8")
        for split in ("train", "val"):
            coco = json.loads((toy / f"{split}.json").read_text(encoding="utf-8"))
            for category, name in zip(coco["categories"], NAMES, strict=True):
                category["name"] = name
            text = json.dumps(coco, ensure_ascii=False)
            (folder / f"{split}.json").write_text(text, encoding="utf-8")
        self.val = str(folder / "val.json")

    def run(self, encoding: str, *command: str) -> str:
        """What a program prints, decoded; it must end well."""
        path = os.pathsep.join([str(self.folder), str(PROJECT_ROOT)])
        environment = os.environ | {
            "PYTHONPATH": path,
            "PYTHONIOENCODING": encoding,
            "PYTHONUTF8": "0",
            "PYTHONWARNDEFAULTENCODING": "1",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, *command],
            cwd=PROJECT_ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
        text = done.stdout.decode(encoding)
        assert done.returncode == 0, text
        assert "UnicodeEncodeError" not in text and "Logging error" not in text
        for line in text.splitlines():  # files are opened as UTF-8, detectron2's too
            assert "EncodingWarning" not in line or not is_ours(line), line
        return text


def is_ours(line: str) -> bool:
    file = line.partition(":")[0]
    own = file.startswith(str(PROJECT_ROOT)) and "site-packages" not in file
    return own or any(
        f"site-packages/{name}/" in file for name in ("detectron2", "fvcore", "iopath")
    )


@pytest.fixture(scope="module")
def elsewhere(toy, offline, tmp_path_factory) -> Elsewhere:
    return Elsewhere(tmp_path_factory.mktemp("다른 곳"), toy)


@pytest.fixture(scope="module")
def trained(elsewhere, on_toy) -> Path:
    """A training with two loading processes, then resumed by two processes."""
    output_dir = elsewhere.folder / "run"
    overrides = [o for o in on_toy if "json_file" not in o and "train.num_workers" not in o]
    for split in ("train", "val"):
        overrides.append(f"dataset.{split}.json_file={elsewhere.folder}/{split}.json")
    overrides += ["train.eval_period=2", "train.checkpointer.period=1", "train.log_period=1"]
    overrides += [f"train.output_dir={output_dir}", "writers.mlflow.enabled=True"]
    overrides.append(f"writers.mlflow.tracking_uri={elsewhere.folder}/mlruns")
    command = ["train_net.py", "--config-file", SMOKE, *overrides]
    first = ["dataloader.train.num_workers=2", "train.max_iter=2"]
    printed = elsewhere.run("cp949", *command, *first)
    assert "종이" in printed and r"\U0001f5d1" in printed
    second = ["dataloader.train.num_workers=0", "train.max_iter=4"]
    printed = elsewhere.run("cp1252", *command, "--num-gpus", "2", "--resume", *second)
    assert r"\uc885\uc774" in printed and "é" in printed
    return output_dir


@pytest.mark.slow
def test_spawned_processes_train_and_resume(trained):
    rows = read_metrics(trained)
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    assert f"bbox/AP-{NAMES[0]}" in rows[3]
    log = (trained / "log.txt").read_text(encoding="utf-8")
    assert NAMES[0] in log and "the log ends here" not in log
    config = (trained / "config.yaml").read_text(encoding="utf-8")
    assert "다른 곳" in config


@pytest.mark.slow
def test_mlflow_has_each_iteration_once(trained):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{trained.parent}/mlruns/mlflow.db")
    record = json.loads((trained / "mlflow_run.json").read_text(encoding="utf-8"))
    for name in ("train/loss", "loss", "total_loss"):  # as the preset names it
        if points := client.get_metric_history(record["id"], name):
            assert [point.step for point in points] == [0, 1, 2, 3]
            break
    else:
        pytest.fail("no loss")
    assert len(client.search_runs([client.get_run(record["id"]).info.experiment_id])) == 1


@pytest.mark.slow
def test_predictions_and_their_tables(elsewhere, trained):
    output = str(elsewhere.folder / "found.json")
    command = ["predict.py", "--config-file", str(trained / "config.yaml"), elsewhere.val]
    printed = elsewhere.run("cp1252", *command, "--output", output, "--num-workers", "1")
    assert "found.json: " in printed
    printed = elsewhere.run("cp949", "tools/score_results.py", output, elsewhere.val)
    assert "종이" in printed and r"\U0001f5d1" in printed


def test_detectron2_writes_text_as_utf8(tmp_path):
    import detection.config  # noqa: F401  which all that reads configs imports

    path = str(tmp_path / "한글 🗑.txt")
    with PathManager.open(path, "w") as file:
        file.write("종이 🗑 \ud800")
    assert Path(path).read_bytes() == "종이 🗑 \\ud800".encode()
    with PathManager.open(path) as file:
        assert file.encoding.lower() == "utf-8"


def test_paths_of_windows(monkeypatch, tmp_path):
    def other_drive(path):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    assert named_path("a=b/val.json") == ("a", "b/val.json")
    monkeypatch.setattr(os, "sep", "\\")
    whole = r"D:\lr=0.01\val.json"
    assert named_path(whole) == (whole, whole)
    monkeypatch.setattr(os.path, "relpath", other_drive)
    assert from_here(tmp_path) == str(tmp_path)


def test_doctor_tries_long_paths(tmp_path):
    import doctor

    wrong = []
    doctor._long_paths(tmp_path, wrong)
    assert not wrong and not list(tmp_path.iterdir())
    doctor._long_paths(tmp_path / "cannot be written", wrong)
    assert "LongPathsEnabled" in wrong[0]


def test_several_processes_on_a_mac_take_the_cpu(monkeypatch):
    import torch
    from detection.utils import devices
    from detection.utils.errors import UserError
    from detectron2.utils import comm

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "nvidia_gpus", lambda: [])
    monkeypatch.setattr(devices, "failure_of", lambda *_: None)
    cfg = OmegaConf.create({"train": {"device": "auto"}})
    devices.set_device(cfg)
    assert cfg.train.device == "mps"
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match="one process"):
        devices.set_device(cfg)
    cfg.train.device = "auto"
    devices.set_device(cfg)
    assert cfg.train.device == "cpu"


def test_without_nccl_several_gpus_are_one_line(monkeypatch):
    import torch
    from detection.engine.launch import TORCHRUN_VARIABLES, launch
    from detection.utils.arguments import parse_args
    from detection.utils.errors import UserError

    for name in TORCHRUN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(UserError, match="NCCL"):
        launch(lambda args: None, parse_args(["--config-file", SMOKE, "--num-gpus", "2"]))
