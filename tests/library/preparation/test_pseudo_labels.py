"""tools/pseudo_label.py and `dataset.pseudo`: confident predictions become training data."""

import json
import math
import shutil
import subprocess
import sys

import pytest
from conftest import PROJECT_ROOT
from detection.classes import CLASSES
from detection.config import load_config
from detection.workshop.preparation.pseudo_labels import (
    balanced_scores,
    precise_scores,
    pseudo_labels,
    quality,
)
from detectron2.config import instantiate


@pytest.fixture
def unlabelled(toy, tmp_path):
    """Copies of the toy validation images, a json of them, and perfect detections on them."""
    coco = json.loads((toy / "val.json").read_text())
    results = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in coco.pop("annotations")
    ]
    (tmp_path / "images").mkdir()
    for image in coco["images"]:
        shutil.copy(toy / "images" / image["file_name"], tmp_path / "images")
    (tmp_path / "test.json").write_text(json.dumps(coco))
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def run(folder, *args: str, results="results.json", check=True) -> str:
    command = [sys.executable, "tools/pseudo_label.py", str(folder / results)]
    command += [str(folder / "test.json"), "--output", str(folder / "pseudo.json"), *args]
    process = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    if check:
        assert process.returncode == 0, process.stderr
        return process.stdout
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert not process.stdout
    return process.stderr


def on_images(folder) -> list[str]:
    return [
        f"dataset.pseudo.json_file={folder}/pseudo.json",
        f"dataset.pseudo.image_root={folder}/images",
    ]


def test_min_score_raises_what_validation_gives(unlabelled, toy):
    validated = ["--validated", str(unlabelled / "results.json"), str(toy / "val.json")]
    assert "boxes on" in run(unlabelled, *validated)  # of score 0.9
    assert "results.json: no detection" in run(
        unlabelled, *validated, "--min-score", "0.95", check=False
    )
    assert "is what is read" in run(
        unlabelled, "--force", "--output", str(unlabelled / "results.json"), check=False
    )


@pytest.mark.slow
def test_confident_predictions_are_trained_on(unlabelled, train_net, on_toy):
    results = json.loads((unlabelled / "results.json").read_text())
    results += [{**r, "score": 0.3} for r in results]
    (unlabelled / "results.json").write_text(json.dumps(results))
    shown = run(unlabelled)
    images = {r["image_id"] for r in results}
    assert f"{len(results) // 2} boxes on {len(images)} of 4 images" in shown

    overrides = [*on_toy, *on_images(unlabelled)]
    cfg = load_config("configs/debug/smoke.py", overrides)
    files = [image["file_name"] for image in instantiate(cfg.dataloader.train.dataset)]
    assert len(files) == 8 + len(images)
    assert sum(file.startswith(f"{unlabelled}/images") for file in files) == len(images)

    process = train_net("train.max_iter=1", f"train.output_dir={unlabelled}/run", *overrides)
    assert f"{len(images)} images with {len(results) // 2} pseudo-labels" in process.stdout
    assert (unlabelled / "run" / "model_final.pth").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val"])
def test_images_that_are_annotated_get_no_pseudo_labels(unlabelled, train_net, toy, split):
    pseudo = [
        f"dataset.pseudo.json_file={toy}/{split}.json",
        f"dataset.pseudo.image_root={toy}/images",
    ]
    process = train_net(f"train.output_dir={unlabelled}/run", *pseudo, check=False)
    assert process.returncode == 2
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("train_net.py: ") and f"is an image of {split} too" in last


def test_each_class_has_a_score_of_its_own(unlabelled):
    results = json.loads((unlabelled / "results.json").read_text())
    coco = json.loads((unlabelled / "test.json").read_text())
    names = {c["id"]: c["name"] for c in coco["categories"]}
    chosen = results[0]["category_id"]
    shown = run(unlabelled, "--min-score", "0.95", "--class-score", f"{names[chosen]}=0.5")
    written = json.loads((unlabelled / "pseudo.json").read_text())
    assert len(written["annotations"]) == sum(r["category_id"] == chosen for r in results)
    assert {a["category_id"] for a in written["annotations"]} == {chosen}
    assert {i["id"] for i in written["images"]} == {a["image_id"] for a in written["annotations"]}
    assert written["categories"] == coco["categories"]
    assert {a["score"] for a in written["annotations"]} == {0.9}
    assert all(name in shown for name in CLASSES)


def test_scores_follow_from_validation_data(unlabelled, toy):
    truth = json.loads((toy / "val.json").read_text())
    wrong = {**truth["annotations"][0], "bbox": [0.0, 0.0, 2.0, 2.0]}
    results = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in truth["annotations"]
    ]
    label = wrong["category_id"]
    results += [{k: wrong[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.95}]
    (unlabelled / "val_results.json").write_text(json.dumps(results))
    validated = ["--validated", str(unlabelled / "val_results.json"), str(toy / "val.json")]
    run(unlabelled, "--precision", "1", *validated)
    written = json.loads((unlabelled / "pseudo.json").read_text())
    # the class with a false detection above its correct ones is never that precise
    expected = [a for a in truth["annotations"] if a["category_id"] != label]
    assert len(written["annotations"]) == len(expected) > 0
    assert all(a["category_id"] != label for a in written["annotations"])

    # the best F1 puts up with the false one
    run(unlabelled, *validated, "--force")
    written = json.loads((unlabelled / "pseudo.json").read_text())
    assert len(written["annotations"]) == len(truth["annotations"])


def test_scores_equal_a_count_by_hand():
    coco = {
        "images": [{"id": 7}],
        "categories": [{"id": 3, "name": "a"}, {"id": 1, "name": "b"}],
        "annotations": [
            {"id": k, "image_id": 7, "category_id": 3, "bbox": [100 * k, 0, 50, 50], "iscrowd": 0}
            for k in range(4)
        ],
    }
    # correct, wrong, correct, correct; the last two share a score with a wrong one
    places = [(0, 0.9), (950, 0.8), (100, 0.7), (200, 0.6), (900, 0.6)]
    results = [
        {"image_id": 7, "category_id": 3, "bbox": [x, 0, 50, 50], "score": s} for x, s in places
    ]
    wanted = {1.0: 0.9, 0.66: 0.7, 0.6: 0.6, 0.5: 0.6}
    for precision, score in wanted.items():
        assert precise_scores(coco, results, precision) == {1: float("inf"), 3: score}
    # F1 of 2/5, 2/6, 4/7 and 6/9
    assert balanced_scores(coco, results) == {1: float("inf"), 3: 0.6}
    assert balanced_scores(coco, results[:3]) == {1: float("inf"), 3: 0.7}


def on(image: int, category: int, box: list[float], score: float) -> dict:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_one_class_per_place():
    """The surest of those that overlap; what it replaced does not push out a third."""
    coco = {
        "images": [{"id": k, "width": 100, "height": 100} for k in (1, 2)],
        "categories": [{"id": 5, "name": "a"}, {"id": 6, "name": "b"}],
    }
    results = [
        on(1, 5, [0, 0, 40, 40], 0.6),
        on(1, 6, [4, 0, 40, 40], 0.9),  # IoU 0.82 with the first
        on(1, 5, [16, 0, 40, 40], 0.5),  # 0.43 with the first, 0.54 with the second
        on(1, 5, [24, 0, 40, 40], 0.4),  # 0.33 with the second, 0.67 with the third
        on(2, 5, [0, 0, 40, 40], 0.3),
        on(2, 6, [0, 0, 40, 40], 0.95),  # not sure enough for its class
    ]
    scores = {5: 0.1, 6: 0.9}
    written = pseudo_labels(coco, results[:5], scores)["annotations"]
    assert [a["score"] for a in written] == [0.9, 0.4, 0.3]
    written = pseudo_labels(coco, results, {5: 0.1, 6: 0.96})["annotations"]
    assert [a["score"] for a in written] == [0.6, 0.5, 0.3]


def test_quality_equals_a_count_by_hand():
    boxes = [[0, 0, 10, 10], [20, 0, 10, 10], [40, 0, 10, 10], [60, 0, 10, 10]]
    coco = {
        "images": [{"id": 1}],
        "categories": [{"id": 5, "name": "a"}, {"id": 6, "name": "b"}, {"id": 7, "name": "c"}],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": 5 if k < 3 else 6, "bbox": box, "iscrowd": 0}
            for k, box in enumerate(boxes)
        ],
    }
    results = [
        on(1, 5, boxes[0], 0.9),
        on(1, 6, boxes[0], 0.8),  # the same place
        on(1, 6, boxes[1], 0.8),  # of another class
        on(1, 6, boxes[3], 0.7),
        on(1, 5, boxes[2], 0.2),  # not sure enough
    ]
    measured = quality(coco, results, dict.fromkeys((5, 6, 7), 0.5))
    assert measured[5] == (1, 1 / 3) and measured[6] == (1 / 2, 1)
    assert all(math.isnan(part) for part in measured[7])
    assert measured[None] == (2 / 3, 2 / 4)


def test_precision_is_reported_where_it_is_low(unlabelled, toy):
    """On validation data two of three boxes of a class are wrong."""
    truth = json.loads((toy / "val.json").read_text())
    names = {c["id"]: c["name"] for c in truth["categories"]}
    perfect = json.loads((unlabelled / "results.json").read_text())
    found = list(perfect)
    chosen = found[0]["category_id"]
    number = sum(r["category_id"] == chosen for r in perfect)
    for k in range(2 * number):
        box = [7.0 * (k % 12), 3.0 * (k // 12), 1, 1]
        found.append(on(found[0]["image_id"], chosen, box, 0.8))
    (unlabelled / "val_results.json").write_text(json.dumps(found))
    validated = ["--validated", str(unlabelled / "val_results.json"), str(toy / "val.json")]
    score = ["--class-score", f"{names[chosen]}=0.5"]
    lines = run(unlabelled, *validated, *score, "--precision", "0.5").splitlines()
    (row,) = [line for line in lines if line.startswith(f"{names[chosen]}  ")]
    assert row.removeprefix(names[chosen]).split()[:5] == ["0.500", "33", "%", "100", "%"]
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert f"{names[chosen]} 33 %" in warning and "--precision" in warning

    lines = run(unlabelled, *validated, "--force").splitlines()
    assert not [line for line in lines if line.startswith("warning")]
    assert any("--validated" in line for line in run(unlabelled, "--force").splitlines())


def test_boxes_are_cut_off_at_the_edges():
    coco = {
        "images": [{"id": 1, "width": 100, "height": 50}, {"id": 2, "width": 9, "height": 9}],
        "categories": [{"id": 5, "name": "a"}],
    }
    boxes = [[-5, -5, 20, 20], [90, 40, 20, 20], [120, 0, 10, 10]]
    results = [{"image_id": 1, "category_id": 5, "bbox": b, "score": 1} for b in boxes]
    written = pseudo_labels(coco, results, {5: 0.5})
    assert [a["bbox"] for a in written["annotations"]] == [[0, 0, 15, 15], [90, 40, 10, 10]]
    assert [a["area"] for a in written["annotations"]] == [225, 100]
    assert [a["id"] for a in written["annotations"]] == [1, 2]
    assert [i["id"] for i in written["images"]] == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-score", "0.99"], "results.json: no detection"),
        (["--class-score", "sofa=0.5"], "--class-score sofa=0.5"),
        (["--class-score", f"{CLASSES[0]}=high"], "'high'"),
        (["--precision", "0.9"], "--precision needs --validated"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(unlabelled, arguments, message):
    assert message in run(unlabelled, *arguments, check=False)
    assert not (unlabelled / "pseudo.json").exists()


def test_another_file_is_not_replaced_unasked(unlabelled):
    run(unlabelled)
    written = (unlabelled / "pseudo.json").read_bytes()
    assert "as it was" in run(unlabelled)
    (unlabelled / "pseudo.json").write_text("{}")
    assert "--force" in run(unlabelled, check=False)
    assert (unlabelled / "pseudo.json").read_text() == "{}"
    run(unlabelled, "--force")
    assert (unlabelled / "pseudo.json").read_bytes() == written
