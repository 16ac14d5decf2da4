import faulthandler
import io
import json
import logging
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # CPUs compute the same everywhere

PROJECT_ROOT = Path.cwd()  # of the generated project
sys.path[:0] = [str(PROJECT_ROOT), str(PROJECT_ROOT / "tools")]
SLOW = 900  # seconds that a slow test may take


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW))


def pytest_unconfigure():
    """What hangs when Python ends is shown, and ended."""
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
    """Overrides that put any config on the toy data, at a size a CPU can bear."""
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


@pytest.fixture
def lines():
    """What the terminal shows."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    loggers = [logging.getLogger(name) for name in ("detection", "detectron2")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield lambda: stream.getvalue().splitlines()
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.fixture(scope="session")
def train_net(on_toy):
    """Runs train_net.py on the toy data as a user would; returns the finished process."""

    def run(*args: str, config="configs/debug/smoke.py", check=True):
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


def train_command(on_toy: list[str], *args: str, config="configs/debug/smoke.py") -> list[str]:
    return [sys.executable, "train_net.py", "--config-file", config, *on_toy, *args]


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


def read_wandb_records(sync_file: Path) -> list[Record]:
    """All that an offline run has recorded; the file is framed as LevelDB's logs are."""
    data = Path(sync_file).read_bytes()
    records, record, at = [], b"", 7  # after the header
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a block's end too short for a chunk
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind == 0:
            break
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            records.append(Record.FromString(record))
            record = b""
    return records
