"""The interface of writers: all that are shipped have it, and the page's own one trains."""

import argparse
import csv
import importlib
import inspect
import re

import pytest
from conftest import PROJECT_ROOT, read_metrics
from detection.config import load_config
from detection.engine.hooks import PeriodicWriter
from detection.utils.errors import UserError
from detection.writers.build import build_writers
from detection.writers.files import JSONWriter
from detection.writers.writer import StartedWriter, Writer
from detectron2.config import LazyCall as L
from detectron2.utils.registry import locate
from omegaconf import OmegaConf
from test_writers import CFG, LOSSES, train

PAGE = (PROJECT_ROOT / "docs/tracking.md").read_text(encoding="utf-8")


@pytest.fixture
def own_writer(tmp_path, monkeypatch):
    """The class in the PAGE."""
    (code,) = re.findall(r'```python\n(""".*?)```', PAGE, re.DOTALL)
    assert code.strip().count("\n") <= 25
    (tmp_path / "csv_writer.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("csv_writer").CSVWriter


def test_writers_of_the_config_have_it():
    nodes = load_config("configs/faster_rcnn_R_50_FPN.py").writers
    assert list(nodes) == ["tqdm", "json", "tensorboard", "wandb", "mlflow"]
    wanted = inspect.signature(StartedWriter.start).parameters
    for node in nodes.values():
        writer = locate(node._target_) if isinstance(node._target_, str) else node._target_
        assert issubclass(writer, StartedWriter)
        for method in ("write", "close"):
            assert list(inspect.signature(getattr(writer, method)).parameters) == ["self"]
        assert list(inspect.signature(writer.start).parameters) == list(wanted)


def test_own_writer_has_what_metrics_json_has_after_a_resume(own_writer, tmp_path):
    cfg = OmegaConf.create(
        {
            "writers": {
                "json": L(JSONWriter)(json_file=str(tmp_path / "metrics.json")),
                "csv": L(own_writer)(path=str(tmp_path / "metrics.csv")),
                "none": None,
            }
        },
        flags={"allow_objects": True},
    )
    cfg = OmegaConf.merge(CFG, cfg)
    train(build_writers(cfg), LOSSES[:30], max_iter=30, cfg=cfg)
    writers = build_writers(cfg)
    assert isinstance(writers[1], StartedWriter) and len(writers) == 2
    train(writers, LOSSES[30:], start_iter=30, cfg=cfg)
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        found = {(int(at), name): float(value) for at, name, value in csv.reader(file)}
    expected = {
        (row["iteration"], name): value
        for row in read_metrics(tmp_path)
        for name, value in row.items()
        if name != "iteration"
    }
    assert found == pytest.approx(expected)


def test_period_is_that_of_the_config_without_one_of_its_own(own_writer, tmp_path):
    class Bare:
        def write(self): ...
        def close(self): ...

    assert isinstance(Bare(), Writer) and not isinstance(Bare(), StartedWriter)
    assert PeriodicWriter(Bare(), CFG)._period == CFG.train.log_period
    assert PeriodicWriter(own_writer("x.csv", period=3), CFG)._period == 3


def test_what_is_not_a_writer_is_one_line():
    node = L(argparse.Namespace)(a=1)
    cfg = OmegaConf.create({"writers": {"mine": node}}, flags={"allow_objects": True})
    with pytest.raises(UserError, match=r"writers\.mine: Namespace is not a writer"):
        build_writers(cfg)
