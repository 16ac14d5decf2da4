"""Projects train, evaluate and predict without W&B installed, with writers.wandb=null."""

import subprocess
import sys

import pytest
from conftest import PROJECT_ROOT

BLOCKED = "import sys; sys.modules['wandb'] = None\n"  # an import of it fails
LOAD_ALL = """
from pathlib import Path
from detection.config import load_config
for folder in ("configs", "configs/debug"):
    for path in Path(folder).glob("*.py"):
        load_config(str(path))
import train_net, predict
"""
TRAIN = """
import runpy
sys.argv = ["train_net.py", *sys.argv[1:]]
runpy.run_path("train_net.py", run_name="__main__")
"""


def run(code: str, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code, *args],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_configs_load():
    process = run(LOAD_ALL)
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_trains_evaluates_and_predicts(on_toy, tmp_path):
    args = ["--config-file", "configs/debug/smoke.py", *on_toy, f"train.output_dir={tmp_path}/run"]
    process = run(TRAIN, *args, "--fast-dev-run", "writers.wandb=null")
    assert process.returncode == 0, process.stdout + process.stderr
    refused = run(TRAIN, *args, "train.max_iter=1")
    assert refused.returncode == 2
    assert "writers.wandb=null" in refused.stderr.splitlines()[-1]
