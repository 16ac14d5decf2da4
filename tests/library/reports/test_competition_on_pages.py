"""The competition's metric on the pages of tools/report.py."""

import json

import pytest
import report as tool
from detection.data import coco as annotations
from detection.evaluation.competition_metrics import METRICS
from page_reader import Page

BOX, FAR = [10.0, 10.0, 20.0, 20.0], [60.0, 60.0, 20.0, 20.0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twenty images, each box found with 0.7; wrong ones of 0.4 in a.json, of 0.9 in b.json."""
    monkeypatch.setattr(annotations, "CLASSES", ["lung"])
    monkeypatch.chdir(tmp_path)
    ids = range(20)
    coco = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 99, "height": 99} for i in ids],
        "categories": [{"id": 0, "name": "lung"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 0, "bbox": BOX} for i in ids],
    }
    (tmp_path / "val.json").write_text(json.dumps(coco))
    for name, wrong in (("a", 0.4), ("b", 0.9)):
        found = [(i, box, s) for i in ids for box, s in ((BOX, 0.7), (FAR, wrong))]
        results = [
            {"image_id": i, "category_id": 0, "bbox": box, "score": s} for i, box, s in found
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(results))
    return tmp_path


def report(folder, *arguments) -> Page:
    tool.main([*arguments, "val.json", "--output", "page.html", "--image-root", "."])
    return Page(folder / "page.html", "worst")


def test_curve_of_the_score_threshold(folder):
    page = report(folder, "a.json", "--metric", "rsna_mAP")
    assert "rsna_mAP" in page.text and "1.0000" in page.text
    assert "0.5500" in page.text, "midway between 0.4 and 0.7"
    assert METRICS["rsna_mAP"].definition.split(",")[0] in page.text
    assert 'aria-label="rsna_mAP by score threshold' in page.html


def test_metrics_that_keep_all_boxes_have_no_curve(folder):
    page = report(folder, "a.json", "--metric", "mAP50")
    assert "mAP50" in page.text and "1.0000" in page.text
    assert 'id="threshold"' not in page.html


def test_what_is_compared_is_compared_by_the_metric(folder, capsys):
    page = report(folder, "--compare", "a=a.json", "b=b.json", "--metric=mAP50")
    assert "mAP50 of a: 1.0000" in page.text
    (line,) = (text for text in capsys.readouterr().out.splitlines() if "b against a" in text)
    assert "-0.5" in line and "noise" not in line
