"""The submission file in the project's own format, of two images, one without boxes."""

import json
from pathlib import Path

import pytest

from detection.classes import CLASSES
from detection.workshop.submission.formats import DEFAULT_FORMAT, FORMATS
from tools import check_submission, make_submission

LAST = len(CLASSES) - 1  # the class of all boxes here
COCO = {
    "images": [
        {"id": 9, "file_name": "test/0001.jpg", "width": 200, "height": 100},
        {"id": 2, "file_name": "test/0000.jpg", "width": 400, "height": 300},
    ],
    "categories": [{"id": 10 + k, "name": name} for k, name in enumerate(CLASSES)],
}
RESULTS = [
    {"image_id": 9, "category_id": 10 + LAST, "bbox": [10.0, 20.5, 30.25, 40.0], "score": 0.25},
    {"image_id": 9, "category_id": 10 + LAST, "bbox": [1.005, 2, 3, 4.126], "score": 0.98765432},
]
# Written by hand from each competition's page. A new format gets its text here.
EXPECTED = {
    "recycling_trash": f"""\
PredictionString,image_id
{10 + LAST} 0.98765432 1.00500 2.00000 4.00500 6.12600 \
{10 + LAST} 0.25 10.00000 20.50000 40.25000 60.50000,test/0001.jpg
,test/0000.jpg
""",
    "global_wheat": """\
image_id,PredictionString
0001,0.98765432 1.00500 2.00000 3.00000 4.12600 0.25 10.00000 20.50000 30.25000 40.00000
0000,
""",
    "rsna": """\
patientId,PredictionString
0001,0.98765432 1.00500 2.00000 3.00000 4.12600 0.25 10.00000 20.50000 30.25000 40.00000
0000,
""",
    "vinbigdata": f"""\
image_id,PredictionString
0001,{LAST} 0.98765432 1.00500 2.00000 4.00500 6.12600 \
{LAST} 0.25 10.00000 20.50000 40.25000 60.50000
0000,14 1 0 0 1 1
""",
    "open_images": f"""\
ImageId,PredictionString
0001,{CLASSES[LAST]} 0.98765432 0.00502500 0.02000000 0.02002500 0.06126000 \
{CLASSES[LAST]} 0.25 0.05000000 0.20500000 0.20125000 0.60500000
0000,
""",
    "cots": """\
index,annotations
0001,0.98765432 1.00500 2.00000 3.00000 4.12600 0.25 10.00000 20.50000 30.25000 40.00000
0000,
""",
    "siim": f"""\
Id,PredictionString
0001_image,{CLASSES[LAST]} 0.98765432 1.00500 2.00000 4.00500 6.12600 \
{CLASSES[LAST]} 0.25 10.00000 20.50000 40.25000 60.50000
0000_image,none 1 0 0 1 1
""",
    "coco": json.dumps(RESULTS[::-1]),
    "custom": f"""\
image,label,score,x1,y1,x2,y2
test/0001.jpg,{10 + LAST},0.987654,1.00500,2.00000,4.00500,6.12600
test/0001.jpg,{10 + LAST},0.250000,10.00000,20.50000,40.25000,60.50000
""",
}


BLANKS = [name for name in CLASSES if len(name.split()) != 1]
pytestmark = pytest.mark.skipif(
    FORMATS[DEFAULT_FORMAT].label == "name" and bool(BLANKS),
    reason=f"{DEFAULT_FORMAT} takes no label with a blank, as detection/classes.py has: {BLANKS}",
)


@pytest.fixture(autouse=True)
def example(tmp_path, monkeypatch):
    """The working directory is a folder with the example in it."""
    monkeypatch.chdir(tmp_path)
    Path("test.json").write_text(json.dumps(COCO))
    Path("results.json").write_text(json.dumps(RESULTS))


def submit() -> str:
    """The file that a submission is written to, after `check_submission` has found it valid."""
    make_submission.main(["results.json", "test.json"])
    (written,) = Path().glob("submission.*")
    assert check_submission.main([str(written), "test.json"]) == 0
    return written.read_bytes().decode("utf-8")


def test_exact_text():
    assert submit() == EXPECTED[DEFAULT_FORMAT]


def test_images_without_boxes_are_there():
    Path("results.json").write_text("[]")
    text = submit()
    if DEFAULT_FORMAT == "coco":
        assert json.loads(text) == []
    elif FORMATS[DEFAULT_FORMAT].rows:
        assert text.splitlines() == EXPECTED[DEFAULT_FORMAT].splitlines()[:1]
    else:
        assert len(text.splitlines()) == 1 + len(COCO["images"])
        assert all(name in text for name in ("0001", "0000"))
