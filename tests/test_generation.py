"""What a project holds, for every combination of answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import (
    CHOICES,
    COMBINATIONS,
    MATRIX,
    PROJECT,
    QUESTIONS,
    TEMPLATE,
    files_under,
    ruff,
)
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter

from detectron2_prompts.names import DEPENDENCIES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RENDERED = {
    ".devcontainer/devcontainer.json",
    "Dockerfile",
    "README.md",
    "configs/common/writers.py",
    "detection/classes.py",
    "detection/evaluation/competition_metrics.py",
    "detection/workshop/submission/formats.py",
    "docs/models.md",
    "pyproject.toml",
}
# One of each kind, where a test reads every file.
SOME = ["default", "detectron2_source=git", "one class", "hard names"]


# What detectron2's main alone can train.
ON_MAIN = {
    "configs/cascade_rcnn_swin_b_FPN.py",
    "configs/faster_rcnn_mvitv2_t_FPN.py",
    "configs/faster_rcnn_vitdet_b.py",
    "configs/models/mvitv2_fpn.py",
    "configs/models/swin_fpn.py",
    "configs/models/vitdet.py",
}


def expected_files(source: str) -> set[str]:
    """Return what expected_files.txt lists, and what belongs to one source only."""
    files = set((TEMPLATE / "tests" / "expected_files.txt").read_text(encoding="utf-8").split())
    if source == "git":
        return {f for f in files if not f.startswith("third_party/")} | ON_MAIN
    return files


@pytest.mark.parametrize("answers", MATRIX, ids=lambda answers: "-".join(answers.values()))
def test_every_combination_of_choices(bake, answers):
    project = bake(**answers)
    assert files_under(project) == expected_files(answers["detectron2_source"])
    writers = (project / "configs/common/writers.py").read_text(encoding="utf-8")
    assert f'preset="{answers["metric_names"]}"' in writers
    submission = (project / "detection/workshop/submission/formats.py").read_text(encoding="utf-8")
    assert f'DEFAULT_FORMAT = "{answers["submission_format"]}"' in submission
    for path in files_under(project):
        if path in RENDERED:
            assert not re.search(r"\{\{|\{%|\{#|#\}|%\}", (project / path).read_text("utf-8")), path


def test_only_these_files_depend_on_the_answers():
    texts = {path: (PROJECT / path).read_text(encoding="utf-8") for path in files_under(PROJECT)}
    assert {path for path, text in texts.items() if "cookiecutter." in text} == RENDERED


@pytest.mark.parametrize("name", SOME)
def test_all_other_files_are_copied_byte_for_byte(bake, name):
    project = bake(**COMBINATIONS[name])
    copied = files_under(project) - RENDERED
    assert copied
    for path in copied:
        assert (project / path).read_bytes() == (PROJECT / path).read_bytes(), path


def test_files_keep_their_mode(bake):
    for path in files_under(bake()):
        assert (bake() / path).stat().st_mode == (PROJECT / path).stat().st_mode, path


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_new_project_is_clean_for_ruff(bake, name):
    project = bake(**COMBINATIONS[name])
    for command in (["check"], ["format", "--diff"]):
        result = ruff(*command, "--no-cache", ".", cwd=project, encoding="utf-8")
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", COMBINATIONS)
def test_pyproject_says_what_was_answered(bake, name):
    answers = COMBINATIONS[name]
    project = bake(**answers)
    data = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert data["project"]["name"] == project.name
    expected = answers.get("project_name", QUESTIONS["project_name"])
    assert data["project"]["description"].startswith(f"{expected}: ")
    source = data["tool"]["uv"]["sources"]["detectron2"]
    if answers.get("detectron2_source") == "git":
        assert re.fullmatch(r"[0-9a-f]{40}", source["rev"])
        build = data["tool"]["uv"]["extra-build-dependencies"]["detectron2"]
        assert {"requirement": "torch", "match-runtime": True} in build
        assert not (project / "third_party").exists()
    else:
        assert (project / source["path"] / "pyproject.toml").is_file()


@pytest.mark.parametrize("source", ["pypi", "git"])
def test_links_lead_to_files_and_headings(bake, source):
    project = bake(detectron2_source=source)
    pages = [project / "README.md", *sorted(project.glob("docs/*.md"))]
    assert len(pages) > 5
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}: {path}"
            if anchor:
                titles = re.findall("^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
                assert anchor in anchors, f"{page.name}: {path}#{anchor}"


def test_a_project_cannot_take_the_name_of_a_dependency(bake):
    data = tomllib.loads((bake() / "pyproject.toml").read_text(encoding="utf-8"))
    requirements = sum(data["dependency-groups"].values(), data["project"]["dependencies"])
    assert {re.match(r"[A-Za-z0-9._-]+", line)[0].lower() for line in requirements} == DEPENDENCIES


def test_no_dependency_is_open_ended_or_pinned(bake):
    data = tomllib.loads((bake() / "pyproject.toml").read_text(encoding="utf-8"))
    for line in data["project"]["dependencies"]:
        assert line == "detectron2" or (">=" in line and ",<" in line), line


def test_wandb_names_reach_the_writer_config(bake):
    project = bake(wandb_project="my project", wandb_entity="team")
    writers = (project / "configs/common/writers.py").read_text(encoding="utf-8")
    assert 'project="my project"' in writers
    assert 'entity="team"' in writers


def test_the_wandb_project_is_the_slug_unless_answered(bake):
    project = bake(project_slug="wheat-2")
    writers = (project / "configs/common/writers.py").read_text(encoding="utf-8")
    assert 'project="wheat-2"' in writers


def test_nothing_in_a_project_depends_on_this_machine(bake, tmp_path):
    path = tmp_path / "here" / "annotations.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"categories": [{"id": 1, "name": "car"}]}))
    project = bake(classes=str(path))
    for name in files_under(project):
        content = (project / name).read_bytes()
        for private in (tmp_path, TEMPLATE, Path.home()):
            if len(private.parts) > 2:  # "/root" is in other people's words too
                assert str(private).encode() not in content, name
        assert b"annotations.json" not in content or name not in RENDERED, name


def test_git_keeps_the_data_folder_and_ignores_the_data(bake):
    project = bake(fresh=True)
    for path in ("train.json", "images/1.jpg", "folds/0/README.md", "toy/train.json"):
        (project / "datasets" / path).parent.mkdir(parents=True, exist_ok=True)
        (project / "datasets" / path).write_text("{}")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    command = ["git", "ls-files", "--others", "--exclude-standard", "datasets"]
    listed = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True)
    assert listed.stdout.split() == ["datasets/README.md"]


def test_two_bakes_are_the_same(bake):
    first, second = bake(), bake(fresh=True)
    for path in files_under(first):
        assert (first / path).read_bytes() == (second / path).read_bytes(), path


def test_hooks_are_ascii():
    # A hook's output goes through the terminal's encoding, which need not know more.
    for hook in (TEMPLATE / "hooks").glob("*.py"):
        assert hook.read_bytes().isascii(), hook


def test_a_failing_hook_leaves_nothing(config_file, tmp_path):
    broken = tmp_path / "template"
    ignored = shutil.ignore_patterns(".git", ".venv", "third_party")  # what the hook removes
    shutil.copytree(TEMPLATE, broken, ignore=ignored)
    with pytest.raises(FailedHookException):
        cookiecutter(
            str(broken),
            no_input=True,
            extra_context={"detectron2_source": "git"},
            output_dir=str(tmp_path / "out"),
            config_file=str(config_file),
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_every_choice_has_a_label():
    for name, answers in CHOICES.items():
        labels = QUESTIONS["__prompts__"][name]
        assert set(labels) == {"__prompt__", *answers}


def test_labels_hold_nothing_that_the_prompt_eats():
    def texts(labels):
        for label in labels.values():
            yield from texts(label) if isinstance(label, dict) else [label]

    for label in texts(QUESTIONS["__prompts__"]):
        assert not set("[]{}") & set(label), label


@pytest.mark.parametrize("source", CHOICES["detectron2_source"])
def test_container_is_built_from_what_is_there(bake, source):
    """Whatever the Dockerfile copies exists, and .dockerignore keeps what is not to be in it."""
    project = bake(detectron2_source=source)
    text = (project / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    instructions = [line.split(maxsplit=1) for line in lines]
    assert {name for name, _ in instructions} == {"FROM", "RUN", "COPY", "ENV", "WORKDIR"}
    copied = [rest.split()[:-1] for name, rest in instructions if name == "COPY"]
    paths = [path for files in copied if "--from" not in files[0] for path in files]
    # uv.lock is there once the project is installed
    assert [path for path in paths if not (project / path).exists()] == ["uv.loc[k]"]
    assert ("third_party" in paths) == ("g++" not in text) == (source == "pypi")
    for name, rest in instructions:
        if name == "RUN":
            command = rest.removeprefix("--mount=type=cache,target=/opt/uv-cache ")
            subprocess.run(["sh", "-n", "-c", command], check=True)

    container = json.loads((project / ".devcontainer/devcontainer.json").read_text())
    build = container["build"]
    assert (project / ".devcontainer" / build["dockerfile"]).resolve() == project / "Dockerfile"
    assert (project / ".devcontainer" / build["context"]).resolve() == project


@pytest.mark.skipif(os.name == "nt", reason="Windows has no make")
@pytest.mark.parametrize(
    ("cuda", "backend"),
    [("12.0", "cu126"), ("12.4", "cu126"), ("12.8", "auto"), ("13.0", None), (None, None)],
)
def test_setup_takes_the_pytorch_for_an_older_driver(bake, tmp_path, cuda, backend):
    """PyTorch's builds on the package index need a driver of CUDA 13."""
    if cuda:
        smi = tmp_path / "nvidia-smi"
        smi.write_text(f"#!/bin/sh\necho '| Driver Version: 5.1   CUDA Version: {cuda}     |'\n")
        smi.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if k != "UV_TORCH_BACKEND"} | {"PATH": path}

    def commands(*variables: str) -> str:
        make = ["make", "--dry-run", "setup", "UV=uv", *variables]
        return subprocess.check_output(make, cwd=bake(), env=environment, text=True)

    found = re.findall(r"uv pip install .*--torch-backend (\S+)", commands())
    assert found == ([backend] if backend else [])
    assert ("uv sync" in commands()) == (not backend)
    assert "--torch-backend cpu" in commands("UV_TORCH_BACKEND=cpu")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no make")
def test_setup_refuses_a_driver_that_no_pytorch_runs_on(bake, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '| Driver Version: 520.61.05   CUDA Version: 11.8     |'\n")
    smi.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("UV_TORCH_BACKEND", None)
    make = ["make", "setup", "UV=false"]
    run = subprocess.run(make, cwd=bake(), env=environment, capture_output=True, text=True)
    assert run.returncode == 2
    line = run.stderr.splitlines()[0]
    assert "11.8" in line and "525" in line and "UV_TORCH_BACKEND=cpu" in line
