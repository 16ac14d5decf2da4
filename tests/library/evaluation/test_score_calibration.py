"""Ensembles of models whose scores mean different things: calibrated, they fuse as equals."""

import json

import ensemble
import numpy as np
import pytest
from detection.classes import CLASSES
from detection.evaluation.score_calibration import calibrate, read_calibrations, save_calibrations
from detection.inference.fusion import fuse_results
from detection.utils.errors import UserError

IMAGES = 60


def planted(seed: int = 0, images: int = IMAGES) -> tuple[dict, list[dict]]:
    """
    A json, and detections that are right with the probability of their score.

    Most are of the first class, a few of the second; the third has objects but no detection.
    """
    rng = np.random.default_rng(seed)
    coco = {
        "images": [
            {"id": 10 * k, "file_name": f"{k}.png", "width": 900, "height": 100}
            for k in range(images)
        ],
        "categories": [{"id": 7 * k, "name": name} for k, name in enumerate(CLASSES)],
        "annotations": [],
    }
    results = []
    for image in coco["images"]:
        for place in range(8):
            label = 1 if place == 7 and len(results) < 40 else 0
            score = float(rng.uniform(0.02, 0.98))
            box = [100.0 * place, 10.0, 60.0, 60.0]
            found = {"image_id": image["id"], "category_id": 7 * label, "bbox": box}
            results.append({**found, "score": score})
            if rng.random() < score:
                coco["annotations"].append(found)
        unseen = {"image_id": image["id"], "category_id": 14, "bbox": [810, 10, 60, 60]}
        coco["annotations"].append(unseen)
    for number, annotation in enumerate(coco["annotations"], start=1):
        annotation.update(id=number, iscrowd=0, area=3600.0)
    return coco, results


def rescored(results: list[dict], scale) -> list[dict]:
    return [{**r, "score": float(scale(r["score"]))} for r in results]


def scores(results: list[dict]) -> np.ndarray:
    return np.array([r["score"] for r in results])


def fused(coco: dict, *members: list[dict]) -> list[tuple]:
    """What is found, without the scores, best first in each image."""
    results = fuse_results(coco["images"], members, processes=1)
    return [(r["image_id"], r["category_id"], np.round(r["bbox"], 3).tolist()) for r in results]


def agreement(one: list[tuple], two: list[tuple]) -> float:
    """The part of the boxes that are the same in both, at the same rank in their image."""
    pairs = zip(one, two, strict=True)
    return np.mean([a[:2] == b[:2] and np.allclose(a[2], b[2], atol=0.5) for a, b in pairs])


def test_probabilities_are_found():
    coco, results = planted(images=600)
    distorted = rescored(results, lambda s: s**4)  # far too low
    calibration, out_of_fold = calibrate(coco, distorted, "m")
    for found in (calibration.apply(distorted), out_of_fold):
        assert np.abs(scores(found) - scores(results)).mean() < 0.05
    assert [{**r, "score": 0} for r in out_of_fold] == [{**r, "score": 0} for r in results]


@pytest.mark.parametrize("scale", [np.sqrt, lambda s: 0.3 * s**3, lambda s: 0.5 + s / 2.5])
def test_another_scale_of_the_same_scores_changes_nothing(scale):
    coco, results = planted()
    # of a second model: other boxes, as good
    second = [{**r, "bbox": [r["bbox"][0] + 8, *r["bbox"][1:]]} for r in planted(seed=1)[1]]
    plain, other = calibrate(coco, second, "m"), calibrate(coco, rescored(second, scale), "m")
    difference = np.abs(scores(plain[1]) - scores(other[1]))
    assert np.mean(difference < 0.01) > 0.95  # the others are at a step
    known, again = plain[0].apply(second), other[0].apply(rescored(second, scale))
    first = calibrate(coco, results, "m")[0].apply(results)
    assert agreement(fused(coco, first, known), fused(coco, first, again)) > 0.95
    uncalibrated = fused(coco, results, rescored(second, scale))
    assert agreement(fused(coco, results, second), uncalibrated) < 0.9


def test_a_rare_object_does_not_raise_the_many_false_detections():
    coco, results = planted()
    coco["annotations"] = []
    for number, r in enumerate(results):
        is_object = number % 8 == 0
        r["score"] = 0.9 + number / 1e4 if is_object else 0.01 + number / 1e5
        if is_object:
            own = {"id": number + 1, "iscrowd": 0, "area": 3600.0}
            coco["annotations"].append({**r, **own})
    calibration, out_of_fold = calibrate(coco, results, "m")
    for found in (scores(calibration.apply(results)), scores(out_of_fold)):
        assert found[::8].min() > 0.95 and np.delete(found, np.s_[::8]).max() < 0.05


def test_the_order_of_a_models_detections_stays():
    coco, results = planted()
    results = [{**r, "category_id": 0} for r in results]
    calibration, _ = calibrate(coco, results, "m")
    found = scores(calibration.apply(results))
    order = np.argsort(scores(results))
    assert (np.diff(found[order]) > 0).all() and 0 < found.min() and found.max() < 1


def test_equal_scores_stay_equal():
    coco, results = planted()
    results = rescored(results, lambda s: np.ceil(4 * s) / 4)
    calibration, _ = calibrate(coco, results, "m")
    found = calibration.apply(results)
    levels = {(r["category_id"], r["score"]) for r in found}
    assert len(levels) == len({(r["category_id"], r["score"]) for r in results})
    calibration, _ = calibrate(coco, rescored(results, lambda s: 0.9), "m")
    found = calibration.apply(rescored(results, lambda s: 0.9))
    assert len({(r["category_id"], r["score"]) for r in found}) == 2


def test_what_cannot_be_calibrated_is_one_line():
    coco, results = planted()
    few = {**coco, "images": coco["images"][:5]}
    wrong = [{**r, "bbox": [0, 90, 5, 5]} for r in results]
    right = [{k: a[k] for k in ("image_id", "category_id", "bbox")} for a in coco["annotations"]]
    for data, found, named in (
        (few, results, "5 annotated images"),
        (coco, wrong, "m: has too few correct"),
        (coco, [{**r, "score": 0.5} for r in right], "m: has too few false"),
    ):
        with pytest.raises(UserError) as error:
            calibrate(data, found, "m")
        assert named in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def files(tmp_path):
    coco, results = planted()
    (tmp_path / "val.json").write_text(json.dumps(coco))
    for name, scale in (("a", lambda s: s), ("b", lambda s: s**5)):
        (tmp_path / f"{name}.json").write_text(json.dumps(rescored(results, scale)))
    test = {**coco, "annotations": []}
    (tmp_path / "test.json").write_text(json.dumps(test))
    return tmp_path


def run(folder, json_file: str, *options: str, code: int = 0) -> None:
    members = [f"a={folder}/a.json", f"b={folder}/b.json"]
    output = ["--output", f"{folder}/out/{json_file}"]
    assert ensemble.main([f"{folder}/{json_file}", *members, *output, *options]) == code


def test_found_on_validation_images_and_applied_to_test_images(files, capsys):
    run(files, "val.json", "--calibrate", "--metric=mAP50")
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert {"a", "b", "ensemble", "calibrated"} <= set(rows)
    curves = files / "out/val.calibration.json"
    assert any(str(curves) in line for line in lines)
    assert set(json.loads(curves.read_text())) == {"a", "b"}

    run(files, "test.json", f"--calibration={curves}")
    assert "nothing is scored" in capsys.readouterr().out
    found = json.loads((files / "out/test.json").read_text())
    a = json.loads((files / "a.json").read_text())
    known = read_calibrations(str(curves), {"a": [], "b": []})
    # the two members have the same boxes, and now nearly the same scores
    own = sorted(scores(known["a"].apply(a)))
    assert len(found) == len(a)
    np.testing.assert_allclose(sorted(scores(found)), own, atol=0.02)
    run(files, "val.json", f"--calibration={curves}")
    assert "calibrated" in capsys.readouterr().out


def test_calibrations_of_other_models_are_refused(files, capsys):
    coco, results = planted()
    curves = files / "c.json"
    calibration, _ = calibrate(coco, results, "a", ["d_fine@out/model.pth 1a2b"])
    save_calibrations({"a": calibration}, curves)
    assert read_calibrations(str(curves), {"a": ["copy@out/model.pth 1a2b"]})
    for members, named in (({"b": []}, "lacks b"), ({"a": ["x@y"]}, "x@y")):
        with pytest.raises(UserError, match=named):
            read_calibrations(str(curves), members)
    for content in ("", "[]", '{"a": {}}', '{"a": {"models": [], "curve": [[1, 0], [0, 1]]}}'):
        curves.write_text(content)
        with pytest.raises(UserError, match=r"c\.json"):
            read_calibrations(str(curves), {"a": []})
    run(files, "test.json", "--calibrate", code=2)
    error = capsys.readouterr().err
    assert "test.json" in error and "--calibration" in error and error.count("\n") == 1
    assert not (files / "out").exists()
