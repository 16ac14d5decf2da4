"""The competition's metric picks the checkpoint, where COCO AP would pick another one."""

import json

import pytest
import torch
from conftest import PROJECT_ROOT, read_metrics
from detection.checkpoint.checkpointer import WholeFileCheckpointer
from detection.config import load_config
from detection.engine import BestCheckpointer, EvalHook, PeriodicWriter
from detection.evaluation.coco_evaluator import COCOEvaluator
from detection.utils.errors import UserError
from detection.writers.files import JSONWriter, TensorboardWriter
from detection.writers.metric_names import PRESETS, MetricNames
from detectron2.config import LazyConfig
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import tiny_trainer
from tools.leaderboard import main as leaderboard

SMOKE = "configs/debug/smoke.py"
TRUTH = [[0, 0, 10, 10], [50, 0, 10, 10]]
FOUND = {  # by iteration: boxes
    1: [[0, 0, 10, 6], [50, 0, 10, 6]],  # both at IoU 0.6: mAP50 1, AP 0.3
    3: [[0, 0, 10, 10]],  # one of them, exactly: both are half
    5: [],
}
METRIC = {"competition/mAP50": 1, "bbox/AP": 3}  # the best iteration


@pytest.fixture
def evaluator(tmp_path):
    """COCOEvaluator of SMOKE's config on one image with two boxes."""
    cfg = load_config(str(PROJECT_ROOT / SMOKE), ["train.metric=mAP50"])
    box = {"image_id": 0, "category_id": 0, "area": 100.0, "iscrowd": 0}
    coco = {
        "images": [{"id": 0, "file_name": "0.png", "width": 100, "height": 100}],
        "categories": [{"id": 0, "name": "a/b"}],
        "annotations": [{**box, "id": k + 1, "bbox": b} for k, b in enumerate(TRUTH)],
    }
    (tmp_path / "val.json").write_text(json.dumps(coco))
    MetadataCatalog.get("planted").set(
        json_file=str(tmp_path / "val.json"), thing_dataset_id_to_contiguous_id={0: 0}
    )
    assert cfg.train.best_checkpointer.val_metric == "competition/mAP50"
    folder = str(tmp_path / "run" / "inference")
    yield COCOEvaluator("planted", folder, metric=cfg.dataloader.evaluator.metric)
    MetadataCatalog.pop("planted")


def train(folder, evaluator, val_metric: str, start: int, end: int) -> None:
    trainer = tiny_trainer([1.0] * (end - start))

    def evaluate() -> dict:
        evaluator.reset()
        found = Instances((100, 100))
        x, y, w, h = torch.tensor(FOUND[trainer.iter]).float().reshape(-1, 4).unbind(1)
        found.pred_boxes = Boxes(torch.stack([x, y, x + w, y + h], 1))
        found.scores = torch.linspace(0.9, 0.8, len(x))
        found.pred_classes = torch.zeros(len(x)).long()
        evaluator.process([{"image_id": 0}], [{"instances": found}])
        return evaluator.evaluate()

    cfg = LazyConfig.load(str(PROJECT_ROOT / "configs/common/train.py"))
    cfg.train.metric = "mAP50"
    if val_metric != "competition/mAP50":  # which is what the config says itself
        cfg.train.best_checkpointer.val_metric = val_metric
    cfg.train.max_iter = 6
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    writers = [JSONWriter(str(folder / "metrics.json"), 2), TensorboardWriter(str(folder), 2)]
    cfg.train.update(log_period=2, eval_period=2, output_dir=str(folder))
    checkpointer = WholeFileCheckpointer(trainer.model, str(folder))
    trainer.register_hooks(
        [
            EvalHook(2, evaluate),
            BestCheckpointer(checkpointer, **cfg.train.best_checkpointer),
            *(PeriodicWriter(writer, cfg) for writer in writers),
        ]
    )
    trainer.train(start, end)


@pytest.mark.parametrize("val_metric", METRIC)
def test_the_right_checkpoint_is_kept_after_a_resume_too(tmp_path, evaluator, capsys, val_metric):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "inference").mkdir()
    for start in (0, 2, 4):  # killed after each evaluation
        train(folder, evaluator, val_metric, start, start + 2)
    best = json.loads((folder / "model_best.json").read_text())
    assert best["metric"] == val_metric and best["iteration"] == METRIC[val_metric]
    assert torch.load(folder / "model_best.pth")["iteration"] == METRIC[val_metric]

    kept = json.loads((folder / "inference/best.json").read_text())
    assert [r["bbox"] for r in kept] == FOUND[METRIC[val_metric]]

    values = {row["iteration"]: row["competition/mAP50"] for row in read_metrics(folder)}
    assert values == pytest.approx({1: 1, 3: 51 / 101, 5: 0}), "from 0 to 1, beside COCO's AP"
    assert read_metrics(folder)[0]["bbox/AP50"] == pytest.approx(100)
    events = EventAccumulator(str(folder))
    events.Reload()
    assert "competition/mAP50" in events.Tags()["scalars"]

    leaderboard([str(tmp_path)])
    header, _, row = capsys.readouterr().out.splitlines()[-3:]
    assert header.split()[1] == val_metric
    assert row.split()[1] == {"competition/mAP50": "1.0000", "bbox/AP": "50.50"}[val_metric]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_name_is_the_same_everywhere(preset):
    MetadataCatalog.get("same name").set(thing_classes=["a/b"])
    names = MetricNames(preset, "same name")
    assert names("competition/mAP50", 0.5) == ("competition/mAP50", 0.5)
    assert names("competition/mAP50-a/b", 0.5) == ("competition/mAP50-a_b", 0.5)
    assert names.is_evaluation("competition/mAP50")


def test_a_detectron2_evaluator_has_coco_ap_alone(tmp_path):
    """Configs from elsewhere do not compute the competition's metric."""
    (tmp_path / "config.py").write_text(
        "from detectron2.config import LazyCall as L\n"
        "from detectron2.evaluation import COCOEvaluator\n"
        "dataloader = dict(evaluator=L(COCOEvaluator)(dataset_name='x'))\n"
    )
    cfg = load_config(str(tmp_path / "config.py"))
    assert cfg.train.best_checkpointer.val_metric == "bbox/AP"


def test_no_such_metric_fails_when_the_evaluator_is_built(evaluator):
    with pytest.raises(UserError, match=r"mAP51.*mAP50"):
        COCOEvaluator("planted", metric="mAP51")
