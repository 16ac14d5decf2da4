"""Writes what is uploaded to Kaggle: a data set of wheels, code and weights, and a notebook."""

import json
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from detection.utils.errors import UserError
from detection.utils.paths import PROJECT_ROOT

CODE = ("configs", "detection", "tools", "pyproject.toml")  # beside *.py and packages
SECRETS = ("__pycache__", ".*", "kaggle.json", "*.netrc")
LONGEST = 50  # characters of Kaggle's titles and names


@dataclass(frozen=True)
class Names:
    """
    What the parts are called on Kaggle.

    Attributes:
        user: the owner's name in addresses.
        name: of notebook and data set, from `slug`.
        competition: the part of its address after /competitions/; "" if there is none.
    """

    user: str
    name: str
    competition: str = ""


def project_name() -> str:
    """The project's name in pyproject.toml."""
    text = (PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^name = "([^"]*)"', text, re.MULTILINE)
    return found[1] if found else PROJECT_ROOT.name


def slug(name: str, suffix: str) -> str:
    """
    A name as Kaggle's addresses have it: lower case, digits and dashes.

    Args:
        name: in any script; letters without a Latin form are left out.
        suffix: comes after it.
    """
    latin = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    base = "-".join(re.findall("[a-z0-9]+", latin)) or "detection"
    return f"{base[: LONGEST - len(suffix) - len('-files') - 1].strip('-')}-{suffix}"


@contextmanager
def new_folder(output: Path):
    """
    Yield a folder that becomes `output` if all goes well; an earlier one is replaced.

    Raises:
        UserError: there is something else, or it cannot be written.
    """
    if output.exists() and not (output / "notebook" / "kernel-metadata.json").is_file():
        raise UserError(f"{output}: holds something else; --output names another folder")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".kaggle-", dir=output.parent) as temporary:
            folder = Path(temporary, "new")
            folder.mkdir()
            yield folder
            if output.exists():
                output.rename(Path(temporary, "old"))
            folder.rename(output)
    except OSError as e:
        raise UserError(f"{output}: cannot be written ({e.strerror or e})") from e


def copy_project(target: Path) -> None:
    """Copy the code that predicts and trains; no hidden file, and no key."""
    target.mkdir()
    for path in sorted(PROJECT_ROOT.iterdir()):
        if path.name in CODE or (path / "__init__.py").is_file() or path.suffix == ".py":
            if path.is_dir():
                shutil.copytree(path, target / path.name, ignore=shutil.ignore_patterns(*SECRETS))
            else:
                shutil.copy(path, target)


def write_data_set(folder: Path, names: Names, pins: Sequence[str]) -> None:
    """Write the list of wheels that the notebook installs, and the data set's metadata."""
    (folder / "wheels.txt").write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")
    metadata = {
        "title": f"{names.name}-files",
        "id": f"{names.user}/{names.name}-files",
        "licenses": [{"name": "unknown"}],
    }
    _write_json(folder / "dataset-metadata.json", metadata)


def write_notebook(
    folder: Path,
    names: Names,
    text: str,
    internet: bool = False,
    docker_image: str | None = None,
    earlier_output: bool = False,
) -> None:
    """
    Write a notebook and what the `kaggle` command needs to push it.

    Args:
        folder: for both files.
        names: of notebook, data set and competition.
        text: the notebook.
        internet: whether it is on; competitions that run the notebook want it off.
        docker_image: the image's address; None: the one that the notebook begins with.
        earlier_output: whether the output of the notebook's last version is an input.
    """
    own = f"{names.user}/{names.name}"
    (folder / "notebook.ipynb").write_text(text, encoding="utf-8")
    metadata = {
        "id": own,
        "title": names.name,  # the address follows from the title
        "code_file": "notebook.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_tpu": False,
        "enable_internet": internet,
        "machine_shape": "NvidiaTeslaT4",  # the default, a P100, is too old for today's PyTorch
        "dataset_sources": [f"{own}-files"],
        "competition_sources": [names.competition] if names.competition else [],
        "kernel_sources": [own] if earlier_output else [],
        "model_sources": [],
        "docker_image_pinning_type": "original",  # Kaggle's image changes monthly
    }
    if docker_image:
        metadata["docker_image"] = docker_image
    _write_json(folder / "kernel-metadata.json", metadata)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def find_weights(run: str) -> tuple[Path, Path]:
    """
    The checkpoint and the config.yaml of a run, given by its folder or by the checkpoint.

    Raises:
        UserError: one of them is missing.
    """
    weights = Path(run)
    if weights.suffix != ".pth":
        weights = weights / "model_best.pth"
    if not weights.is_file():
        raise UserError(f"{weights}: no such checkpoint; give the output of a training, or a .pth")
    config = weights.parent / "config.yaml"
    if not config.is_file():
        raise UserError(f"{config}: is missing; the checkpoint needs its training's config")
    return weights, config
