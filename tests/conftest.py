"""What the tests share: the questions, and `bake`, which makes a project from answers."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cookiecutter.main import cookiecutter

collect_ignore = ["library"]  # `make library-tests` runs these in a generated project

TEMPLATE = Path(__file__).resolve().parents[1]
PROJECT = TEMPLATE / "{{cookiecutter.project_slug}}"
QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
CHOICES = {name: answers for name, answers in QUESTIONS.items() if name[0] != "_"}
CHOICES = {name: answers for name, answers in CHOICES.items() if isinstance(answers, list)}

# Every choice at least once, and answers that are far from the defaults.
COMBINATIONS: dict[str, dict[str, str]] = {
    "default": {},
    **{
        f"{name}={answer}": {name: answer}
        for name, answers in CHOICES.items()
        for answer in answers[1:]
    },
    "one class": {"classes": "car", "project_name": "C", "wandb_entity": "team"},
    "hard names": {
        "project_name": '새 <b>"프로젝트"</b> \\ *1* 🧪',
        "classes": json.dumps(
            ['5" disc', "it's", "both ' and \"", "재활용", "\\n", "a\u2028b", "🗑️"]
        ),
        "wandb_project": "프로젝트 " + "x" * 120,
    },
}
# an installation downloads gigabytes, and the project's own tests take as long as they take
LIMIT = 5400  # seconds
# kept between runs, so that the environment is installed once
WORKSHOP = TEMPLATE / "build" / "test"
MATRIX = [
    dict(zip(CHOICES, answers, strict=True)) for answers in itertools.product(*CHOICES.values())
]
CACHES = {"__pycache__", ".ruff_cache", ".pytest_cache", ".hypothesis", ".venv"}


def files_under(root: Path) -> set[str]:
    """Return the paths of the files under `root`, with slashes, without what tools leave there."""
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if not CACHES & set(path.parts)}


def read_classes(project: Path) -> list[str]:
    """Return CLASSES as Python reads it from the generated module."""
    module: dict[str, object] = {}
    exec((project / "detection/classes.py").read_bytes(), module)
    return module["CLASSES"]


def ruff(*arguments: str, **options) -> subprocess.CompletedProcess:
    """Run ruff; `options` are those of `subprocess.run`."""
    return subprocess.run(
        [sys.executable, "-m", "ruff", *arguments], capture_output=True, **options
    )


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cookiecutter configuration that keeps replays out of the user's home."""
    home = tmp_path_factory.mktemp("home")
    path = home / "config.yaml"
    path.write_text(
        json.dumps({"replay_dir": str(home / "replay"), "cookiecutters_dir": str(home / "cc")})
    )
    return path


@pytest.fixture(scope="session")
def bake(tmp_path_factory: pytest.TempPathFactory, config_file: Path) -> Callable[..., Path]:
    """Return a function that makes a project from answers, in this process, and returns its path.

    The same answers give the same folder: it is for reading. `fresh=True` gives one to change.
    """
    made: dict[str, Path] = {}

    def bake(*, fresh: bool = False, **answers: str) -> Path:
        key = json.dumps(answers, sort_keys=True)
        if fresh or key not in made:
            path = cookiecutter(
                str(TEMPLATE),
                no_input=True,
                extra_context=answers,
                output_dir=str(tmp_path_factory.mktemp("bake")),
                config_file=str(config_file),
            )
            if fresh:
                return Path(path)
            made[key] = Path(path)
        return made[key]

    return bake


def run(
    *command: str, cwd: Path, check: bool = True, **variables: str
) -> subprocess.CompletedProcess:
    """Run a command without the test's own environment; both outputs come as text."""
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"} | variables
    try:
        result = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired as e:
        said = b"".join(filter(None, (e.stdout, e.stderr))).decode(errors="replace")
        pytest.fail(f"{command} took longer than {LIMIT} s\n{said[-20000:]}")
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


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder that holds real annotations; skip where there is none."""
    for folder in (os.environ.get("DETECTION_DATA"), TEMPLATE.parent / "shared" / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("DETECTION_DATA names no folder of real data sets")
