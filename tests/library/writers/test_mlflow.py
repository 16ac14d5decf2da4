"""MLflow's writer, in real trainings of one parameter, read back from MLflow's local store."""

import json
import math
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from detection.config import load_config
from detection.engine.prediction_images import PredictionImages
from detection.utils.errors import UserError
from detection.writers.files import JSONWriter
from detection.writers.metric_names import MetricNames
from detection.writers.mlflow_writer import MLflowWriter
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import OmegaConf
from test_writers import CFG, CLASSES, LOSSES, evaluation, train


@pytest.fixture(scope="module")
def names():
    MetadataCatalog.get("mlflow test").set(thing_classes=CLASSES)
    yield MetricNames("mmdet2", "mlflow test")
    MetadataCatalog.remove("mlflow test")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder for all runs: its database takes seconds to create."""
    return str(tmp_path_factory.mktemp("한글 folder") / "ml runs")


def client(store: str):
    from mlflow import MlflowClient  # after the writer has switched off its reports

    return MlflowClient(f"sqlite:///{store}/mlflow.db")


def run_of(store: str, output_dir: Path):
    record = json.loads((output_dir / "mlflow_run.json").read_text(encoding="utf-8"))
    return client(store).get_run(record["id"])


def history(store: str, run, name: str) -> dict[int, float]:
    """{iteration: value}; fails if an iteration is there twice."""
    points = client(store).get_metric_history(run.info.run_id, name)
    found = {point.step: point.value for point in points}
    assert len(found) == len(points)
    return found


def config(output_dir: Path, **more):
    cfg = OmegaConf.create({"writers": {"json": {"json_file": str(output_dir / "metrics.json")}}})
    return OmegaConf.merge(CFG, cfg, more)


def test_metrics_config_and_the_best(store, names, tmp_path, caplog):
    cfg = config(tmp_path, long="x" * 700, dataset={"fold": 2})
    writer = MLflowWriter(
        *(str(tmp_path / "run_fold2"), names), tracking_uri=store, tags={"team": "한국"}
    )
    with caplog.at_level("INFO"):
        train([writer], cfg=cfg)
    run = run_of(store, tmp_path / "run_fold2")
    assert run.info.status == "FINISHED" and run.info.run_name == "run_fold2"
    assert {k: run.data.tags[k] for k in ("group", "fold", "team")} == {
        "group": "run",
        "fold": "2",
        "team": "한국",
    }
    evaluations = {at: evaluation((at + 1) // 7)["bbox"] for at in (6, 13, 20, 27, 34, 41, 48, 49)}
    expected = {at: values["AP"] / 100 for at, values in evaluations.items()}
    assert history(store, run, "val/bbox_mAP") == pytest.approx(expected)
    assert run.data.metrics["max/val/bbox_mAP"] == pytest.approx(max(expected.values()))
    assert list(history(store, run, "train/loss")) == [19, 39, 49]
    # neither NaN nor infinity is written
    assert "val/bbox_mAP_l" not in run.data.metrics
    assert 13 not in history(store, run, "val/bbox_mAP_s")
    # classes: 종이/팩, x.y, a*b, can
    for name in ("종이_팩", "x.y", "a_b", "can"):
        assert f"val/bbox_mAP_{name}" in run.data.metrics
    assert "MLflow: val/bbox_mAP_a*b is logged as val/bbox_mAP_a_b" in caplog.text

    params = run.data.params
    assert params["optimizer._target_"] == "torch.optim.sgd.SGD" and params["lr"] == "0.1"
    assert params["optimizer.betas"] == "[0.9, 0.99]" and len(params["long"]) < 500
    assert "s3cret" not in str(params)


def test_resumed_run_has_each_point_once(store, names, tmp_path):
    cfg = config(tmp_path)

    def writers():
        return [
            JSONWriter(cfg.writers.json.json_file, 4),
            MLflowWriter(str(tmp_path), names, tracking_uri=store, period=4),
        ]

    with pytest.raises(FloatingPointError):
        train(writers(), [*LOSSES[:22], math.nan], cfg=cfg)
    crashed = run_of(store, tmp_path)
    assert crashed.info.status == "FAILED"
    cfg.train.max_iter = 30  # a param that changes is no error
    train(writers(), LOSSES[12:30], start_iter=12, max_iter=30, cfg=cfg)
    run = run_of(store, tmp_path)
    assert run.info.run_id == crashed.info.run_id and run.info.status == "FINISHED"
    aps = history(store, run, "val/bbox_mAP")
    assert list(aps) == [6, 13, 20, 27, 29]
    assert run.data.metrics["max/val/bbox_mAP"] == max(aps.values())
    assert list(history(store, run, "train/loss")) == [3, 7, 11, 15, 19, 21, 23, 27, 29]

    # a run that is gone starts again, with all that metrics.json has
    (tmp_path / "mlflow_run.json").write_text('{"id": "0123456789abcdef"}', encoding="utf-8")
    train(writers(), LOSSES[30:34], start_iter=30, max_iter=34, cfg=cfg)
    new = run_of(store, tmp_path)
    assert new.info.run_id != run.info.run_id
    assert list(history(store, new, "train/loss"))[:3] == [3, 7, 11]
    assert history(store, new, "val/bbox_mAP").keys() >= aps.keys()


def test_names_that_become_one_stay_apart(store, tmp_path):
    MetadataCatalog.get("mlflow alike").set(thing_classes=["a*b", "a?b", "..", "x" * 300])
    alike = MetricNames("detectron2", "mlflow alike")
    writer = MLflowWriter(str(tmp_path), alike, tracking_uri=store)
    writer.start(0, CFG)
    scores = {"a*b": 1, "a?b": 2, "..": 3, "x" * 300: 4}
    writer._log(0, {f"bbox/AP-{name}": value for name, value in scores.items()})
    MetadataCatalog.remove("mlflow alike")
    metrics = run_of(store, tmp_path).data.metrics
    own = {name: value for name, value in metrics.items() if not name.startswith("max/")}
    assert sorted(own.values()) == [1, 2, 3, 4]
    assert own["bbox/AP-a_b"] == 1 and own["bbox/AP-a_b_2"] == 2


def test_pictures_are_steps_of_one_list(store, names, tmp_path):
    writer = MLflowWriter(str(tmp_path), names, tracking_uri=store)
    assert PredictionImages("mlflow test", [writer])._picture_writers == [writer]
    writer.pictures = {5: {"pictures/1": np.zeros((8, 6, 3), np.uint8)}}
    train([writer], LOSSES[:10], max_iter=10)
    folder = Path(store) / run_of(store, tmp_path).info.run_id / "artifacts" / "images"
    (picture,) = folder.glob("*.png")
    assert picture.name.startswith("pictures~1+step+5+")


class SilentServer:
    """A server that takes connections and never answers."""

    def __enter__(self) -> str:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_):
        self._socket.close()


def test_silent_server_holds_a_training_up_once_and_briefly(names, tmp_path, caplog, monkeypatch):
    with SilentServer() as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        start = time.monotonic()
        train([MLflowWriter(str(tmp_path), names, timeout=0.5)])
        assert time.monotonic() - start < 4
    assert caplog.text.count("it records no more") == 1
    assert "MLflow: TimeoutError: no answer within 0.5 s" in caplog.text
    assert not (tmp_path / "mlflow_run.json").exists()


def test_server_that_is_gone_ends_the_recording_alone(store, names, tmp_path, caplog):
    train([MLflowWriter(str(tmp_path), names, tracking_uri="http://127.0.0.1:9", timeout=20)])
    assert caplog.text.count("it records no more") == 1


def test_off_by_default_and_not_needed_then(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # not installed
    node = load_config("configs/faster_rcnn_R_50_FPN.py").writers.mlflow
    node.metric_names = None
    writer = instantiate(node)
    writer.start(0, CFG)
    writer.write()
    writer.close()
    assert writer.pictures is None
    node.enabled = True
    with pytest.raises(UserError, match="uv pip install --group mlflow"):
        instantiate(node)
