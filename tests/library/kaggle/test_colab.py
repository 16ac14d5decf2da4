"""The template's notebook for Colab, executed without network."""

import importlib.metadata
import sys
from pathlib import Path

import pytest
from kaggle_machine import Machine, pack

TEMPLATE = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(sys.platform != "linux", reason="Colab's machines are Linux")
@pytest.mark.slow
def test_colab_generates_a_project_and_runs_its_demo(tmp_path):
    """Shortened; and a wheel stands in for the build of detectron2, which downloads its parts."""
    machine = Machine(tmp_path / "image", ["detectron2"], {})
    wheel = pack(importlib.metadata.distribution("detectron2"), tmp_path, is_whole=True)
    replaced = [
        ("gh:OWNER/cookiecutter-detectron2", str(TEMPLATE)),
        ("-e . ./third_party/detectron2", f"--no-deps {wheel}"),
        ("make_toy_dataset.py", "make_toy_dataset.py --train 4 --val 2 --size 96"),
        ("smoke.py", "smoke.py train.max_iter=2 train.eval_period=0"),
    ]
    (colab := tmp_path / "colab").mkdir()
    done = machine.run(TEMPLATE / "docs/colab.ipynb", colab, replaced)
    assert done.returncode == 0, done.stdout
    assert "competition/mAP50" in done.stdout and "<IPython.core.display.Image" in done.stdout
