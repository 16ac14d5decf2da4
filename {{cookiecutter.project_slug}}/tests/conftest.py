import faulthandler
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # CPUs compute the same everywhere

PROJECT_ROOT = Path(__file__).resolve().parents[1]
SMOKE = "configs/debug/smoke.py"
SLOW = 900  # seconds that a slow test may take


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW))


def pytest_unconfigure():
    """Show what hangs when Python ends, and end it."""
    faulthandler.dump_traceback_later(120, exit=True)


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """A toy data set: 8 images to train on, 4 to validate."""
    folder = tmp_path_factory.mktemp("toy")
    command = [sys.executable, "tools/make_toy_dataset.py", "--output", str(folder)]
    command += ["--train", "8", "--val", "4", "--size", "96"]
    subprocess.run(command, cwd=PROJECT_ROOT, check=True)
    return folder


@pytest.fixture(scope="session")
def on_toy(toy) -> list[str]:
    """Overrides that put any config on the toy data, at a size that suits a CPU."""
    return [
        f"dataset.train.json_file={toy}/train.json",
        f"dataset.val.json_file={toy}/val.json",
        f"dataset.train.image_root={toy}/images",
        f"dataset.val.image_root={toy}/images",
        "train.device=cpu",
        "train.init_checkpoint=''",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "dataloader.train.mapper.augmentations.0.short_edge_length=[96]",
        "dataloader.test.mapper.augmentations.0.short_edge_length=96",
    ]


@pytest.fixture(scope="module")
def offline():
    """No key is found and nothing is sent, whatever the machine's own settings."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("WANDB_MODE", "offline")
        yield


@pytest.fixture(scope="session")
def train_net(on_toy):
    """Runs train_net.py on the toy data as a user would; returns the finished process."""

    def run(*args: str, config=SMOKE, check=True):
        process = subprocess.run(
            train_command(on_toy, *args, config=config),
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if check:
            assert process.returncode == 0, process.stdout + process.stderr
        return process

    return run


def train_command(on_toy: list[str], *args: str, config=SMOKE) -> list[str]:
    return [sys.executable, "train_net.py", "--config-file", config, *on_toy, *args]


def config_files() -> list[str]:
    """The configs that can be trained, relative to the project's root."""
    folders = (PROJECT_ROOT / "configs", PROJECT_ROOT / "configs/debug")
    return sorted(str(f.relative_to(PROJECT_ROOT)) for d in folders for f in d.glob("*.py"))


def read_json(path: Path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_metrics(output_dir: Path) -> list[dict]:
    """The rows of metrics.json."""
    with (output_dir / "metrics.json").open(encoding="utf-8") as f:
        return [json.loads(line) for line in f]  # splitlines() would split at U+2028 too


def read_wandb_rows(run_dir: Path) -> list[dict]:
    """The history of an offline W&B run, as W&B itself reads it."""
    (file,) = run_dir.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    return [record["history"]["item"] for record in records if record.get("type") == "history"]
