"""tools/draw_predictions.py: a real picture, whatever the class names; one line for bad input."""

import json
import subprocess
import sys

import cv2
import draw_predictions as tool
import numpy as np
import pytest
from detection.utils import drawing

WIDTH, HEIGHT = 90, 60
BOX = [20.0, 15.0, 40.0, 30.0]


@pytest.fixture
def files(tmp_path):
    """A gray image with one box of the first of three awkward class names, and its results."""
    names = ["종이/박스", r'$x^2 \frac"', "Glass"]
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((HEIGHT, WIDTH, 3), 128, np.uint8))
    box = {"image_id": 7, "category_id": 1, "bbox": BOX}
    coco = {
        "images": [{"id": 7, "file_name": "gray.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
        "annotations": [{"id": 1, **box}],
    }
    (tmp_path / "val.json").write_text(json.dumps(coco), encoding="utf-8")
    results = [{**box, "score": 0.9}, {**box, "category_id": 2, "score": 0.5}]
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def arguments(files, *more):
    output = str(files / "new" / "predictions.png")
    return [
        *(str(files / "val.json"), str(files), str(files / "results.json")),
        *("--output", output, *more),
    ]


def colored(picture):
    """Pixels that are neither gray, black nor white: those of boxes and labels."""
    return int((np.ptp(picture.astype(int), axis=2) > 60).sum())


def test_boxes_are_drawn_and_low_scores_are_not(files, recwarn):
    pictures = {}
    for score in ("0.3", "0.95"):
        tool.main(arguments(files, "--score", score))
        pictures[score] = cv2.imread(str(files / "new" / "predictions.png"))
    half = pictures["0.3"].shape[1] // 2
    truth, predictions = pictures["0.3"][:, :half], pictures["0.3"][:, half:]
    assert colored(truth) > 500
    assert colored(predictions) > colored(truth)  # two boxes on the right, one on the left
    assert colored(pictures["0.95"][:, half:]) == 0
    assert not [str(w.message) for w in recwarn if "lyph" in str(w.message)]


def test_names_that_no_font_can_write_become_numbers(files, monkeypatch, capsys):
    monkeypatch.setattr(drawing, "CJK_FONTS", ())
    tool.main(arguments(files))
    shown = capsys.readouterr().out
    assert "#0 종이/박스" in shown and "Glass" not in shown


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("not json", "results.json"),
        ('{"annotations": []}', "results.json"),
        ('[{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3], "score": 1}]', "results[0]"),
        ('[{"image_id": 8, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "image_id 8"),
        ('[{"image_id": 7, "category_id": 0, "bbox": [1, 2, 3, 4], "score": 1}]', "category_id 0"),
    ],
)
def test_bad_results_are_one_line(files, capsys, content, named):
    (files / "results.json").write_text(content)
    assert tool.main(arguments(files)) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert not (files / "new").exists()


def test_runs_as_a_script(files):
    (files / "gray.png").unlink()
    done = subprocess.run(
        [sys.executable, tool.__file__, *arguments(files)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "gray.png" in done.stderr
    assert done.stderr.count("\n") == 1
