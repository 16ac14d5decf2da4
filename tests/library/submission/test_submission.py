"""Submission files and their tool: exact text, nothing lost, one line for bad input."""

import csv
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import make_submission as tool
import pytest
from detection.data import coco as annotations
from detection.evaluation.competition_metrics import DEFAULT_METRIC, METRICS
from detection.utils import paths
from detection.workshop.submission import writing as submission

CLASSES = ["종이/팩", "/m/01g317", "유리"]
CATEGORIES = [  # in another order, and not from 1
    {"id": 0, "name": "유리"},
    {"id": 5, "name": "종이/팩"},
    {"id": 7, "name": "/m/01g317"},
]
COCO = {
    "images": [
        {"id": 9, "file_name": "test/0001.jpg", "width": 200, "height": 100},
        {"id": 2, "file_name": "test/빈 사진.jpg", "width": 200, "height": 100},
        {"id": 4, "file_name": "test/0000.jpg", "width": 400, "height": 300},
    ],
    "categories": CATEGORIES,
}
RESULTS = [
    {"image_id": 9, "category_id": 0, "bbox": [10.0, 20.5, 30.25, 40.0], "score": 0.00001234567},
    {"image_id": 4, "category_id": 5, "bbox": [0, 0, 400, 300], "score": 1},
    {"image_id": 9, "category_id": 7, "bbox": [1.005, 2, 3, 4.126], "score": 0.98765432},
]
# written by hand from each competition's page
EXPECTED = {
    "recycling_trash": """\
PredictionString,image_id
7 0.98765432 1.00500 2.00000 4.00500 6.12600 \
0 0.00001234567 10.00000 20.50000 40.25000 60.50000,test/0001.jpg
,test/빈 사진.jpg
5 1 0.00000 0.00000 400.00000 300.00000,test/0000.jpg
""",
    "global_wheat": """\
image_id,PredictionString
0001,0.98765432 1.00500 2.00000 3.00000 4.12600 0.00001234567 10.00000 20.50000 30.25000 40.00000
빈 사진,
0000,1 0.00000 0.00000 400.00000 300.00000
""",
    "rsna": """\
patientId,PredictionString
0001,0.98765432 1.00500 2.00000 3.00000 4.12600 0.00001234567 10.00000 20.50000 30.25000 40.00000
빈 사진,
0000,1 0.00000 0.00000 400.00000 300.00000
""",
    "vinbigdata": """\
image_id,PredictionString
0001,1 0.98765432 1.00500 2.00000 4.00500 6.12600 \
2 0.00001234567 10.00000 20.50000 40.25000 60.50000
빈 사진,14 1 0 0 1 1
0000,0 1 0.00000 0.00000 400.00000 300.00000
""",
    "open_images": """\
ImageId,PredictionString
0001,/m/01g317 0.98765432 0.00502500 0.02000000 0.02002500 0.06126000 \
유리 0.00001234567 0.05000000 0.20500000 0.20125000 0.60500000
빈 사진,
0000,종이/팩 1 0.00000000 0.00000000 1.00000000 1.00000000
""",
    "cots": """\
index,annotations
0001,0.98765432 1.00500 2.00000 3.00000 4.12600 0.00001234567 10.00000 20.50000 30.25000 40.00000
빈 사진,
0000,1 0.00000 0.00000 400.00000 300.00000
""",
    "siim": """\
Id,PredictionString
0001_image,/m/01g317 0.98765432 1.00500 2.00000 4.00500 6.12600 \
유리 0.00001234567 10.00000 20.50000 40.25000 60.50000
빈 사진_image,none 1 0 0 1 1
0000_image,종이/팩 1 0.00000 0.00000 400.00000 300.00000
""",
    "coco": json.dumps([RESULTS[2], RESULTS[0], RESULTS[1]]),
    "custom": """\
image,label,score,x1,y1,x2,y2
test/0001.jpg,7,0.987654,1.00500,2.00000,4.00500,6.12600
test/0001.jpg,0,0.000012,10.00000,20.50000,40.25000,60.50000
test/0000.jpg,5,1.000000,0.00000,0.00000,400.00000,300.00000
""",
}
READ_BACK = [name for name, form in submission.FORMATS.items() if not form.rows]


@pytest.fixture(autouse=True)
def example(tmp_path, monkeypatch):
    """The working directory is a folder with the example in it."""
    monkeypatch.setattr(annotations, "CLASSES", CLASSES)
    monkeypatch.chdir(tmp_path)
    save("test.json", COCO)
    save("results.json", RESULTS)


def save(name, content):
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    Path(name).write_text(text, encoding="utf-8")


def submit(*arguments):
    tool.main(["results.json", "test.json", "--output", "out/submission", *arguments])
    return Path("out/submission").read_bytes().decode("utf-8")


@pytest.mark.parametrize("name", submission.FORMATS)
def test_exact_text(name, capsys):
    assert submit("--format", name) == EXPECTED[name]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"out/submission: {name}, 3 images, 3 boxes, 1 images without boxes"
    assert said[-1].endswith(" 3 boxes, sound" if name in READ_BACK else " 3 rows, not read back")
    assert [p.name for p in Path("out").iterdir()] == ["submission"]


@pytest.mark.parametrize("name", READ_BACK)
def test_without_results_every_image_is_there(name):
    save("results.json", [])
    form = submission.FORMATS[name]
    text = submit("--format", name)
    if form.suffix == ".json":
        assert json.loads(text) == []
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
        image_column, boxes_column = sorted(form.columns, key=form.columns.get, reverse=True)
        assert len({row[image_column] for row in rows}) == len(COCO["images"])
        assert {row[boxes_column] for row in rows} == {form.empty}


def test_low_scores_go_only_if_asked():
    best = EXPECTED["rsna"].replace(" 0.00001234567 10.00000 20.50000 30.25000 40.00000", "")
    assert best != EXPECTED["rsna"]
    assert submit("--format", "rsna", "--min-score", "0.5") == best
    assert submit("--format", "rsna", "--max-per-image", "1") == best


def test_open_images_gets_the_classes_above_too(monkeypatch):
    save("hierarchy.json", {"LabelName": "종이/팩", "Subcategory": [
        {"LabelName": "유리"}, {"LabelName": "/m/01g317"}]})  # fmt: skip
    monkeypatch.setattr(
        "detection.evaluation.extra_classes.HIERARCHY", str(Path("hierarchy.json").resolve())
    )
    rows = submit("--format", "open_images").splitlines()
    assert rows[1].split(",")[1].split()[::6] == ["/m/01g317", "종이/팩", "유리", "종이/팩"]
    assert rows[3] == EXPECTED["open_images"].splitlines()[3], "nothing is above it"


def random_example(rng):
    """Annotated images, and detections that find about half of the objects, more or less well."""
    size = {"width": 1024, "height": 768}
    coco = {
        "images": [{"id": 3 * k, "file_name": f"a/{k}.jpg", **size} for k in range(40)],
        "categories": CATEGORIES,
        "annotations": [],
    }
    results = []
    for image in coco["images"][1:]:  # the first stays empty
        for _ in range(12):
            box = [rng.uniform(0, 700), rng.uniform(0, 500)]
            box += [rng.uniform(5, 300), rng.uniform(5, 250)]
            item = {"image_id": image["id"], "category_id": rng.choice(CATEGORIES)["id"]}
            coco["annotations"].append({**item, "id": len(coco["annotations"]) + 1, "bbox": box})
            moved = [v + rng.gauss(0, 0.07) * box[2 + k % 2] for k, v in enumerate(box)]
            if min(moved[2:]) > 0 and rng.random() < 0.7:
                if rng.random() < 0.2:
                    item["category_id"] = rng.choice(CATEGORIES)["id"]
                results.append({**item, "bbox": moved, "score": rng.random() ** 4})
    return coco, results


def parse(text, form, coco):
    """The COCO results that a submission of `form` stands for."""
    if form.suffix == ".json":
        return json.loads(text)
    ids = {"category_id": {str(c["id"]): c["id"] for c in CATEGORIES}}
    ids["name"] = {c["name"]: c["id"] for c in CATEGORIES}
    ids["index"] = {str(CLASSES.index(c["name"])): c["id"] for c in CATEGORIES}
    images = {i["file_name"]: i for i in coco["images"]}
    if form.image == "stem":
        images = {f"{Path(n).stem}{form.image_suffix}": image for n, image in images.items()}
    image_column, boxes_column = sorted(form.columns, key=form.columns.get, reverse=True)
    fields = form.box.split()
    results = []
    for row in csv.DictReader(io.StringIO(text)):
        image = images[row[image_column]]
        values = row[boxes_column].split() if row[boxes_column] != form.empty else []
        for start in range(0, len(values), len(fields)):
            box = dict(zip(fields, values[start : start + len(fields)], strict=True))
            label = box.pop("label", None)
            box = {key: float(v) for key, v in box.items()}
            x, y = box.get("x", box.get("x1")), box.get("y", box.get("y1"))
            w = box["w"] if "w" in box else box["x2"] - x
            h = box["h"] if "h" in box else box["y2"] - y
            if form.normalized:
                x, y, w, h = (v * s for v, s in zip((x, y, w, h), (1024, 768) * 2, strict=True))
            category_id = CATEGORIES[0]["id"] if label is None else ids[form.label][label]
            result = {"image_id": image["id"], "category_id": category_id}
            results.append({**result, "bbox": [x, y, w, h], "score": box["score"]})
    return results


@pytest.mark.parametrize("name", READ_BACK)
def test_a_submission_scores_as_its_results_do(name):
    from detection.evaluation.average_precision import average_precision

    coco, results = random_example(random.Random(0))
    form = submission.FORMATS[name]
    if "label" not in form.box.split() and form.suffix == ".csv":  # one class is all it can tell
        for item in (*coco["annotations"], *results):
            item["category_id"] = CATEGORIES[0]["id"]
    save("test.json", coco)
    save("results.json", results)
    expected = average_precision(coco, results)
    found = average_precision(coco, parse(submit("--format", name), form, coco))
    assert 20 < expected["AP"] < 80
    assert found == pytest.approx(expected, abs=1e-3)


BOX = RESULTS[0]
BAD_RESULTS = {
    "missing": None,
    "truncated": (json.dumps(RESULTS)[:-5], "not valid json"),
    "no list": ({"annotations": RESULTS}, "list"),
    "no record": ([BOX, 3], "results[1]"),
    "no score": ([{k: v for k, v in BOX.items() if k != "score"}], "results[0]"),
    "score is text": ([{**BOX, "score": "0.5"}], "results[0]"),
    "score is NaN": ([{**BOX, "score": float("nan")}], "results[0]"),
    "score has no end": ([{**BOX, "score": 10**400}], "results[0]"),
    "three numbers": ([BOX, {**BOX, "bbox": [1, 2, 3]}], "results[1]"),
    "negative width": ([{**BOX, "bbox": [10, 10, -3, 5]}], "results[0]"),
    "unknown image": ([BOX, {**BOX, "image_id": 77}], "results[1]: image_id 77"),
    "unknown category": ([{**BOX, "category_id": 1}], "results[0]: category_id 1"),
}
IMAGE = COCO["images"][0]
BAD_IMAGES = {
    "no name": ([{**IMAGE, "file_name": None}], "images[0]"),
    "no width": ([IMAGE, {"id": 1, "file_name": "b.jpg", "height": 5}], "images[1]"),
    "id twice": ([IMAGE, {**IMAGE, "file_name": "b.jpg"}], "images[1]"),
    "name twice": ([IMAGE, {**IMAGE, "id": 1, "file_name": "other/0001.jpg"}], "images[1]"),
}


def refused(capsys, *arguments):
    """The one line that a refusal is; the submission from before is still there."""
    save("submission.csv", "from before")
    arguments = ["results.json", "test.json", "--output", "submission.csv", *arguments]
    assert tool.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert Path("submission.csv").read_text() == "from before"
    assert not list(Path().glob("*.partial"))
    return error


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_bad_results(capsys, case):
    if BAD_RESULTS[case] is None:
        Path("results.json").unlink()
        assert "results.json: cannot be read" in refused(capsys)
    else:
        content, said = BAD_RESULTS[case]
        save("results.json", content)
        error = refused(capsys)
        assert "results.json: " in error and said in error


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images(capsys, case):
    images, said = BAD_IMAGES[case]
    save("test.json", {**COCO, "images": images})
    error = refused(capsys, "--format", "open_images")
    assert "test.json: " in error and said in error


def test_other_refusals(capsys, monkeypatch):
    assert "voc" in refused(capsys, "--format", "voc")
    assert "0 boxes" in refused(capsys, "--max-per-image", "0")
    assert "cannot be written" in refused(capsys, "--output", "test.json/submission.csv")
    assert "is a folder" in refused(capsys, "--output", ".")
    assert "none.csv: no such file" in refused(capsys, "--sample", "none.csv")
    for read in ("results.json", "test.json"):
        content = Path(read).read_bytes()
        assert f"{read}: is what is read" in refused(capsys, "--output", read)
        assert Path(read).read_bytes() == content
    assert "is what is read" in refused(capsys, "--sample", "submission.csv")
    monkeypatch.setattr(annotations, "CLASSES", ["General trash"])
    save("test.json", {**COCO, "categories": [{"id": 1, "name": "General trash"}]})
    assert "'General trash' has a blank" in refused(capsys, "--format", "open_images")
    save("test.json", json.dumps(COCO)[:-5])
    assert "test.json: is not valid json" in refused(capsys)


def test_starts_without_the_heavy_libraries():
    code = "import sys, detection.workshop.submission.writing; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=paths.PROJECT_ROOT, check=True)


def test_runs_from_anywhere():
    command = [sys.executable, tool.__file__, "--help"]
    assert b"recycling_trash" in subprocess.run(command, capture_output=True, check=True).stdout


def test_each_format_has_its_metric(monkeypatch):
    """That of the project's own format is DEFAULT_METRIC, also where its owner has changed it."""
    assert {form.metric for form in submission.FORMATS.values()} <= METRICS.keys()
    assert submission.FORMATS[submission.DEFAULT_FORMAT].metric == DEFAULT_METRIC
    monkeypatch.setattr(submission, "DEFAULT_METRIC", "cots_F2")
    changed = {n for n, f in submission.FORMATS.items() if submission.find_format(n) != f}
    assert changed == {submission.DEFAULT_FORMAT}
    assert submission.find_format(submission.DEFAULT_FORMAT).metric == "cots_F2"
