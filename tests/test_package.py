"""The package of the template: `uvx cookiecutter-detectron2` makes what cookiecutter makes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TEMPLATE, files_under

pytestmark = pytest.mark.slow

LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".uv", "build", ".*_cache", "__pycache__")


def test_the_installed_command_makes_the_same_project(bake, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(TEMPLATE, source, ignore=LEFT_OUT)
    uv, venv = os.environ["UV"], tmp_path / "venv"
    bin_ = venv / ("Scripts" if os.name == "nt" else "bin")
    run = {"check": True, "cwd": tmp_path, "env": {**os.environ, "HOME": str(tmp_path / "home")}}
    subprocess.run([uv, "build", "--quiet", "--out-dir", "dist", str(source)], **run)
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(venv)], **run)
    (wheel,) = tmp_path.glob("dist/*.whl")
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(venv)]
    subprocess.run([*install, str(wheel)], **run)
    command = [str(bin_ / "cookiecutter-detectron2"), "--no-input", "classes=car, 버스"]
    subprocess.run(command, **run)
    made, expected = tmp_path / "recycling-trash-detection", Path(bake(classes="car, 버스"))
    files = files_under(made)
    assert files == files_under(expected) and not list(made.rglob("__pycache__"))
    for file in files:
        assert (made / file).read_bytes() == (expected / file).read_bytes(), file
        assert (made / file).stat().st_mode == (expected / file).stat().st_mode, file

    done = subprocess.run(
        [*command[:-1], "classes="], capture_output=True, text=True, **run | {"check": False}
    )
    assert (
        done.returncode == 1
        and done.stderr.count("\n") <= 1
        and "classes" in done.stderr + done.stdout
    )
