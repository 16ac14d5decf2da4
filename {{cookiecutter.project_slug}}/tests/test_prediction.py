"""predict.py finds what the evaluation of the same checkpoint finds."""

import numpy as np
import pytest
from conftest import PROJECT_ROOT, SMOKE, read_json

from predict import main


def values(results: list[dict]) -> np.ndarray:
    return np.array([[r["image_id"], r["category_id"], r["score"], *r["bbox"]] for r in results])


@pytest.mark.slow
def test_same_boxes_as_the_evaluation(train_net, toy, on_toy, tmp_path, monkeypatch):
    output_dir = f"train.output_dir={tmp_path}"
    train_net(output_dir, "train.max_iter=2", "train.pictures.count=0", "writers.wandb=null")
    monkeypatch.chdir(PROJECT_ROOT)
    options = ["--batch-size", "1", "--min-score", "0.001"]  # the evaluation has these scores
    main(["--config-file", SMOKE, f"{toy}/val.json", *options, output_dir, *on_toy])
    expected = read_json(tmp_path / "inference" / "coco_instances_results.json")
    assert len(expected) > 0
    found = read_json(tmp_path / "predictions" / "val.json")
    assert values(found) == pytest.approx(values(expected), rel=1e-5)
