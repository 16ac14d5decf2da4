#!/usr/bin/env python
"""
Print what this machine has for a training, what is wrong with it, and the remedy:

    python tools/doctor.py
    python tools/doctor.py /mnt/big    # if train.output_dir is there

The exit status is 1 if something is wrong.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.utils.cli import command_parser, tool
from detection.utils.errors import UserError
from detection.utils.paths import DATASETS, PROJECT_ROOT, in_project

PACKAGES = ("detectron2", "torch", "torchvision", "timm", "transformers", "wandb")
GIB = 2**30


@tool
def main(argv: list[str] | None = None) -> int:
    """Print the page; returns 1 if something is wrong."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "folder", nargs="?", default=PROJECT_ROOT, help="where output goes (default: the project)"
    )
    folder = Path(parser.parse_args(argv).folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that is there")
    wrong: list[str] = []
    print(f"machine   {platform.platform()}, {os.cpu_count()} cores{_memory(wrong)}")
    print(f"Python    {platform.python_version()}, {sys.executable}")
    print(f"packages  {', '.join(map(_version, PACKAGES))}")
    _disks(folder, wrong)
    _long_paths(folder, wrong)
    _devices(wrong)
    for line in wrong:
        print(f"wrong     {line}")
    return 1 if wrong else 0


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} missing"


def _memory(wrong: list[str]) -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    except (AttributeError, OSError, ValueError):  # Windows
        return ""
    if size < 6:
        wrong.append(
            f"{size:.1f} GiB of memory: lower dataloader.train.num_workers and total_batch_size"
        )
    return f", {size:.0f} GiB of memory"


def _disks(output: Path, wrong: list[str]) -> None:
    folders = {"output": output, "datasets": Path(in_project(DATASETS))}
    folders["/dev/shm"] = Path("/dev/shm")
    there = {name: folder for name, folder in folders.items() if folder.is_dir()}
    free = {name: shutil.disk_usage(folder).free / GIB for name, folder in there.items()}
    print("free      " + ", ".join(f"{name} {size:.1f} GiB" for name, size in free.items()))
    if free["output"] < 5:
        wrong.append(
            "output: checkpoints of a model are 0.2 to 1.5 GB each; free some space, or set "
            "train.output_dir to another disk"
        )
    if free.get("/dev/shm", 1) < 1:
        wrong.append(
            "/dev/shm: the processes that load images need more; start the container with "
            "`--shm-size 8g`, or set dataloader.train.num_workers=0"
        )


def _long_paths(output: Path, wrong: list[str]) -> None:
    """Write a file with a path of more than 300 characters, as trackers name theirs."""
    try:
        with tempfile.TemporaryDirectory(dir=output, prefix=".doctor") as folder:
            deep = Path(folder, *["x" * 100] * 3)
            deep.mkdir(parents=True)
            (deep / "x").write_bytes(b"")
    except OSError as e:
        wrong.append(
            f"{output}: long paths cannot be written there ({e.strerror}); on Windows enable them "
            "(LongPathsEnabled in the registry), or keep the project in a folder with a short path"
        )


def _devices(wrong: list[str]) -> None:
    try:
        import torch

        from detection.utils import devices
    except (ImportError, OSError) as e:  # a library of CUDA that cannot be loaded, for example
        wrong.append(f"PyTorch cannot be imported ({e}): `make setup` installs what is missing")
        return
    for line in devices.query_smi("name", "driver_version", "memory.total"):
        print(f"NVIDIA    {line}")
    names = ["cpu"]
    if devices.has_cuda():
        names += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    elif gpus := devices.nvidia_gpus():
        wrong.append(f"{gpus[0]}: {devices.why_no_cuda()}")
    if torch.backends.mps.is_available():
        names.append("mps")
    for device in names:
        failure = devices.failure_of(device)
        print(f"device    {device} {'fails' if failure else 'works'}")
        if failure:
            wrong.append(f"{device}: {failure}")


if __name__ == "__main__":
    sys.exit(main())
