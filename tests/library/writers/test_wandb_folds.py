"""tools/score_results.py --wandb: the out-of-fold score beside the folds' trainings."""

import json
from pathlib import Path

import pytest
import score_results
from detection.classes import CLASSES
from test_wandb_online import server  # noqa: F401  a fixture

CATEGORIES = [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)]


@pytest.fixture
def pairs(tmp_path) -> list[str]:
    """Predictions of two folds in their trainings' folders, and what they are on."""
    files = []
    for fold in range(2):
        run = tmp_path / "output" / f"r50_fold{fold}"
        (run / "predictions").mkdir(parents=True)
        wandb = "{project: trash, tags: [night], metric_names: {preset: mmdet2}, init_timeout: 60}"
        text = f"writers:\n  wandb: {wandb}\ndataset: {{fold: {fold}}}\n"
        (run / "config.yaml").write_text(text)
        (run / "wandb_run.json").write_text(json.dumps({"id": f"run{fold}"}))
        ids = range(10 * fold, 10 * fold + 6)
        box = {"category_id": 1, "bbox": [10, 10, 20, 20]}
        coco = {
            "images": [{"id": k, "file_name": f"{k}.png", "width": 64, "height": 64} for k in ids],
            "annotations": [{**box, "id": k, "image_id": k, "area": 400} for k in ids],
            "categories": CATEGORIES,
        }
        found = [{**box, "image_id": k, "score": 0.9} for k in ids if k != 10]
        for path, content in (
            (tmp_path / f"{fold}.json", coco),
            (run / "predictions" / "val.json", found),
        ):
            path.write_text(json.dumps(content))
        files += [str(run / "predictions" / "val.json"), str(tmp_path / f"{fold}.json")]
    return files


def test_out_of_fold_score_is_a_run_of_the_group(server, pairs, capsys):  # noqa: F811
    assert score_results.main([*pairs, "--metric", "mAP50", "--wandb"]) == 0
    printed = capsys.readouterr().out
    (run,) = server.runs.values()
    sent = run.upserts[0]
    assert (sent["groupName"], sent["jobType"], sent["project"]) == ("r50", "oof", "trash")
    assert sent["displayName"] == "r50: out of fold" and sent["tags"] == ["night"]
    (row,) = run.rows
    value = float(printed.split("competition/mAP50: ")[1].split()[0])
    assert row["competition/mAP50"] == pytest.approx(value, abs=1e-4)
    low, high = row["competition/mAP50_low"], row["competition/mAP50_high"]
    assert low < value < high == 1
    assert f"95 % of resampled images: {low:.4f} to {high:.4f}" in printed
    assert row["val/bbox_mAP_50"] == pytest.approx(value, abs=0.01) and row["images"] == 12
    config = {name: entry["value"] for name, entry in json.loads(run.config).items()}
    assert config["folds"] == [0, 1] and config["training_runs"] == ["run0", "run1"]
    assert run.exit_code == 0


def test_one_training_is_an_evaluation(server, pairs):  # noqa: F811
    assert score_results.main([*pairs[:2], "--wandb"]) == 0
    (run,) = server.runs.values()
    assert run.upserts[0]["jobType"] == "eval" and run.upserts[0]["groupName"] == "r50"
    assert run.upserts[0]["tags"] == ["night", "fold 0"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: (run / "config.yaml").unlink(), "<run>/predictions/val.json"),
        (lambda run: (run / "config.yaml").write_text("writers: {}"), "no W&B project"),
        (
            lambda run: (run / "config.yaml").write_text(
                "writers: {wandb: {project: trash, group: other, mode: offline}}"
            ),
            "different groups",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_before_scoring(
    server,  # noqa: F811
    pairs,
    change,
    said,
    capsys,
):
    change(Path(pairs[2]).parents[1])
    assert score_results.main([*pairs, "--wandb"]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and len(printed.err.splitlines()) == 1 and not printed.out
    assert not server.runs
