"""sweep.yaml compares runs by what the W&B writer logs, in its project."""

from conftest import PROJECT_ROOT
from detectron2.data import MetadataCatalog

from detection.config import load_config
from detection.evaluation.competition_metrics import DEFAULT_METRIC
from detection.writers.metric_names import MetricNames
from tools.create_sweep import read_sweep

SWEEP = read_sweep(str(PROJECT_ROOT / "sweep.yaml"))
CONFIG = SWEEP["command"][SWEEP["command"].index("--config-file") + 1]


def test_metric_and_project_are_those_that_the_writer_logs():
    wandb = load_config(str(PROJECT_ROOT / CONFIG)).writers.wandb
    MetadataCatalog.get("sweep test").set(thing_classes=["a"])
    names = MetricNames(wandb.metric_names.preset, "sweep test")
    assert SWEEP["metric"] == {
        "name": names(f"competition/{DEFAULT_METRIC}", 1)[0],
        "goal": "maximize",
    }
    assert SWEEP["project"] == wandb.project
    assert SWEEP.get("entity", "") == wandb.entity
