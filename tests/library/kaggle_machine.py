"""
Stand-ins for Kaggle: an image that lacks packages, an index of what is installed here, and
notebooks run as there, in a fresh environment and without network.
"""

import base64
import ensurepip
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from packaging.utils import canonicalize_name

SITE = Path(sysconfig.get_paths()["purelib"])
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

NO_WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

# cells one after another, as `jupyter execute` does, and what they print
EXECUTE = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], as_version=4)
client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3")
try:
    client.execute(cwd=sys.argv[2])
finally:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            print(output.get("text", output.get("data", {}).get("text/plain", "")), end="")
"""
# only the loopback device, which Jupyter's processes talk over, is there
ALONE = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up, running
os.execv(sys.argv[1], sys.argv[1:])
"""
# where the machine has no namespaces to offer
GUARD = """
import socket
class Guarded(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"no network: {address}")
        return super().connect(address)
socket.socket = Guarded
"""


@cache
def has_namespaces() -> bool:
    """Whether a process can be cut off from the network here."""
    command = ["unshare", "--map-root-user", "--net", sys.executable, "-c", ALONE, "/bin/true"]
    return bool(shutil.which("unshare")) and not subprocess.run(command).returncode


class Machine:
    """
    An image of this environment's packages without some, from which fresh machines start.

    Attributes:
        index: a folder of wheels, of what the image lacks, and of the rest without their content.
        freeze: the image's list of packages.
    """

    def __init__(self, folder: Path, lacking: Sequence[str], outdated: dict[str, str]):
        """
        Args:
            folder: for all of this.
            lacking: packages that the image has not.
            outdated: {package: version} that the image has only in name.
        """
        self._folder, self.index = folder, folder / "index"
        self._site = folder / "site"
        self.freeze = folder / "image.txt"
        self.index.mkdir(parents=True)
        self._site.mkdir()
        gone, lines = set(), [f"# python {PYTHON}"]
        for package in importlib.metadata.distributions(path=[str(SITE)]):
            name = canonicalize_name(package.metadata["Name"])
            is_gone = name in lacking or name in outdated
            pack(package, self.index, is_whole=is_gone)
            if is_gone:
                gone |= {file.parts[0] for file in package.files}
            if name not in lacking:
                lines.append(f"{name}=={outdated.get(name, package.version)}")
        self.freeze.write_text("\n".join(lines))
        for entry in SITE.iterdir():
            if entry.name not in gone and entry.suffix != ".pth":
                (self._site / entry.name).symlink_to(entry)
        # where Debian has it, too
        folders = Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels")
        pip = next(file for folder in folders for file in folder.glob("pip-*.whl"))
        with zipfile.ZipFile(pip) as archive:
            archive.extractall(self._site)

    def offline(self) -> dict[str, str]:
        """Variables that let uv and pip see nothing but the index."""
        return {
            **{"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(self.index)},
            **{"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.index)},
            **{"PIP_CONFIG_FILE": os.devnull, "PYTHONPATH": str(self._pip())},
        }

    def _pip(self) -> Path:
        (folder := self._folder / "pip").mkdir(exist_ok=True)
        if not (folder / "pip").exists():
            (folder / "pip").symlink_to(self._site / "pip")
        return folder

    def run(
        self, notebook: Path, kaggle: Path, replaced: Sequence[tuple[str, str]] = ()
    ) -> subprocess.CompletedProcess:
        """
        Execute a notebook in a fresh environment.

        Args:
            notebook: as it was written; it says /kaggle and /tmp, ...
            kaggle: ... which are in this folder here.
            replaced: other pairs of texts in it.
        """
        home = kaggle / f"machine{len(list(kaggle.glob('machine*')))}"
        venv = home / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        (packages,) = venv.glob("lib/python*/site-packages")
        (packages / "image.pth").write_text(f"{self._site}\n")
        for name in ("cookiecutter", "pip"):
            command = venv / "bin" / name
            command.write_text(f'#!/bin/sh\nexec python -m {name} "$@"\n')
            command.chmod(0o755)
        places = {"/kaggle/": f"{kaggle}/", "/tmp/": f"{home}/"}
        text = notebook.read_text(encoding="ascii")
        text = re.sub("|".join(places), lambda found: places[found[0]], text)
        for old, new in replaced:
            assert old in text, old
            text = text.replace(old, new)
        (copy := home / "notebook.ipynb").write_text(text)
        command = [venv / "bin/python", "-c", EXECUTE, copy, home]
        if has_namespaces():
            alone = ["unshare", "--map-root-user", "--net", sys.executable, "-c", ALONE]
            command = [*alone, *command]
        else:
            (packages / "sitecustomize.py").write_text(GUARD)
        keep = ("LANG", "PYTHONPATH", "OMP_NUM_THREADS")  # the tests' own packages are there
        environment = {name: os.environ[name] for name in keep if name in os.environ}
        environment |= {"PATH": f"{venv / 'bin'}:/usr/bin:/bin", "HOME": str(home)}
        environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(
            list(map(str, command)),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=900,
        )


def pack(package: importlib.metadata.Distribution, folder: Path, is_whole: bool) -> Path:
    """Make a wheel of what is installed; of its metadata alone, unless `is_whole`."""
    name = package.metadata["Name"].replace("-", "_")
    info = f"{name}-{package.version}.dist-info"
    own = package.read_text("WHEEL") or NO_WHEEL
    tags = [line.split()[1].split("-") for line in own.splitlines() if line.startswith("Tag:")]
    tag = "-".join(".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True))
    wheel = folder / f"{name}-{package.version}-{tag}.whl"
    contents = {f"{info}/METADATA": package.read_text("METADATA"), f"{info}/WHEEL": own}
    contents = {path: text.encode() for path, text in contents.items()}
    files = {file.as_posix(): file.locate() for file in package.files if is_whole and _is_own(file)}
    contents |= {path: file.read_bytes() for path, file in files.items()}
    rows = []
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in contents.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            rows.append(f'"{path}",sha256={digest.decode()},{len(content)}')
            member = zipfile.ZipInfo(path)
            # programs, such as W&B's, stay executable
            mode = files[path].stat().st_mode if path in files else 0o100644
            member.external_attr = mode << 16
            archive.writestr(member, content)
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]))
    return wheel


def _is_own(file: importlib.metadata.PackagePath) -> bool:
    """Whether a file is in a package, not a script, a cache or about the installation."""
    return not {"..", "__pycache__"} & set(file.parts) and ".dist-info" not in file.parts[0]
