"""Checks the names of the project, its folder, and its W&B project."""

from __future__ import annotations

import re

from detectron2_prompts.text import control_character, quoted, refuse

# What a folder may not be called on Windows, with or without an extension.
WINDOWS_DEVICES = {"con", "prn", "aux", "nul"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in range(10)
}
# What the generated pyproject.toml depends on: a project of that name would depend on itself.
DEPENDENCIES = set(
    "alembic detectron2 fvcore hotcoco huggingface-hub hydra-core imagehash iopath jinja2 "
    "markupsafe matplotlib mlflow-skinny numpy omegaconf onnx onnxruntime onnxscript "
    "opencv-python-headless optuna packaging pillow pre-commit pycocotools pydicom "
    "pylibjpeg pylibjpeg-openjpeg pytest pytest-timeout pyyaml ruff safetensors "
    "scikit-learn scipy simplejpeg sqlalchemy submitit tabulate tensorboard timm torch "
    "torchvision tqdm transformers wandb wcwidth".split()
)
# W&B refuses the first six; the others would end or change the Python string that they land in.
WANDB_FORBIDDEN = "/#?%:\\" + "'\"`{}"
WANDB_LONGEST = 128


def check_project_name(name: str) -> str:
    """Raise BadAnswer unless `name` can be a heading and a one-line description."""
    if not name.strip():
        refuse("project_name", "nothing given; name the project")
    if len(name) > 100:
        refuse("project_name", f"{len(name)} characters are too many; 100 are the most")
    bad = control_character(name) or next((c for c in name if c in "\u2028\u2029"), None)
    if bad:
        refuse("project_name", f"{quoted(name)} holds the control character {quoted(bad)}")
    if re.search(r"\{[{%#]", name):
        refuse("project_name", f"{quoted(name)} would be rendered by a later update; use no {{")
    return ""


def _slug_problem(slug: str) -> str | None:
    if not slug:
        return "nothing given; name the folder"
    if len(slug) > 100:
        return f"{len(slug)} characters are too many; 100 are the most"
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", slug):
        return (
            f"{quoted(slug)} cannot name a folder and a Python project; use letters a to z, "
            "digits and - _ . inside, with a letter or digit at both ends"
        )
    if slug.lower().split(".")[0] in WINDOWS_DEVICES:
        return f"{quoted(slug)} is the name of a device on Windows; choose another"
    if re.sub(r"[._-]+", "-", slug).lower() in DEPENDENCIES:
        return f"{quoted(slug)} is a package that the project depends on; choose another name"
    return None


def usable_slug(slug: str) -> str:
    """Return `slug`, or the nearest name to it that passes `check_project_slug`."""
    if not slug:
        return "detection"
    return f"{slug}-detection" if _slug_problem(slug) else slug


def check_project_slug(slug: str) -> str:
    """Raise BadAnswer unless `slug` is a folder name anywhere and a distribution's name."""
    if problem := _slug_problem(slug):
        refuse("project_slug", problem)
    return ""


def _check_wandb_name(question: str, name: str) -> None:
    if len(name) > WANDB_LONGEST:
        refuse(question, f"{len(name)} characters are too many; W&B takes {WANDB_LONGEST}")
    bad = next((c for c in name if c in WANDB_FORBIDDEN or not c.isprintable()), None)
    if bad:
        refuse(question, f"{quoted(name)} holds {quoted(bad)}, which cannot be in it; remove it")
    if name != name.strip():
        refuse(question, f"{quoted(name)} begins or ends with a blank; remove it")


def check_wandb_project(project: str) -> str:
    """Raise BadAnswer unless W&B takes `project` and a Python string holds it as it is."""
    if not project:
        refuse("wandb_project", "nothing given; name one (nothing is sent before you log in)")
    _check_wandb_name("wandb_project", project)
    return ""


def check_wandb_entity(entity: str) -> str:
    """Raise BadAnswer unless `entity` is empty or a name as in `check_wandb_project`."""
    _check_wandb_name("wandb_entity", entity)
    return ""
