"""The notebooks for Kaggle, executed as there: from the folder alone, and without network."""

import csv
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import PROJECT_ROOT, read_metrics
from kaggle_machine import Machine, has_namespaces, pack

LACKING = ("detectron2", "fvcore", "hotcoco", "hydra-core", "imagehash", "iopath", "simplejpeg")
LACKING += ("portalocker", "submitit", "yacs")
OUTDATED = {"timm": "1.0.26", "wandb": "0.26.1"}
COMPETITION = "trash-2026"
KEYS = {"WANDB_API_KEY": "w" * 40, "KAGGLE_KEY": "k" * 32, "KAGGLE_API_TOKEN": "KGAT_t0ken"}
SHORT = ["dataloader.train.total_batch_size=2", "train.eval_period=0", "train.log_period=1"]
SHORT += ["train.checkpointer.period=2", "train.hours=null"]

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Kaggle's machines are Linux")
needs_uv = pytest.mark.skipif(not (os.environ.get("UV") or shutil.which("uv")), reason="no uv")


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return Machine(tmp_path_factory.mktemp("image"), LACKING, OUTDATED)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, with data, in a folder with a name that Kaggle would not take."""
    folder = tmp_path_factory.mktemp("내 대회") / "쓰레기 탐지"
    folder.mkdir()
    for name in ("configs", "detection", "tools", "third_party"):
        shutil.copytree(PROJECT_ROOT / name, folder / name)
    for name in ("pyproject.toml", "train_net.py", "predict.py"):
        shutil.copy(PROJECT_ROOT / name, folder)
    (folder / ".env").write_text(f"WANDB_API_KEY={KEYS['WANDB_API_KEY']}")
    command = [sys.executable, "tools/make_toy_dataset.py", "--train", "8", "--val", "4"]
    subprocess.run([*command, "--size", "96"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def write(machine, project, tmp_path_factory):
    """Writes a folder as `make kaggle` does, with wheels from what is installed here."""
    wheel = pack(importlib.metadata.distribution("detectron2"), tmp_path_factory.mktemp("w"), True)

    def run(*args, output):
        command = [sys.executable, "tools/kaggle_folder.py", *map(str, args), "--user", "hong"]
        command += ["--competition", COMPETITION, "--image", machine.freeze, "--output", output]
        done = subprocess.run(
            [*command, "--wheel", wheel],
            cwd=project,
            env={**os.environ, **KEYS, **machine.offline()},
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return output

    return run


def attach(folder, kaggle, name):
    """Put what was uploaded among a notebook's inputs."""
    target = kaggle / "input/datasets/hong" / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / "dataset", target)
    (kaggle / "working").mkdir(exist_ok=True)


def everything_in(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def check_metadata(folder):
    """All that the image lacks is there, and the parts of the folder name each other."""
    pins = (folder / "dataset/wheels.txt").read_text().split()
    assert {pin.split("==")[0] for pin in pins} == {*LACKING, *OUTDATED}
    assert len(list((folder / "dataset/wheels").iterdir())) == len(pins)
    metadata = json.loads((folder / "notebook/kernel-metadata.json").read_text())
    assert metadata["id"] == "hong/" + metadata["title"]
    assert metadata["kernel_sources"] == [metadata["id"]]
    assert metadata["competition_sources"] == [COMPETITION]
    assert metadata["machine_shape"] == "NvidiaTeslaT4" and metadata["enable_gpu"] is True
    data = json.loads((folder / "dataset/dataset-metadata.json").read_text())
    assert [data["id"]] == metadata["dataset_sources"]


@on_linux
@needs_uv
@pytest.mark.slow
def test_from_a_training_to_a_submission(machine, project, write, tmp_path):
    kaggle, data = tmp_path / "kaggle", tmp_path / "kaggle/input/competitions" / COMPETITION
    shutil.copytree(project / "datasets/toy/images", data / "train_images")
    config = "configs/debug/smoke.py"

    # a training, and its second version, which continues the first
    options = ["--continue", *SHORT, "train.max_iter=4"]
    folder = write("--train", config, *options, output=tmp_path / "train")
    check_metadata(folder)
    attach(folder, kaggle, "train")
    done = machine.run(folder / "notebook/notebook.ipynb", kaggle)
    assert done.returncode == 0, done.stdout
    assert "no secret WANDB_API_KEY" in done.stdout and "recorded offline" in done.stdout
    (kaggle / "input/notebooks/hong").mkdir(parents=True)
    (kaggle / "working").rename(kaggle / "input/notebooks/hong/trash-train")
    (kaggle / "working").mkdir()
    text = (folder / "notebook/notebook.ipynb").read_text()
    (folder / "notebook/notebook.ipynb").write_text(text.replace("max_iter=4", "max_iter=6"))
    done = machine.run(folder / "notebook/notebook.ipynb", kaggle)
    assert done.returncode == 0, done.stdout
    output = kaggle / "working/output/smoke"
    assert [row["iteration"] for row in read_metrics(output)] == list(range(6))
    assert list(output.glob("wandb/offline-run-*"))

    # two runs predict on images that only the notebook sees
    for name in ("one", "두 번째"):
        shutil.copytree(output, project / "output" / name)
    shutil.rmtree(kaggle / "input")
    hidden = [f"test/{number:04}.jpg" for number in range(3)]
    for path, name in zip((project / "datasets/toy/images").iterdir(), hidden, strict=False):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, data / name)
    rows = "".join(f",{name}\n" for name in hidden)
    (data / "sample_submission.csv").write_text(f"PredictionString,image_id\n{rows}")
    runs = [project / "output/one", project / "output/두 번째"]
    options = ["tta.enabled=True", "tta.detector.scales=[1.0]", "--weight", "one=2"]
    folder = write(*runs, *options, output=tmp_path / "predict")
    attach(folder, kaggle, "predict")
    done = machine.run(folder / "notebook/notebook.ipynb", kaggle)
    assert done.returncode == 0, done.stdout
    assert "wbf of 2" in done.stdout and "3 images" in done.stdout and "sound" in done.stdout
    with open(kaggle / "working/submission.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["image_id"] for row in written] == hidden
    assert all(len(row["PredictionString"].split()) >= 6 for row in written)
    assert not any(key.encode() in everything_in(folder) for key in KEYS.values())
    print("cut off by", "namespaces" if has_namespaces() else "a guard in Python")
