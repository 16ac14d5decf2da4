import importlib.util
import io
import logging
import struct
import sys
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

# the generated project's, which the tests run in, with its hooks and its fixtures
_spec = importlib.util.spec_from_file_location("project_conftest", "tests/conftest.py")
sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules[_spec.name])

from project_conftest import (  # noqa: E402
    PROJECT_ROOT,
    offline,
    on_toy,
    pytest_collection_modifyitems,
    pytest_unconfigure,
    read_metrics,
    read_wandb_rows,
    toy,
    train_command,
    train_net,
)

# where detectron2 is upstream's main, its wheel is the owner's to build
collect_ignore = [] if (PROJECT_ROOT / "third_party").is_dir() else ["kaggle/test_notebooks.py"]

__all__ = [
    "PROJECT_ROOT",
    "offline",
    "on_toy",
    "pytest_collection_modifyitems",
    "pytest_unconfigure",
    "read_metrics",
    "read_wandb_rows",
    "toy",
    "train_command",
    "train_net",
]

sys.path[:0] = [str(PROJECT_ROOT), str(PROJECT_ROOT / "tools")]


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
