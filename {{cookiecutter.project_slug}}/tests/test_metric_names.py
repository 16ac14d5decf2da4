"""Each metric, and each class's, has a name of its own in W&B."""

import pytest
from conftest import PROJECT_ROOT, SMOKE
from detectron2.data import MetadataCatalog

from detection.classes import CLASSES
from detection.config import load_config
from detection.writers.metric_names import MetricNames

METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
METRICS += [f"{metric}-{name}" for name in CLASSES for metric in ("AP", "AP50")]


@pytest.fixture
def metric_names():
    """The names that the project has chosen, for its own classes."""
    preset = load_config(str(PROJECT_ROOT / SMOKE)).writers.wandb.metric_names.preset
    MetadataCatalog.get("metric names test").set(thing_classes=list(CLASSES))
    yield MetricNames(preset, "metric names test")
    MetadataCatalog.pop("metric names test")


def test_no_two_metrics_share_a_name(metric_names):
    names = [metric_names(f"{task}/{m}", 1)[0] for task in ("bbox", "segm") for m in METRICS]
    assert len(set(names)) == len(names)


def test_names_show_the_class_in_the_section_of_the_other_metrics(metric_names):
    section = metric_names("bbox/AP", 1)[0].split("/")[0]
    for name in CLASSES:
        shown = metric_names(f"bbox/AP-{name}", 1)[0]
        # a slash would open another section
        assert name.replace("/", "_") in shown and shown.count("/") == 1
        assert shown.split("/")[0] == section
