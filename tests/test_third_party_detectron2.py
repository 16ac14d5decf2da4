"""The no-compiler build of detectron2: its edits refuse to guess, its wheel is whole."""

from __future__ import annotations

import email
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
import warnings
import zipfile
from pathlib import Path

import pytest
from conftest import PROJECT

FOLDER = PROJECT / "third_party" / "detectron2"


@pytest.fixture(scope="module")
def edits():
    spec = importlib.util.spec_from_file_location("detectron2_edits", FOLDER / "edits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the folder, to be changed."""
    ignore = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(FOLDER, tmp_path / "third_party" / "detectron2", ignore=ignore)


def build(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build the wheel of `folder` into `out` with uv, which the Makefile names in UV."""
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "run `make test`, or put uv on the PATH"
    return run(uv, "build", "--wheel", "--python", sys.executable, "--out-dir", out, folder)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, encoding="utf-8")


def test_edits_are_applied_and_noted_once(edits, tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = 1\ny = 1\nz = 2\n", encoding="utf-8")
    both = [edits.Edit("a.py", "= 1", "= 3", 2), edits.Edit("a.py", "z", "é")]
    edits.apply(tmp_path, [edits.Mend("numbers", "why", both)])
    assert file.read_text(encoding="utf-8") == edits.NOTICE + "x = 3\ny = 3\né = 2\n"


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (("a.py", "absent", ""), "a.py has 'absent' 0 times, not 1"),
        (("a.py", "x", "y"), "a.py has 'x' 2 times, not 1"),
        (("b.py", "x", "y"), "there is no b.py"),
    ],
)
def test_an_edit_that_does_not_fit_is_named(edits, tmp_path: Path, edit, complaint: str) -> None:
    file = tmp_path / "a.py"
    file.write_text("x x", encoding="utf-8")
    with pytest.raises(edits.EditError, match=f"edit 'numbers': {re.escape(complaint)}$"):
        edits.apply(tmp_path, [edits.Mend("numbers", "why", [edits.Edit(*edit)])])
    assert file.read_text(encoding="utf-8") == "x x"


def test_readme_tells_what_the_build_does(edits) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w-]+)` \|", readme, re.M) == [mend.name for mend in edits.MENDS]
    version = re.search(r'^version = "(.+)"', (FOLDER / "pyproject.toml").read_text(), re.M)[1]
    assert readme.startswith(f"# detectron2 {version}\n")
    assert re.search(r'^SHA256 = "(.+)"', (FOLDER / "backend.py").read_text(), re.M)[1] in readme


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("wheel")
    result = build(FOLDER, out)
    assert result.returncode == 0, result.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield file


@pytest.mark.slow
def test_wheel_fits_every_platform_and_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    name = Path(wheel.filename).name
    assert re.fullmatch(r"detectron2-0\.6\+nocompile\.\d+-py3-none-any\.whl", name)
    info = name.removesuffix("-py3-none-any.whl") + ".dist-info"
    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert metadata["Name"] == "detectron2"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert b"Apache License" in wheel.read(f"{info}/licenses/LICENSE")
    requirements = {re.match(r"[\w-]+", line)[0] for line in metadata.get_all("Requires-Dist")}
    assert {"torch", "torchvision", "numpy", "fvcore", "omegaconf", "hydra-core"} <= requirements
    assert not {"black", "future", "pydot", "dataclasses"} & requirements


@pytest.mark.slow
def test_wheel_holds_the_package_and_the_model_zoo_only(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"detectron2"}
    zoo = "detectron2/model_zoo/configs"
    assert f"{zoo}/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py" in names
    assert f"{zoo}/COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml" in names
    assert f"{zoo}/common/models/fcos.py" in names
    assert "detectron2/projects/point_rend/__init__.py" in names
    assert {Path(name).suffix for name in names} - {""} == {".py", ".yaml"}


@pytest.mark.slow
def test_wheel_compiles_without_a_warning(wheel: zipfile.ZipFile) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in wheel.namelist():
            if name.endswith(".py"):
                compile(wheel.read(name), name, "exec")


@pytest.mark.slow
def test_build_stops_at_an_edit_that_does_not_fit(folder: Path, tmp_path: Path) -> None:
    file = folder / "edits.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"Image.LINEAR"', '"Image.CUBIC"'), encoding="utf-8")
    result = build(folder, tmp_path / "out")
    assert result.returncode != 0
    lines = [line.strip() for line in (result.stdout + result.stderr).splitlines()]
    file = "data/transforms/transform.py"
    assert f"detectron2: edit 'pillow': {file} has 'Image.CUBIC' 0 times, not 1" in lines
    assert not list((tmp_path / "out").glob("*.whl"))


@pytest.mark.slow
def test_build_refuses_another_sdist(folder: Path, tmp_path: Path) -> None:
    file = folder / "backend.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub(r'^SHA256 = ".{8}', 'SHA256 = "00000000', text, flags=re.M), "utf-8")
    result = build(folder, tmp_path / "out")
    assert result.returncode != 0
    assert "Hash mismatch for `pb1-detectron2==0.6`" in result.stdout + result.stderr
    assert not list((tmp_path / "out").glob("*.whl"))


@pytest.mark.slow
def test_pip_builds_it_too(folder: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    result = run(python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(tmp_path.glob("detectron2-0.6+nocompile*.whl"))
