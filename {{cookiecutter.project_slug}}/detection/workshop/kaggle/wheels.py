"""Wheels of all that an image lacks, resolved by uv and downloaded by pip."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from detection.utils.errors import UserError
from detection.utils.paths import PROJECT_ROOT
from detection.workshop.kaggle.image import Image

GLIBC = 35  # 2.35 is Ubuntu 22.04's
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
KEPT = ("torch", "torchvision")  # they belong to the image's driver
TIME_LIMIT = 3600  # seconds for all downloads
DETECTRON2 = PROJECT_ROOT / "third_party" / "detectron2"


def gather_wheels(
    folder: Path, image: Image, without: Sequence[str] = (), given: Sequence[str] = ()
) -> list[str]:
    """
    Put wheels of what the project needs and an image lacks into a folder.

    uv resolves pyproject.toml with the image's versions where they fit. PyTorch and torchvision
    stay as the image has them.

    Args:
        folder: an empty one.
        image: what is there.
        without: packages that are not needed.
        given: wheels that are taken as they are; they replace downloads and builds.

    Returns:
        `name==version` of each wheel.

    Raises:
        UserError: something cannot be resolved or downloaded, has no wheel for the image, or does
            not fit what the image has.
    """
    for wheel in given:
        _copy(wheel, folder, image)
    if "detectron2" not in dict(_wheels(folder)):
        _build_detectron2(folder)
    _download(_resolve(image, without, folder), folder, image)
    found = dict(_wheels(folder))
    _check(folder, found, image, without)
    return sorted(f"{name}=={version}" for name, version in found.items())


def _resolve(image: Image, without: Sequence[str], folder: Path) -> list[str]:
    """
    `name==version` of all that the image lacks or has at a version that does not fit, but for the
    wheels in a folder.
    """
    with tempfile.TemporaryDirectory() as temporary:
        # uv prefers the versions in an output file that exists
        output, excludes, constraints = (
            Path(temporary, name) for name in ("pins.txt", "excludes.txt", "constraints.txt")
        )
        preferred = {n: v for n, v in image.packages.items() if not v.local and n not in KEPT}
        pins = "".join(f"{name}=={version}\n" for name, version in preferred.items())
        output.write_text(pins, encoding="utf-8")
        lines = "".join(f"{name}\n" for name in (*KEPT, *without))
        excludes.write_text(lines, encoding="utf-8")
        files = {parse_wheel_filename(p.name)[0]: p for p in folder.resolve().glob("*.whl")}
        lines = "".join(f"{n} @ {p.as_uri()}\n" for n, p in files.items())
        constraints.write_text(lines, encoding="utf-8")
        command = ["pip", "compile", "pyproject.toml", "--output-file", output, "--quiet"]
        command += ["--excludes", excludes, "--constraints", constraints]
        command += ["--no-sources-package", "detectron2", "--python-version", image.python]
        command += ["--python-platform", f"x86_64-manylinux_2_{GLIBC}"]
        command += ["--no-header", "--no-annotate"]
        _run([_uv(), *command], "cannot resolve pyproject.toml")
        lines = output.read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if re.match(r"[\w.-]+==", line)]
    return [
        f"{canonicalize_name(pin.name)}{pin.specifier}"
        for pin in pins
        if not image.has(pin.name, pin.specifier)
    ]


def _download(pins: list[str], folder: Path, image: Image) -> None:
    """Wheels of `name==version`; pure Python without a wheel is built."""
    if not pins:
        return
    command = ["download", "--quiet", "--no-deps", "--dest", folder]
    command += ["--python-version", image.python, "--implementation", "cp"]
    for abi in (f"cp{image.python.replace('.', '')}", "abi3", "none"):
        command += ["--abi", abi]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    _run([*_pip(), *command, *pins], "a package cannot be downloaded")
    for source in sorted(p for p in folder.iterdir() if p.suffix != ".whl"):
        before = set(folder.glob("*.whl"))
        problem = (
            f"{source.name}: has no wheel for Python {image.python} on Linux, and cannot be built "
            "for it here; build it on Kaggle with `pip wheel`, and give --wheel FILE"
        )
        _build(source, folder, problem)
        (built,) = set(folder.glob("*.whl")) - before
        if not _fits(built.name, image):
            raise UserError(problem)
        source.unlink()


def _build(source: Path, folder: Path, problem: str) -> None:
    _run([_uv(), "build", "--quiet", "--wheel", "--out-dir", folder, source], problem)
    (folder / ".gitignore").unlink(missing_ok=True)  # uv's


def _build_detectron2(folder: Path) -> None:
    if not DETECTRON2.is_dir():
        raise UserError(
            "detectron2: upstream's main is compiled for one PyTorch; build its wheel on Kaggle "
            "with `pip wheel --no-deps --no-build-isolation` and the address in pyproject.toml, "
            "and give --wheel FILE"
        )
    _build(DETECTRON2, folder, "third_party/detectron2 cannot be built")


def _check(folder: Path, found: dict[str, Version], image: Image, without: Sequence[str]) -> None:
    """Check what each wheel and the project require, as `pip check` would there."""
    there = Image(image.python, {**image.packages, **found})
    environment = image.environment()
    needed = {wheel.name: _requirements(wheel) for wheel in sorted(folder.glob("*.whl"))}
    project = (PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    kept = re.findall(rf'^ *"((?:{"|".join(KEPT)})\b[^"]*)"', project, re.MULTILINE)
    needed["pyproject.toml"] = map(Requirement, kept)  # the others are resolved
    for source, requirements in needed.items():
        for requirement in requirements:
            name = canonicalize_name(requirement.name)
            is_for_others = requirement.marker and not requirement.marker.evaluate(environment)
            if is_for_others or name in without or there.has(name, requirement.specifier):
                continue
            has = f"{name} {there.packages[name]}" if name in there.packages else f"no {name}"
            raise UserError(
                f"{source}: requires {requirement}, and the image has {has}; give wheels that fit "
                "as --wheel, or a newer image's list as --image"
            )


def _requirements(wheel: Path) -> Iterable[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode("utf-8"))
    return [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]


def _wheels(folder: Path) -> Iterable[tuple[str, Version]]:
    for wheel in sorted(folder.glob("*.whl")):
        name, version, *_ = parse_wheel_filename(wheel.name)
        yield name, version


def _copy(wheel: str, folder: Path, image: Image) -> None:
    if not wheel.endswith(".whl") or not Path(wheel).is_file():
        raise UserError(f"{wheel}: no such wheel; --wheel takes a .whl")
    if not _fits(Path(wheel).name, image):
        raise UserError(f"{wheel}: is not for Python {image.python} on Linux; give one that is")
    shutil.copy(wheel, folder)


def _fits(wheel: str, image: Image) -> bool:
    try:
        tags = parse_wheel_filename(wheel)[3]
    except InvalidWheelFilename as e:
        raise UserError(f"{wheel}: is no wheel's name ({e}); name it as it was built") from e
    version = tuple(map(int, image.python.split(".")))
    platforms = [*PLATFORMS, "linux_x86_64"]
    own = f"cp{image.python.replace('.', '')}"
    known = {*cpython_tags(version, platforms=platforms), *compatible_tags(version, own, platforms)}
    return bool(tags & known)


def _uv() -> str:
    found = os.environ.get("UV") or shutil.which("uv")
    own = PROJECT_ROOT / ".uv" / "bin" / "uv"
    if not found and not own.is_file():
        raise UserError("uv is not installed; `pip install uv`, and try again")
    return found or str(own)


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    return [_uv(), "tool", "run", "--quiet", "pip"]  # an environment of uv's has none


def _run(command: Sequence[str | Path], problem: str) -> None:
    try:
        subprocess.run(
            list(map(str, command)),
            cwd=PROJECT_ROOT,
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=TIME_LIMIT,
        )
    except subprocess.CalledProcessError as e:
        reason = " ".join(line.strip() for line in e.stderr.splitlines() if line.strip())
        raise UserError(f"{problem} ({reason})") from e
    except (OSError, subprocess.TimeoutExpired) as e:
        raise UserError(f"{problem} ({e})") from e
