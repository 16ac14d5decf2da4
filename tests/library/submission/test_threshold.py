"""tools/find_threshold.py: found on validation, saved, used by tools/make_submission.py."""

import json
from pathlib import Path

import detection.data.coco as annotations
import pytest
from detection.data.results import images_file, read_models, write_images
from detection.evaluation.competition_metrics import METRICS
from tools import ensemble, find_threshold, make_submission, score_results

BOX = [10.0, 10.0, 20.0, 20.0]
FAR = [60.0, 60.0, 20.0, 20.0]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Four images with one box each, found with scores 0.9 … 0.6; and wrong ones from 0.3 down."""
    monkeypatch.setattr(annotations, "CLASSES", ["lung"])
    monkeypatch.chdir(tmp_path)
    for name, first in (("val", 0), ("fold1", 10), ("test", 20)):
        ids = range(first, first + 4)
        images = [
            {"id": i, "file_name": f"{name}/{i}.png", "width": 100, "height": 100} for i in ids
        ]
        truth = [
            {"id": i + 1, "image_id": i, "category_id": 0, "bbox": BOX, "area": 400, "iscrowd": 0}
            for i in ids
        ]
        found = []
        for k, i in enumerate(ids):
            record = {"image_id": i, "category_id": 0}
            found.append({**record, "bbox": BOX, "score": 0.9 - 0.1 * k})
            found.append({**record, "bbox": FAR, "score": 0.3 - 0.05 * k})
        coco = {"images": images, "categories": [{"id": 0, "name": "lung"}]}
        Path(f"{name}.json").write_text(
            json.dumps(coco if name == "test" else {**coco, "annotations": truth})
        )
        Path("predictions").mkdir(exist_ok=True)
        Path(f"predictions/{name}.json").write_text(json.dumps(found))
        write_images(coco, f"predictions/{name}.json", ["output/a/model_best.pth@1"])


def find(*arguments, metric="rsna_mAP"):
    find_threshold.main([*arguments, "--metric", metric])


SUBMISSION = ["predictions/test.json", "test.json", "--format", "rsna"]


def submit(*arguments) -> list[str]:
    """The boxes of the submission."""
    assert make_submission.main([*SUBMISSION, *arguments]) == 0
    rows = Path("submission.csv").read_text().splitlines()[1:]
    return [row.split(",")[1] for row in rows]


def test_the_submission_starts_from_the_threshold(capsys):
    assert all(len(boxes.split()) == 10 for boxes in submit()), "two boxes each"
    assert "make threshold" in capsys.readouterr().out
    find("predictions/val.json", "val.json")
    said = capsys.readouterr().out
    saved = json.loads(Path("predictions/threshold.json").read_text())
    assert saved["metric"] == "rsna_mAP" and saved["value"] == 1
    assert 0.3 < saved["threshold"] < 0.6
    assert "1.0000" in said and "+0.0000 at" in said, "a plateau: nothing is lost beside it"
    boxes = submit()
    assert all(len(text.split()) == 5 for text in boxes), "one box each"
    assert "predictions/threshold.json" in capsys.readouterr().out
    assert all(len(text.split()) == 10 for text in submit("--min-score", "0"))


def test_what_is_lost_beside_the_threshold(capsys):
    results = json.loads(Path("predictions/val.json").read_text())
    for result in results:  # wrong ones just below the right ones
        result["score"] = 0.52 if result["bbox"] == BOX else 0.48
    Path("predictions/val.json").write_text(json.dumps(results))
    find("predictions/val.json", "val.json")
    assert "-0.5000 at 0.450, -1.0000 at 0.550" in capsys.readouterr().out


def test_out_of_fold(capsys):
    find("predictions/val.json", "val.json", "predictions/fold1.json", "fold1.json")
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said[:2]] == [
        *("predictions/val.json", "predictions/fold1.json")
    ]
    score_results.main(
        [
            *("predictions/val.json", "val.json", "predictions/fold1.json", "fold1.json"),
            *("--metric", "rsna_mAP"),
        ]
    )
    assert "competition/rsna_mAP: 1.0000" in capsys.readouterr().out


def test_metrics_that_count_all_boxes_keep_them(capsys):
    find("predictions/val.json", "val.json", metric="mAP50")
    assert "every box" in capsys.readouterr().out
    assert not Path("predictions/threshold.json").exists()
    assert {name for name, m in METRICS.items() if m.needs_threshold} == {
        *("wheat_mAP", "rsna_mAP", "cots_F2")
    }


def test_a_threshold_of_another_run_is_refused(capsys):
    find("predictions/val.json", "val.json")
    coco = json.loads(Path("test.json").read_text())
    # the same weights elsewhere are the same model
    write_images(coco, "predictions/test.json", ["moved/model_best.pth@1"])
    submit()
    write_images(coco, "predictions/test.json", ["output/b/model_best.pth@2"])
    Path("submission.csv").unlink()
    assert make_submission.main(SUBMISSION) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    for part in ("threshold.json", "output/a/", "output/b/", "make threshold"):
        assert part in error
    assert not Path("submission.csv").exists()
    submit("--min-score", "0.5")


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"threshold": "a", "metric": "rsna_mAP", "models": []}'),
        '{"threshold": 0.5, "metric": "cots_F2", "models": []}',
    ],
)
def test_a_threshold_file_that_cannot_be_used(content, capsys):
    Path("predictions/threshold.json").write_text(content)
    assert make_submission.main(SUBMISSION) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "threshold.json" in error[0] and "make threshold" in error[0]


def test_an_ensemble_is_of_all_its_models():
    coco = json.loads(Path("val.json").read_text())
    Path("other.json").write_bytes(Path("predictions/val.json").read_bytes())
    write_images(coco, "other.json", ["output/b/model_best.pth@2"])
    ensemble.main(
        [
            *("val.json", "a=predictions/val.json", "b=other.json", "--output", "fused/val.json"),
            *("--processes", "1", "--metric", "rsna_mAP"),
        ]
    )
    assert read_models("fused/val.json") == [
        *("output/a/model_best.pth@1", "output/b/model_best.pth@2")
    ]
    images_file("fused/val.json").unlink()
    assert read_models("fused/val.json") == []
