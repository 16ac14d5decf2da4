"""A generated project, installed and used as its owner would: slow, and the point of it all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import COMBINATIONS, TEMPLATE

pytestmark = pytest.mark.slow

# kept between runs, so that the environment is installed once
WORKSHOP = TEMPLATE / "build" / "test"


def run(*command: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    """Run a command without the test's own environment; both outputs come as text."""
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    if check:
        assert result.returncode == 0, result.stdout[-20000:] + result.stderr[-8000:]
    return result


@pytest.fixture(scope="session")
def project(bake) -> Path:
    """The project of all the default answers, installed by its own Makefile."""
    path = WORKSHOP / "project"
    keep = path / ".venv"
    if path.exists():
        for old in path.iterdir():
            if old != keep:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(bake(), path, dirs_exist_ok=True)
    run("make", "setup", cwd=path)
    return path


@pytest.fixture(scope="session")
def python(project) -> str:
    """The interpreter of the installed project, which serves other projects too."""
    venv = project / ".venv"
    return str(venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def test_own_lint_and_tests_pass(project):
    run("make", "lint", cwd=project)
    result = run("make", "test", "ARGS=--tb=short --show-capture=no", cwd=project)
    assert " passed" in result.stdout and " skipped" not in result.stdout
    print(result.stdout[-400:])


@pytest.mark.parametrize("name", ["one class", "hard names"])
def test_trains_with_other_classes(bake, python, name):
    path = bake(fresh=True, **COMBINATIONS[name])
    run(python, "-m", "pytest", "-q", "-m", "not slow", "tests/test_training.py", cwd=path)


def test_trains_on_real_images(bake, python, data_dir):
    data = data_dir / "bccd"
    path = bake(fresh=True, classes=str(data / "train.json"))
    command = [
        *(python, "train_net.py", "--config-file", "configs/debug/smoke.py"),
        *(f"dataset.{split}.json_file={data}/{split}.json" for split in ("train", "val")),
        *(f"dataset.{split}.image_root={data}/images" for split in ("train", "val")),
        *("train.max_iter=20", "train.eval_period=0", "train.log_period=5"),
    ]
    result = run(*command, cwd=path)
    assert "no area" in result.stdout, "the boxes without area are told"
    rows = (path / "output/smoke/metrics.json").read_text(encoding="utf-8").splitlines()
    last = json.loads(rows[-1])
    assert last["iteration"] == 19
    classes = {"RBC", "WBC", "Platelets"}
    assert {k.removeprefix("bbox/AP-") for k in last if k.startswith("bbox/AP-")} == classes


def test_says_what_is_odd_in_annotations(bake, python, data_dir):
    annotations = data_dir / "recycling_trash" / "train.json"
    path = bake(classes=str(annotations))
    result = run(python, "tools/check_dataset.py", str(annotations), cwd=path, check=False)
    assert result.returncode == 1  # its images are not there
    for odd in ("4,883 images", "23,144 annotations", "id 0", "not run from 1", "images that are"):
        assert odd in result.stdout
    assert result.stderr == ""
