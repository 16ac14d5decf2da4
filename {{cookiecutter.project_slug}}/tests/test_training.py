"""A training is killed, resumed to the weights of one that was not, and evaluated."""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import (
    PROJECT_ROOT,
    SMOKE,
    read_json,
    read_metrics,
    read_wandb_rows,
    train_command,
)
from detectron2.data import MetadataCatalog

from detection.classes import CLASSES
from detection.config import load_config
from detection.evaluation.competition_metrics import DEFAULT_METRIC
from detection.writers.metric_names import MetricNames

pytestmark = pytest.mark.usefixtures("offline")

SHORT = (
    "train.max_iter=30",
    "train.eval_period=10",
    "train.checkpointer.period=7",
    "train.log_period=4",
)
RANKED_BY = f"competition/{DEFAULT_METRIC}"
LATE_CHECKPOINTS = ("model_0000013.pth", "model_0000020.pth", "model_0000027.pth")


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory, on_toy, train_net, offline) -> Path:
    """The folder of a training that was killed after a checkpoint, and then resumed to its end."""
    output_dir = tmp_path_factory.mktemp("output") / "my run"
    args = [*SHORT, f"train.output_dir='{output_dir}'"]
    log = (output_dir.parent / "killed.log").open("w")
    process = subprocess.Popen(
        train_command(on_toy, *args), cwd=PROJECT_ROOT, stdout=log, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 240
    last = output_dir / "last_checkpoint"
    while not last.exists() or last.read_text() not in LATE_CHECKPOINTS:
        assert process.poll() is None, (output_dir.parent / "killed.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)  # a fast machine would come to the end meanwhile
    time.sleep(1.5)  # W&B writes its file every second
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = train_net("--resume", *args)
    assert re.search("from iteration (14|21|28)", resumed.stdout)
    return output_dir


def test_every_iteration_is_written_once(output_dir):
    rows = read_metrics(output_dir)
    iterations = [row["iteration"] for row in rows]
    assert iterations == sorted(set(iterations))
    assert [r["iteration"] for r in rows if "bbox/AP" in r] == [9, 19, 29]
    losses = [r["iteration"] for r in rows if "total_loss" in r]
    assert losses == [3, 7, 9, 11, 15, 19, 23, 27, 29], "each period's and each evaluation's"


def test_resumed_run_is_as_if_never_killed(output_dir, train_net, tmp_path):
    train_net(*SHORT, f"train.output_dir={tmp_path}")
    killed, whole = (
        torch.load(folder / "model_final.pth")["model"] for folder in (output_dir, tmp_path)
    )
    assert killed.keys() == whole.keys()
    assert all(torch.equal(killed[k], whole[k]) for k in whole)
    one, other = (list(map(without_times, read_metrics(f))) for f in (output_dir, tmp_path))
    assert one == other


def without_times(row: dict) -> dict:
    return {k: v for k, v in row.items() if "time" not in k and "eta" not in k}


def test_evaluations_name_every_class(output_dir, toy):
    last = read_metrics(output_dir)[-1]
    val = read_json(toy / "val.json")
    names = {category["id"]: category["name"] for category in val["categories"]}
    annotated = {names[annotation["category_id"]] for annotation in val["annotations"]}
    for metric in ("AP", "AP50"):
        start = f"bbox/{metric}-"
        assert annotated == {k.removeprefix(start) for k in last if k.startswith(start)}
    assert annotated <= set(CLASSES)
    assert all(0 <= v <= 100 for k, v in last.items() if k.startswith("bbox/"))


def test_files_of_a_run(output_dir):
    assert (output_dir / "last_checkpoint").read_text() == "model_final.pth"
    best = read_json(output_dir / "model_best.json")
    evaluations = {r["iteration"]: r[RANKED_BY] for r in read_metrics(output_dir) if RANKED_BY in r}
    assert best["metric"] == RANKED_BY
    assert best["value"] == max(evaluations.values())
    assert evaluations[best["iteration"]] == best["value"]
    for name in ("model_final.pth", "model_best.pth", "config.yaml", "log.txt"):
        assert (output_dir / name).stat().st_size > 0
    assert list(output_dir.glob("events.out.tfevents.*"))
    assert isinstance(read_json(output_dir / "inference/coco_instances_results.json"), list)


def test_wandb_has_the_numbers_of_metrics_json(output_dir):
    killed, resumed = sorted((output_dir / "wandb").glob("offline-run-*"))
    assert killed.name.split("-")[-1] == resumed.name.split("-")[-1], "one run, one id"
    before, after = read_wandb_rows(killed), read_wandb_rows(resumed)
    assert [row["iter"] for row in before][:4] == [3, 7, 9, 11], "the killed run left its history"

    MetadataCatalog.get("wandb test").thing_classes = list(CLASSES)
    preset = load_config(str(PROJECT_ROOT / SMOKE)).writers.wandb.metric_names.preset
    metric_names = MetricNames(preset, "wandb test")
    logged = {row["iter"]: row for row in before + after}
    assert [row["iter"] for row in before + after] == sorted(logged), "once each"
    metrics = read_metrics(output_dir)
    # W&B's file is written every second: what came in the last one before the kill may be lost
    lost = {r["iteration"] for r in metrics} - set(logged)
    assert all(before[-1]["iter"] < iteration < after[0]["iter"] for iteration in lost)
    for scalars in metrics:
        iteration = scalars.pop("iteration")
        names = {metric_names(name, value)[0] for name, value in scalars.items()}
        assert len(names) == len(scalars), "no two share a name"
        if iteration in lost:
            continue
        # what the killed run logged beyond its checkpoint stays; its medians reach further back
        is_repeated = 14 <= iteration <= before[-1]["iter"]
        for name, value in scalars.items():
            if metric_names.is_evaluation(name) or not is_repeated:
                new_name, expected = metric_names(name, value)
                assert logged[iteration][new_name] == pytest.approx(expected), (iteration, name)


def test_fresh_start_does_not_overwrite(output_dir, train_net):
    before = (output_dir / "metrics.json").read_text()
    process = train_net(*SHORT, f"train.output_dir='{output_dir}'", check=False)
    assert process.returncode == 2
    assert process.stderr.strip().splitlines()[-1].startswith("train_net.py: ")
    assert "--resume" in process.stderr
    assert (output_dir / "metrics.json").read_text() == before


def test_best_checkpoint_scores_as_recorded(output_dir, train_net, tmp_path):
    train_net(
        "--eval-only",
        f"train.init_checkpoint='{output_dir}/model_best.pth'",
        f"train.output_dir={tmp_path}",
    )
    log = (tmp_path / "inference" / "log.txt").read_text()
    best = read_json(output_dir / "model_best.json")["value"]
    assert f"{RANKED_BY}: {best:.4f}" in log
