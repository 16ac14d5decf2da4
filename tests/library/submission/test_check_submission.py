"""tools/check_submission.py: a sound file scores as its results do, a spoilt one gets a line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import check_submission as tool
import make_submission
import numpy as np
import pytest
from detection.data import coco as annotations
from detection.evaluation.average_precision import average_precision, results_table
from detection.utils import paths
from detection.workshop.submission import writing as submission
from detection.workshop.submission.reading import read_submission

CLASSES = ["종이/팩", "/m/01g317", 'a"b🗑']
CATEGORIES = [  # in another order, and not from 1
    {"id": 0, "name": CLASSES[2]},
    {"id": 5, "name": CLASSES[0]},
    {"id": 7, "name": CLASSES[1]},
]
COCO = {
    "images": [
        {"id": 9, "file_name": "test/0001.jpg", "width": 200, "height": 100},
        {"id": 2, "file_name": "test/빈 사진, 둘.jpg", "width": 200, "height": 100},
        {"id": 4, "file_name": "test/0000.jpg", "width": 400, "height": 300},
    ],
    "categories": CATEGORIES,
}
SOUND = """\
PredictionString,image_id
7 0.9 1 2 4 6 0 0.01 10 20 40 60,test/0001.jpg
,"test/빈 사진, 둘.jpg"
5 1 0 0 400 300,test/0000.jpg
"""


@pytest.fixture(autouse=True)
def example(tmp_path, monkeypatch):
    """The working directory is a folder with the example in it."""
    monkeypatch.setattr(annotations, "CLASSES", CLASSES)
    monkeypatch.chdir(tmp_path)
    save("test.json", COCO)
    save("submission.csv", SOUND)


def save(name, content):
    if not isinstance(content, bytes):
        content = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        content = content.encode()
    Path(name).write_bytes(content)


def check(capsys, *arguments, format_name="recycling_trash"):
    """Status and text."""
    status = tool.main(["submission.csv", "test.json", "--format", format_name, *arguments])
    said = capsys.readouterr()
    return status, said.out + said.err


def detections(seed, is_small):
    """Annotated images, and 32-bit detections as a model makes them: many scores close to 1."""
    rng = np.random.default_rng(seed)
    coco = {"images": [], "categories": CATEGORIES, "annotations": []}
    results = []
    for image_id in range(0, 120, 3):
        size = {"width": int(rng.integers(500, 1300)), "height": int(rng.integers(400, 1300))}
        coco["images"].append({"id": image_id, "file_name": f"가/{image_id}.jpg", **size})
        for _ in range(10 if image_id else 0):
            sides = rng.uniform(3, 30 if is_small else 200, 2)
            x, y = rng.uniform(0, 1, 2) * ([size["width"], size["height"]] - sides)
            item = {"image_id": image_id, "category_id": int(rng.choice([0, 5, 7]))}
            bbox = [float(v) for v in np.round([x, y, *sides], 1)]
            number = len(coco["annotations"])
            coco["annotations"].append({**item, "id": number, "bbox": bbox})
            for _ in range(2):
                moved = np.array(bbox) + rng.normal(0, 0.07, 4) * [*sides, *sides]
                x1, y1 = np.maximum(moved[:2], 0)
                x2, y2 = np.minimum(moved[:2] + moved[2:], [size["width"], size["height"]])
                corners = np.array([x1, y1, x2, y2], np.float32)
                box = [*corners[:2], *(corners[2:] - corners[:2])]
                score = rng.choice([rng.random() ** 4, 1 - 10 ** rng.uniform(-8, 0)])
                if min(box[2:]) > 0:
                    score = float(np.float32(score))
                    results.append({**item, "bbox": [float(v) for v in box], "score": score})
    return coco, results


@pytest.mark.parametrize("is_small", [True, False], ids=["small", "large"])
@pytest.mark.parametrize("name", [n for n, f in submission.FORMATS.items() if not f.rows])
def test_a_submission_scores_as_its_results_do(name, is_small):
    form = submission.FORMATS[name]
    for seed in range(2):
        coco, results = detections(seed, is_small)
        if form.suffix == ".csv" and "label" not in form.box:  # one class is all it can tell
            for item in (*coco["annotations"], *results):
                item["category_id"] = CATEGORIES[0]["id"]
        save("val.json", coco)
        save("results.json", results)
        submission.write_submission("results.json", "val.json", "out", name)
        read = read_submission("out", coco, "val.json", form)
        assert read.is_sound and len(read.results) == len(results)
        expected = average_precision(coco, results)
        assert 10 < expected["AP"] < 90
        assert average_precision(coco, read.results) == pytest.approx(expected, abs=1e-3)


def test_making_one_prints_the_score_of_the_results(capsys):
    coco, results = detections(0, is_small=False)
    save("test.json", coco)
    save("results.json", results)
    arguments = ["results.json", "test.json", "--format", "open_images"]
    assert make_submission.main([*arguments, "--output", "submission.csv"]) == 0
    table = results_table(average_precision(coco, results), coco)
    assert table in capsys.readouterr().out
    status, said = check(capsys, format_name="open_images")
    assert status == 0 and table in said


def test_a_format_without_classes_is_scored_as_one_class(capsys):
    coco, results = detections(0, is_small=False)
    save("test.json", coco)
    save("results.json", results)
    arguments = ["results.json", "test.json", "--format", "rsna", "--output", "submission.csv"]
    assert make_submission.main(arguments) == 0
    one = [{**a, "category_id": 0} for a in coco["annotations"]]
    coco = {**coco, "annotations": one, "categories": CATEGORIES[:1]}
    scores = average_precision(coco, [{**r, "category_id": 0} for r in results])
    assert re.search(rf"^all +{len(one)} +{scores['AP']:.1f} ", capsys.readouterr().out, re.M)


def test_a_sound_file(capsys):
    said = "submission.csv: read back as recycling_trash: 3 images, 3 boxes, sound\n"
    assert check(capsys) == (0, said)
    assert check(capsys, "--score")[0] == 2  # there is nothing to score on
    save("submission.csv", b"\xef\xbb\xbf" + SOUND.replace("\n", "\r\n").encode())
    assert check(capsys) == (0, said)  # as Excel writes it


def test_no_finding_of_vinbigdata(capsys):
    rows = ["0001,14 1 0 0 1 1", "0000,14 0.3 0 0 1 1 2 0.5 1 1 9 9"]
    save("submission.csv", "\n".join(["image_id,PredictionString", *rows, '"빈 사진, 둘",']))
    status, said = check(capsys, format_name="vinbigdata")
    assert status == 1 and "1 rows without a field: line 4" in said and said.count("\n") == 1
    save(
        "submission.csv",
        "\n".join(["image_id,PredictionString", *rows, '"빈 사진, 둘",14 1 0 0 1 1']),
    )
    status, said = check(capsys, format_name="vinbigdata")
    assert status == 0 and "3 images, 1 boxes, sound" in said


# what to put in place of what, and the start of what is said
SPOILT = {
    "image gone": (",test/0000.jpg", ",test/9999.jpg", "1 rows of an image .* line 4 'test/9999"),
    "row gone": ("5 1 0 0 400 300,test/0000.jpg\n", "", "1 images without a row: 'test/0000.jpg'"),
    "row twice": (",test/0000.jpg", ",test/0001.jpg", "1 images with more than one row: line 4"),
    "columns turned": (
        "PredictionString,image_id",
        "image_id,PredictionString",
        "rows of an image",
    ),
    "a cell more": ("60,test", "60,1,test", "1 rows with another number of cells .* line 2"),
    "a field gone": ("5 1 0 0 400 300", "5 1 0 0 400", "1 rows that end within a box: line 4"),
    "no number": ("5 1 0 0 400", "5 1 0 0 4oo", "1 boxes with something .* '5 1 0 0 4oo 300'"),
    "nan": ("5 1 0 0 400", "5 nan 0 0 400", "1 boxes with something .* line 4"),
    "unknown class": ("5 1 0 0", "6 1 0 0", "1 boxes of an unknown class: line 4 '6'"),
    "width and height": ("10 20 40 60", "10 20 4 6", "1 boxes of negative width"),
    "outside": ("10 20 40 60", "10 20 240 60", "1 boxes more than a pixel .* of 200 × 100"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_wrong_is_reported_in_a_line(capsys, case):
    old, new, said = SPOILT[case]
    assert old in SOUND
    save("submission.csv", SOUND.replace(old, new))
    status, text = check(capsys)
    assert status == 1
    assert all(line.startswith("submission.csv: error: ") for line in text.splitlines())
    assert re.search(said, text)


def test_oddities_that_cost_nothing_are_warnings(capsys):
    save("submission.csv", SOUND.replace("5 1 0 0 400 300", "5 1.5 7 0 7 300"))
    status, said = check(capsys)
    assert status == 0
    assert "warning: 1 boxes without area: line 4 (7, 0, 0, 300)" in said
    assert "warning: 1 scores outside 0 to 1: line 4 1.5" in said


def test_many_cases_are_counted_and_the_first_named(capsys):
    save("submission.csv", SOUND.replace("7 0.9 1 2 4 6", " ".join(["8 0.9 1 2 4 6"] * 50)))
    status, said = check(capsys)
    assert status == 1 and said.count("\n") == 1
    assert "error: 50 boxes of an unknown class: line 2 '8', line 2 '8', line 2 '8', …;" in said


UNREADABLE = {
    "empty": ("", "is empty"),
    "no column": ("Predictions,image_id\n", "lacks the column 'PredictionString'"),
    "another format": ("patientId,PredictionString\n", "--format rsna has these"),
    "cut off within quotes": (SOUND[: SOUND.index(", 둘")], "line 3: "),
    "not UTF-8": (SOUND.encode("cp949"), "is not UTF-8"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0", "is not UTF-8"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_files(capsys, case):
    content, said = UNREADABLE[case]
    save("submission.csv", content)
    status, text = check(capsys)
    assert status == 2 and text.count("\n") == 1
    assert "submission.csv: " in text and said in text


def test_other_refusals(capsys):
    Path("submission.csv").unlink()
    assert "submission.csv: cannot be read" in check(capsys)[1]
    assert "there is no format 'voc'" in check(capsys, format_name="voc")[1]
    save("test.json", json.dumps(COCO)[:-5])
    assert "test.json: is not valid json" in check(capsys)[1]


def test_columns_of_pandas_index(capsys):
    lines = Path("submission.csv").read_text().splitlines()
    save("submission.csv", "\n".join([f",{lines[0]}", *(f"0,{line}" for line in lines[1:])]))
    status, said = check(capsys)
    assert status == 1 and "1 columns that the format lacks: one without a name" in said


def test_the_sample(capsys):
    names = [i["file_name"] for i in COCO["images"]]
    rows = [f',"{name}"' for name in reversed(names)]
    save("sample.csv", "\n".join(["PredictionString,image_id", *rows]))
    assert check(capsys, "--sample", "sample.csv")[0] == 0  # the rows may stand in any order
    save("sample.csv", "\n".join(["PredictionString,image_id", *rows[1:], ",test/없음.jpg"]))
    status, said = check(capsys, "--sample", "sample.csv")
    assert status == 1 and said.count("\n") == 2
    assert f"1 images that the sample lacks: {names[-1]!r}" in said
    assert "1 images that only the sample has: 'test/없음.jpg'" in said
    save("sample.csv", "\n".join(["image_id,PredictionString", *(f'"{n}",' for n in names)]))
    assert (
        "1 columns that differ from the sample's: Pred"
        in check(capsys, "--sample", "sample.csv")[1]
    )


def test_a_sound_check_needs_no_heavy_library():
    code = "import sys, detection.workshop.submission.checks; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=paths.PROJECT_ROOT, check=True)
