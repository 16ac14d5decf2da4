"""A project made by cruft takes over what its template has learnt, and keeps what its owner did."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT, TEMPLATE, read_classes

LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".uv", "build", ".*_cache", "__pycache__")
ANSWERS = {"classes": "car, traffic light", "metric_names": "detectron2"}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs a command without the user's own settings."""
    who = {"NAME": "Owner", "EMAIL": "owner@example.com"}
    environment = {
        **os.environ,
        **{f"GIT_{role}_{key}": who[key] for role in ("AUTHOR", "COMMITTER") for key in who},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "HOME": str(tmp_path / "home"),
        "USERPROFILE": str(tmp_path / "home"),
    }

    def run(*command: str, cwd: Path) -> str:
        process = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8"
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    return run


def commit(run: Callable[..., str], folder: Path) -> None:
    """Commit all that is in a folder."""
    if not (folder / ".git").exists():
        run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", "commit", "--quiet", "--message", "change", cwd=folder)


def replace(path: Path, old: str, new: str) -> None:
    """Replace the one `old` in a file."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("source", ["pypi", "git"])
def test_update_keeps_changes_of_both(run, tmp_path, source):
    template = tmp_path / "template"
    shutil.copytree(TEMPLATE, template, ignore=LEFT_OUT)
    commit(run, template)
    cruft = (sys.executable, "-m", "cruft")
    answers = json.dumps({**ANSWERS, "detectron2_source": source})
    run(*cruft, "create", str(template), "-y", "--extra-context", answers, cwd=tmp_path)
    project = tmp_path / "recycling-trash-detection"
    commit(run, project)

    # the owner adds a class, sets a number, and writes a tool
    replace(project / "detection/classes.py", '"car",', '"car",\n    "bus",')
    replace(project / "configs/common/train.py", "max_iter=10000", "max_iter=777")
    (project / "tools/mine.py").write_text("print()\n")
    commit(run, project)

    # the template changes a rendered file, by a new filter too, and one that is copied as it is
    newer = template / PROJECT.name
    replace(newer / "configs/common/train.py", "log_period=20", "log_period=33")
    replace(newer / "train_net.py", "import Callable\n", "import Callable  # newer\n")
    replace(newer / "README.md", "project_name | markdown_text", "project_name | loud")
    prompts = template / "detectron2_prompts"
    loud = 'def loud(text):\n    return f"{text}!"\n\n\n'
    replace(prompts / "text.py", "def markdown_text", f"{loud}def markdown_text")
    replace(prompts / "__init__.py", "import markdown_text,", "import loud, markdown_text,")
    line = "            usable_slug,\n"
    replace(prompts / "__init__.py", line, f"{line}            loud,\n")
    commit(run, template)
    run(*cruft, "update", "-y", cwd=project)

    assert read_classes(project) == ["car", "bus", "traffic light"]
    train = (project / "configs/common/train.py").read_text(encoding="utf-8")
    assert "max_iter=777" in train and "log_period=33" in train
    assert (project / "tools/mine.py").exists()
    assert "import Callable  # newer\n" in (project / "train_net.py").read_text(encoding="utf-8")
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# Recycling Trash Detection!")
    assert (project / "third_party").exists() == (source == "pypi")
    answers = json.loads((project / ".cruft.json").read_text(encoding="utf-8"))["context"]
    assert answers["cookiecutter"]["metric_names"] == "detectron2"
    assert json.loads(answers["cookiecutter"]["classes"]) == ["car", "traffic light"]
    assert not list(project.rglob("*.rej"))
    run(*cruft, "check", cwd=project)
