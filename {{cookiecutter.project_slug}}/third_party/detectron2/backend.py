"""PEP 517 backend: builds the wheel of detectron2 v0.6 that this folder's README describes.

The sdist is fetched and unpacked by uv, which checks its hash and knows the user's indexes,
proxies and cache; `edits` mends the sources; flit_core packs them with the metadata of
`pyproject.toml`. Nothing is compiled, so the wheel fits every platform and Python.

Hooks: https://peps.python.org/pep-0517/#build-backend-interface
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import edits

HERE = Path(__file__).resolve().parent
STAND_IN = HERE / "stand_in"
SDIST = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Builds the wheel in `wheel_directory` and returns its file name."""
    from flit_core.wheel import make_wheel_in

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        source.mkdir()
        fetch(source)
        try:
            edits.apply(source / "detectron2")
        except edits.EditError as error:
            sys.exit(f"detectron2: {error}")
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(HERE / name, source)
        return make_wheel_in(source / "pyproject.toml", Path(wheel_directory)).file.name


def build_sdist(sdist_directory, config_settings=None):
    """Refuses: this folder is itself all the source there is."""
    sys.exit("detectron2: this folder builds wheels only (`uv build --wheel`)")


def fetch(source):
    """Puts the sdist's `detectron2` package and LICENSE into the folder `source`."""
    from uv import find_uv_bin

    requirements = source / "requirements.txt"
    requirements.write_text(f"{SDIST} --hash=sha256:{SHA256}\n", encoding="utf-8")
    site = source / "site"
    command = [find_uv_bin(), "pip", "install", "--python", sys.executable, "--target", str(site)]
    command += ["--no-deps", "--no-build-isolation", "--require-hashes", "-r", str(requirements)]
    # The default links files into uv's cache, and edits would change them there as well.
    command += ["--link-mode", "copy"]
    # uv caches what it builds, by setting: without one of its own, this build of the sdist would
    # be handed to whoever installs the sdist itself.
    digest = hashlib.sha256((STAND_IN / "torch.py").read_bytes()).hexdigest()
    command += ["--config-settings", f"stand-in={digest}"]
    # The rest of the path and of the environment stays: pip's build isolation lives in it, and
    # so do the settings of uv.
    path = [str(STAND_IN), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONDONTWRITEBYTECODE": "1",  # this folder is the user's
    }
    # From the cache first: a rebuild needs no network.
    cached = subprocess.run([*command, "--offline"], env=environment, cwd=HERE, capture_output=True)
    if cached.returncode and subprocess.run(command, env=environment, cwd=HERE).returncode:
        sys.exit(f"detectron2: uv could not fetch and unpack {SDIST}: its reason is above")
    shutil.move(site / "detectron2", source)
    (licence,) = site.glob("pb1_detectron2-*.dist-info/**/LICENSE")
    shutil.move(licence, source)
