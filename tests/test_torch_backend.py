"""`make setup` on a machine with an older driver installs the PyTorch built for it.

PyTorch's own index is on this machine: a proxy ends the TLS connections to its host with a
certificate that only the test trusts. uv, its choice and its installation are real; the wheels are
empty but for a version.
"""

import base64
import hashlib
import io
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import trustme

INDEX = "download.pytorch.org"
VERSIONS = {"torch": "2.9.1", "torchvision": "0.24.1"}
BACKENDS = ("cu126", "cu128", "cu129")  # that have a version as new


def wheel(name: str, version: str) -> bytes:
    """A wheel whose module has a `__version__`."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{info}/RECORD"
    lines = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        lines.append(f"{path},sha256={digest.decode()},{len(text)}\n")
    files[record] = "".join([*lines, f"{record},,\n"])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return packed.getvalue()


class Proxy:
    """An HTTPS proxy on the loopback that is PyTorch's index, and nothing else."""

    def __init__(self, folder: Path):
        authority = trustme.CA()
        self.certificate = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.certificate))
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(INDEX).configure_cert(self._context)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        try:
            host = _head(connection).split()[1]
            if host != f"{INDEX}:443":
                connection.sendall(b"HTTP/1.1 502 Not here\r\n\r\n")
                return
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with self._context.wrap_socket(connection, server_side=True) as secure:
                while request := _head(secure):
                    method, path = request.split()[:2]
                    status, body = self._answer(path)
                    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n"
                    head += f"Content-Type: {'text/html' if path.endswith('/') else 'binary'}\r\n"
                    secure.sendall(head.encode() + b"\r\n" + (b"" if method == "HEAD" else body))
        except OSError:
            pass  # uv has closed the connection
        finally:
            connection.close()

    def _answer(self, path: str) -> tuple[str, bytes]:
        found = re.fullmatch(r"/whl/(\w+)/(\w+)/(\S*)", path)
        if not found or found[1] not in BACKENDS or found[2] not in VERSIONS:
            return "404 Not Found", b""
        backend, name, file = found.groups()
        version = f"{VERSIONS[name]}+{backend}"
        if file:
            return "200 OK", wheel(name, version)
        link = f"{name}-{version}-py3-none-any.whl".replace("+", "%2B")
        return "200 OK", f'<!DOCTYPE html><html><a href="{link}">{link}</a></html>'.encode()


def _head(connection: socket.socket) -> str:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = connection.recv(1)
        if not more:
            return ""
        head += more
    return head.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="uv asks nvidia-smi there")
@pytest.mark.skipif(not (os.environ.get("UV") or shutil.which("uv")), reason="uv is not there")
@pytest.mark.parametrize(
    ("driver", "cuda", "backend"),
    [
        ("525.60.13", "12.0", "cu126"),
        ("560.35.03", "12.6", "cu126"),
        ("575.57.08", "12.9", "cu129"),
    ],
)
def test_the_pytorch_that_fits_the_driver_is_installed(driver, cuda, backend, bake, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(bake() / "Makefile", project)
    (project / "pyproject.toml").write_text(
        '[project]\nname = "a"\nversion = "1"\ndependencies = ["torch>=2.8", "torchvision"]\n'
        "[dependency-groups]\ndev = []\n"
    )
    smi = tmp_path / "bin/nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *query*) echo {driver};; *) echo "| CUDA Version: {cuda} |";; esac\n'
    )
    smi.chmod(0o755)
    proxy = Proxy(tmp_path)
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= {"PATH": f"{smi.parent}:{os.environ['PATH']}", "HTTPS_PROXY": proxy.url}
    environment |= {"SSL_CERT_FILE": str(proxy.certificate), "UV_NO_CACHE": "1"}
    environment["UV_SYSTEM_CERTS"] = "true"
    run = subprocess.run(
        ["make", "setup"], cwd=project, env=environment, capture_output=True, text=True, timeout=100
    )
    proxy.close()
    assert run.returncode == 0, run.stdout + run.stderr
    code = "import torch, torchvision; print(torch.__version__, torchvision.__version__)"
    python = project / ".venv/bin/python"
    printed = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout
    assert printed.split() == [f"{version}+{backend}" for version in VERSIONS.values()]
