"""`--fast-dev-run` goes the whole road with any config, and fails where a training would."""

import json
from pathlib import Path

import pytest
from conftest import PROJECT_ROOT, read_metrics
from detection.config import load_config
from detection.engine.dev_run import finish, shorten
from detection.utils.arguments import parse_args
from train_net import do_train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(train_net, tmp_path_factory):
    """The finished process, and its output directory."""
    output_dir = tmp_path_factory.mktemp("dev") / "output"
    old = output_dir.with_name("output_fast_dev_run") / "of the run before"
    old.mkdir(parents=True)
    process = train_net("--fast-dev-run", f"train.output_dir={output_dir}")
    assert not output_dir.exists() and not old.exists()
    return process, old.parent


def test_does_all_that_a_training_does(run):
    process, output_dir = run
    assert process.stdout.splitlines()[-1].startswith("all is well: 4 iterations of 2 images")
    rows = read_metrics(output_dir)
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    assert [row["iteration"] for row in rows if "bbox/AP" in row] == [1, 3]
    for name in ("model_final.pth", "model_0000001.pth", "model_best.pth", "config.yaml"):
        assert (output_dir / name).is_file()
    assert len(list((output_dir / "wandb").glob("offline-run-*"))) == 1


def test_predicts_with_the_saved_weights(run):
    _, output_dir = run
    predicted, evaluated = (
        json.loads((output_dir / name).read_text())
        for name in ("predictions.json", "inference/coco_instances_results.json")
    )
    best = [sorted(r["score"] for r in results)[-20:] for results in (predicted, evaluated)]
    assert best[0] and best[0] == pytest.approx(best[1], abs=1e-4)


def test_learning_rate_is_that_of_the_first_iterations(run):
    rates = [row["lr"] for row in read_metrics(run[1])]
    assert rates[0] == pytest.approx(0.03 * 0.001)
    assert rates[3] == pytest.approx(0.03 * 3 / 50, rel=0.05), "of the warm-up of 50 iterations"


def test_of_a_config_that_is_evaluated_on_its_training_images(on_toy, tmp_path, capsys):
    overrides = [*on_toy, "writers.wandb=null", f"train.output_dir={tmp_path}/output"]
    cfg = load_config(str(PROJECT_ROOT / "configs/debug/overfit.py"), overrides)
    shorten(cfg)
    Path(cfg.train.output_dir).mkdir()
    do_train(parse_args([]), cfg)
    finish(cfg)
    assert capsys.readouterr().out.splitlines()[-1].startswith("all is well: 4 iterations")


def test_fails_as_a_training_would(train_net, tmp_path):
    process = train_net(
        *("--fast-dev-run", f"train.init_checkpoint={tmp_path}/missing.pth"),
        f"train.output_dir={tmp_path}/output",
        check=False,
    )
    assert process.returncode != 0 and "missing.pth" in process.stderr
    assert "all is well" not in process.stdout
