"""Errors planted in annotations are suggested first, and a reviewed CSV corrects them."""

import csv
import json
from pathlib import Path

import check_dataset
import cv2
import find_label_errors as tool
import numpy as np
import pytest
from detection.checks.reviews import KINDS
from detection.data import coco as annotations
from detection.evaluation.matching import match
from detection.utils.paths import PROJECT_ROOT
from detection.workshop.analysis.label_errors import find_label_errors
from page_reader import Page

NAMES = ["종이/박스", '=glass; "old"', "can"]
IDS = [7, 0, 3]
SIDE = 200


@pytest.fixture(autouse=True, scope="module")
def classes():
    """The project's class names are those of these tests, whatever it was made for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotations, "CLASSES", NAMES)
        yield


def make_case(num_images: int = 6) -> tuple[dict, list[dict]]:
    """Annotations without errors, partly over one another, and detections of all of them."""
    rng = np.random.default_rng(0)
    images = [
        {"id": 11 * k, "file_name": f"그림 {k}.png", "width": SIDE, "height": SIDE}
        for k in range(num_images)
    ]
    categories = [{"id": id_, "name": name} for id_, name in zip(IDS, NAMES, strict=True)]
    coco, results = {"images": images, "categories": categories, "annotations": []}, []
    for image in images:
        for place in range(5):  # each touches its neighbours: IoU 10 / 70
            where = {"image_id": image["id"], "category_id": int(rng.choice(IDS))}
            box = [30.0 * place + 5, 20.0, 40.0, 40.0]
            id_ = len(coco["annotations"]) + 1
            coco["annotations"].append(
                {"id": id_, "bbox": box, "area": 1600.0, "iscrowd": 0} | where
            )
            results.append({**where, "bbox": box, "score": float(rng.uniform(0.8, 0.99))})
    return coco, results


def plant(coco: dict) -> dict:
    """A wrong label, a missing box and a loose one, in this order of their annotations."""
    wrong, missing, loose = (coco["annotations"][k] for k in (3, 12, 21))
    other = next(id_ for id_ in IDS if id_ != wrong["category_id"])
    x, y, w, h = loose["bbox"]
    planted = {
        wrong["id"]: [{**wrong, "category_id": other}],
        missing["id"]: [],
        loose["id"]: [{**loose, "bbox": [x, y - 15, w, h + 15]}],
    }
    kept = [a for old in coco["annotations"] for a in planted.get(old["id"], [old])]
    return {**coco, "annotations": kept}


def save(content, path: Path) -> str:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """The paths of images, results, and annotations with errors."""
    coco, results = make_case()
    for image in coco["images"]:
        pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
        cv2.imencode(".png", pixels)[1].tofile(tmp_path / image["file_name"])
    return {
        "results": save(results, tmp_path / "r.json"),
        "json": save(plant(coco), tmp_path / "train.json"),
        "root": str(tmp_path),
        "page": str(tmp_path / "out" / "labels.html"),
        "csv": str(tmp_path / "out" / "labels.csv"),
    }


def suggest(files: dict[str, str]) -> list[dict]:
    (Path(files["root"]) / "out").mkdir(exist_ok=True)
    arguments = [files["results"], files["json"], "--image-root", files["root"]]
    assert tool.main([*arguments, "--output", files["page"]]) == 0
    with open(files["csv"], encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def decide(files: dict[str, str], rows: list[dict], delimiter: str = ",") -> None:
    with open(files["csv"], "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def review(files: dict[str, str]) -> int:
    output = str(Path(files["root"], "fixed"))
    options = ["--review", files["csv"], "--output", output, "--no-images"]
    return check_dataset.main([files["json"], "--image-root", files["root"], *options])


def test_planted_errors_are_suggested_and_nothing_else():
    coco, results = make_case()
    assert find_label_errors(coco, match(coco, results)) == []
    found = find_label_errors(planted := plant(coco), match(planted, results))
    assert sorted(s.kind for s in found) == sorted(KINDS)
    by_kind = {s.kind: s for s in found}
    for kind, position in (("wrong label", 3), ("missing box", 12), ("loose box", 21)):
        suggestion, right = by_kind[kind], coco["annotations"][position]
        assert suggestion.new_class == NAMES[IDS.index(right["category_id"])]
        assert suggestion.image["id"] == right["image_id"]
        assert list(suggestion.new_box) == right["bbox"]
        assert (suggestion.annotation or right)["id"] == right["id"]
    assert found[-1].kind == "loose box"  # what is less sure comes last


def test_what_a_model_says_twice_or_hardly_believes_is_suggested_once_or_not():
    coco, results = make_case()
    planted = plant(coco)
    again = [{**r, "score": r["score"] / 2, "bbox": [v + 1 for v in r["bbox"]]} for r in results]
    unsure = {**results[0], "bbox": [150.0, 150.0, 20.0, 20.0], "score": 0.1}
    found = find_label_errors(planted, match(planted, [*results, *again, unsure]))
    assert len(found) == 3
    # a detection in a crowd region is not a missing box
    crowd = {**coco["annotations"][12], "id": 999, "iscrowd": 1}
    planted["annotations"].append(crowd)
    found = find_label_errors(planted, match(planted, results))
    assert sorted(s.kind for s in found) == ["loose box", "wrong label"]


def test_fixes_restore_the_annotations_and_leave_the_input_as_it_is(files, capsys):
    before = Path(files["json"]).read_bytes()
    rows = suggest(files)
    decide(files, [{**row, "decision": "Fix "} for row in rows])
    capsys.readouterr()
    assert review(files) == 0
    assert "fixed/train.json" in capsys.readouterr().out
    assert Path(files["json"]).read_bytes() == before
    fixed = json.loads(Path(files["root"], "fixed/train.json").read_text(encoding="utf-8"))

    def content(coco: dict) -> list:
        keys = ("image_id", "bbox", "category_id", "area")
        return sorted([a[key] for key in keys] for a in coco["annotations"])

    assert content(fixed) == content(make_case()[0])
    ids = [a["id"] for a in fixed["annotations"]]
    assert len(set(ids)) == len(ids)
    # applied once, the rows are of annotations that are no longer there
    files["json"] = save({k: v for k, v in fixed.items() if k != "fixes"}, Path(files["json"]))
    assert review(files) == 2
    assert "line 2" in capsys.readouterr().err


def test_a_spreadsheet_may_have_saved_it_and_rows_may_be_kept_dropped_or_edited(files):
    rows = {row["kind"]: row for row in suggest(files)}
    rows["wrong label"] |= {"decision": "fix", "new_class": "can"}
    rows["missing box"]["decision"] = "keep"
    rows["loose box"]["decision"] = "DROP"
    for row in rows.values():
        row |= {k: v.replace(".", ",") for k, v in row.items() if k[-1] in "xywh"}
    decide(files, list(rows.values()), delimiter=";")
    assert review(files) == 0
    fixed = json.loads(Path(files["root"], "fixed/train.json").read_text(encoding="utf-8"))
    before = json.loads(Path(files["json"]).read_text(encoding="utf-8"))["annotations"]
    expected = [a for a in before if str(a["id"]) != rows["loose box"]["annotation_id"]]
    for annotation in expected:
        if str(annotation["id"]) == rows["wrong label"]["annotation_id"]:
            annotation["category_id"] = IDS[NAMES.index("can")]
    assert fixed["annotations"] == expected


def test_decisions_are_not_overwritten(files, capsys):
    rows = suggest(files)
    suggest(files)  # without decisions it is written again
    decide(files, [{**rows[0], "decision": "keep"}, *rows[1:]])
    capsys.readouterr()
    before = Path(files["csv"]).read_bytes()
    arguments = [files["results"], files["json"], "--output", files["page"]]
    assert tool.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and files["csv"] in error and "--output" in error
    assert Path(files["csv"]).read_bytes() == before


def test_the_page_shows_each_suggestion_with_its_crop(files):
    rows = suggest(files)
    page = Page(Path(files["page"]), "labels")
    assert len(page.cards) == len(rows) == 3
    for row, card in zip(rows, page.cards, strict=True):
        assert row["kind"] in card and row["file_name"] in card and row["new_class"] in card
    assert sum(tag == "image" for tag, _ in page.tags) == 3
    assert files["csv"] in page.text and "--review" in page.text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("\n,1", "\nmaybe,1"), "line 2"),
        (lambda text: text.replace("\n,1", "\nfix,1").replace("그림", "other"), "line 2"),
        (lambda text: text.replace("\n,1", "\nfix,1").replace(",can,", ",cup,"), "'cup'"),
        (lambda text: text.replace("\n,1", "\nfix,1").replace("20.00,", "20.70,"), "line 2"),
        (lambda text: text.replace("\n,1", "\nfix,1").replace(".00", " px"), "line 2"),
        (lambda text: text.replace("new_class", "class_new"), "'new_class'"),
        (lambda text: text.replace("\n,1,", "\n"), "line 2"),
        (lambda text: "", "column"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_review_is_one_line(files, capsys, change, told):
    rows = suggest(files)
    decide(files, [{**row, "class": "can", "new_class": "can"} for row in rows])
    path = Path(files["csv"])
    if change:
        text = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
        path.write_text(change(text), encoding="utf-8")
    else:
        path.unlink()
    capsys.readouterr()
    assert review(files) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "labels.csv" in error and told in error
    assert not Path(files["root"], "fixed").exists()


def test_without_predictions_of_folds_the_remedy_is_named(tmp_path, capsys):
    config = tmp_path / "no_such_run.py"
    config.write_text("")
    assert tool.main(["--config-file", str(config), "--output", str(tmp_path / "p.html")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no_such_run_fold" in error and "make split" in error


def test_predictions_of_all_folds_are_taken_together(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "in_project", lambda path: str(tmp_path / path))
    results = json.loads(Path(files["results"]).read_text(encoding="utf-8"))
    for fold in (0, 1):
        folder = tmp_path / f"output/smoke_fold{fold}/predictions"
        folder.mkdir(parents=True)
        of_fold = [r for r in results if r["image_id"] // 11 % 2 == fold]
        save(of_fold, folder / f"folds_{fold}_val.json")
    (tmp_path / "datasets").mkdir()
    Path(files["json"]).rename(tmp_path / "datasets/train.json")
    config = str(PROJECT_ROOT / "configs/debug/smoke.py")
    output = str(tmp_path / "labels.html")
    arguments = ["--config-file", config, "--image-root", str(tmp_path), "--output", output]
    assert tool.main(arguments) == 0
    assert len((tmp_path / "labels.csv").read_text(encoding="utf-8-sig").splitlines()) == 4
    save(results[:1], tmp_path / "output/smoke_fold1/predictions/folds_1_val.json")
    capsys.readouterr()
    assert tool.main(arguments) == 2  # two folds of the same image are not out of fold
    assert "folds_1_val.json: predicts on image 0" in capsys.readouterr().err
