"""Ensembles: fused boxes, and the two tools that fuse and score results."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import ensemble
import numpy as np
import pytest
import score_results
from conftest import PROJECT_ROOT
from detection.data.coco import read_coco
from detection.data.results import check_same_images, write_images
from detection.evaluation.average_precision import average_precision
from detection.inference.fusion import METHODS, fuse, fuse_results
from detection.utils.errors import UserError

SIZE = (200, 100)
ONE, NEAR, FAR = [10, 10, 50, 50], [14, 10, 54, 50], [120, 40, 180, 90]


def fuse_two(method: str, first, second, **how):
    """Two members; each a list of (box, score, label)."""
    parts = [list(map(np.array, zip(*member, strict=True))) for member in (first, second)]
    return fuse(*zip(*parts, strict=True), SIZE, method, **how)


@pytest.mark.parametrize("method", METHODS)
def test_one_object_found_twice(method):
    boxes, scores, labels = fuse_two(method, [(ONE, 0.8, 1), (FAR, 0.5, 0)], [(NEAR, 0.6, 1)])
    best = boxes[0]
    if method == "wbf":  # the mean by score
        assert best == pytest.approx([10 + 4 * 0.6 / 1.4, 10, 50 + 4 * 0.6 / 1.4, 50], abs=1e-4)
    if method in ("nms", "soft_nms"):
        assert best == pytest.approx(ONE, abs=1e-4)
    assert labels[0] == 1 and list(scores) == sorted(scores, reverse=True)
    assert len(boxes) == (3 if method == "soft_nms" else 2)
    assert any(box == pytest.approx(FAR, abs=1e-4) for box in boxes)


@pytest.mark.parametrize("method", METHODS)
def test_classes_never_meet(method):
    boxes, _, labels = fuse_two(method, [(ONE, 0.8, 1)], [(ONE, 0.6, 2)])
    assert sorted(labels) == [1, 2] and boxes == pytest.approx(np.array([ONE, ONE]), abs=1e-4)


def test_soft_nms_lowers_the_scores_of_what_overlaps():
    _, scores, _ = fuse_two("soft_nms", [(ONE, 0.8, 1), (FAR, 0.5, 1)], [(NEAR, 0.6, 1)])
    overlap = 36 * 40 / (44 * 40)  # of ONE and NEAR
    assert scores == pytest.approx([0.8, 0.5, 0.6 * np.exp(-(overlap**2) / 0.5)])


def test_boxes_of_no_score():
    for method in METHODS:
        boxes, scores, _ = fuse_two(method, [(ONE, 0.0, 1)], [(ONE, 0.0, 1), (FAR, 0.0, 1)])
        assert np.isfinite(boxes).all() and not scores.any()


def test_weights_and_limits():
    heavy, _, _ = fuse_two("wbf", [(ONE, 0.8, 1)], [(NEAR, 0.8, 1)], weights=[9, 1])
    assert heavy[0][0] == pytest.approx(10.4, abs=1e-3)
    outside = [(-20, -20, 300, 300), 0.9, 1]
    boxes, _, _ = fuse_two("wbf", [outside], [(FAR, 0.5, 0)], max_boxes=1)
    assert boxes.tolist() == [[0, 0, 200, 100]]
    empty = np.zeros((0, 4)), np.zeros(0), np.zeros(0)
    assert [len(part) for part in fuse(*([part] for part in empty), SIZE)] == [0, 0, 0]


@pytest.fixture(scope="module")
def results(toy, tmp_path_factory) -> dict[str, Path]:
    """Two members, each of which misses half of the objects, and one that is all wrong."""
    coco = read_coco(f"{toy}/val.json")
    folder = tmp_path_factory.mktemp("results")
    members = {"even": [], "odd": [], "wrong": []}
    for number, a in enumerate(coco["annotations"]):
        found = {k: a[k] for k in ("image_id", "category_id", "bbox")}
        members["odd" if number % 2 else "even"].append({**found, "score": 0.9})
        x, y, w, h = a["bbox"]
        members["wrong"].append({**found, "bbox": [x + w, y, w, h], "score": 0.95})
    for name, found in members.items():
        (folder / f"{name}.json").write_text(json.dumps(found))
    return {name: folder / f"{name}.json" for name in members}


@pytest.fixture
def run(capsys):
    """Runs a tool as if from the command line; its output, or its error if it ends with one."""

    def call(tool, *args, code=0) -> str:
        capsys.readouterr()
        assert tool.main(list(map(str, args))) == code
        shown = capsys.readouterr()
        return shown.err if code else shown.out

    return call


def test_processes_make_no_difference(toy, results):
    coco = read_coco(f"{toy}/val.json")
    members = [json.loads(path.read_text()) for path in results.values()]
    assert fuse_results(coco["images"], members, processes=1) == fuse_results(
        coco["images"], members, processes=2
    )


def test_ensemble_is_scored_beside_its_members(run, toy, results, tmp_path):
    output = tmp_path / "fused.json"
    args = [f"{toy}/val.json", "--output", output]
    text = run(ensemble, *args, f"a={results['even']}", f"b={results['odd']}", "--metric=mAP50")
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert float(rows["ensemble"][0]) > max(float(rows["a"][0]), float(rows["b"][0]))
    assert "hurts" not in text
    fused = average_precision(read_coco(f"{toy}/val.json"), json.loads(output.read_text()))
    assert float(rows["ensemble"][1]) == pytest.approx(fused["AP"], abs=0.01)
    assert "this ensemble helps" in text

    text = run(
        ensemble,
        *args,
        f"a={results['even']}",
        f"b={results['wrong']}",
        "--method=nms",
        "--metric=mAP50",
    )
    assert "mAP50 against a alone: -" in text and "this ensemble hurts" in text


def test_ensemble_of_bad_input(run, toy, results, tmp_path):
    val, good = f"{toy}/val.json", results["even"]
    empty, cut, stray = (tmp_path / f"{name}.json" for name in ("empty", "cut", "stray"))
    empty.write_text("[]")
    cut.write_text(good.read_text()[:-20])
    first = json.loads(good.read_text())[0]
    stray.write_text(json.dumps([{**first, "image_id": 987}]))
    output = tmp_path / "fused.json"
    coco = read_coco(val)
    for damage, message in (
        ({"images": [{"id": 1, "file_name": "a.jpg"}]}, "images[0].width: "),
        ({"images": coco["images"] + coco["images"][:1]}, ".id: "),
        (
            {"annotations": [{"id": 1, "image_id": coco["images"][0]["id"]}]},
            "annotations[0].category_id: ",
        ),
    ):
        (tmp_path / "val.json").write_text(json.dumps({**coco, **damage}))
        error = run(ensemble, tmp_path / "val.json", good, "--output", output, code=2)
        assert message in error and len(error.strip().splitlines()) == 1
    for args, message in (
        ([good, empty], "has no detection"),
        ([good, cut], "is not valid json"),
        ([good, stray], "image_id 987 is not in"),
        ([good, good], "two members"),
        ([f"a={good}", "--weight", "b=2"], "--weight b=2"),
        ([f"a={good}", "--weight", "a=-2"], "over 0"),
    ):
        error = run(ensemble, val, *args, "--output", output, code=2)
        assert message in error and len(error.strip().splitlines()) == 1
    assert not output.exists()
    for read in (good, val):
        content = Path(read).read_bytes()
        assert "is what is read" in run(ensemble, val, good, "--output", read, code=2)
        assert Path(read).read_bytes() == content
    for option in ("--iou=nan", "--iou=-1", "--max-per-image=0", "--processes=-2"):
        with pytest.raises(SystemExit) as end:
            run(ensemble, val, good, option, "--output", output)
        assert end.value.code == 2


def test_paths_with_an_equals_sign(run, toy, results, tmp_path):
    folder = tmp_path / "lr=0.01"
    folder.mkdir()
    for name in ("even", "odd"):
        (folder / f"{name}.json").write_bytes(results[name].read_bytes())
    args = [f"{toy}/val.json", "--output", tmp_path / "fused.json"]
    text = run(ensemble, *args, folder / "even.json", f"b={folder}/odd.json", "--weight", "b=2")
    assert f"{folder}/even.json" in text and "\nb " in text


@pytest.mark.skipif(os.name == "nt", reason="links and pipes are POSIX's")
def test_links_and_pipes_stay_what_they_are(run, toy, results, tmp_path):
    link, file, pipe = (tmp_path / name for name in ("link", "file", "pipe"))
    link.symlink_to(file)
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    for output in (link, pipe):
        run(ensemble, f"{toy}/val.json", *results.values(), "--output", output)
    reader.join(timeout=10)
    assert link.is_symlink() and pipe.is_fifo()
    assert read == [file.read_bytes()] and json.loads(read[0])


@pytest.mark.parametrize(
    "command",
    [
        "make_submission.py {results} {json} --output {out}",
        "check_submission.py {results} {json} --format coco",
        "score_results.py {results} {json}",
        "report.py {results} {json} --output {out}",
        "ensemble.py {json} {results} --output {out}",
        "pseudo_label.py {results} {json} --output {out}",
        "pseudo_label.py {sound} {json} --validated {results} {json} --output {out}",
        "draw_predictions.py {json} {root} {results} --output {out}",
    ],
)
def test_results_of_other_images_are_refused(toy, results, tmp_path, command):
    """The list beside the results tells: the ids are the json's, the images are not."""
    coco = read_coco(f"{toy}/val.json")
    found, sound = tmp_path / "found.json", tmp_path / "sound.json"
    for path in (found, sound):
        path.write_bytes(results["even"].read_bytes())
        write_images(coco, path)
    names = [image["file_name"] for image in coco["images"]]
    for image, name in zip(coco["images"], names[1:] + names[:1], strict=True):
        image["file_name"] = name
    write_images(coco, found)
    files = {"json": toy / "val.json", "root": toy / "images", "out": tmp_path / "out.png"}

    def run(results: Path) -> subprocess.CompletedProcess:
        tool = [*command.format(**files, results=results, sound=sound).split()]
        return subprocess.run(
            [sys.executable, f"tools/{tool[0]}", *tool[1:]],
            cwd=PROJECT_ROOT,
            capture_output=True,
            encoding="utf-8",
        )

    refused = run(found)
    assert refused.returncode == 2 and not refused.stdout
    assert refused.stderr.count("\n") == 1
    assert f"{tmp_path}/found.images.json" in refused.stderr
    assert not files["out"].exists()
    assert run(sound).returncode == 0


def test_folders_of_images_may_differ(toy, tmp_path):
    coco = read_coco(f"{toy}/val.json")
    write_images(coco, tmp_path / "found.json")
    for image in coco["images"]:
        image["file_name"] = f"data\\images/{image['file_name']}"
    check_same_images(tmp_path / "found.json", coco["images"], "val.json")
    coco["images"][0]["file_name"] = "x" + coco["images"][0]["file_name"][-4:]
    with pytest.raises(UserError):
        check_same_images(tmp_path / "found.json", coco["images"], "val.json")


def test_out_of_fold_score(run, toy, results, tmp_path):
    coco = read_coco(f"{toy}/val.json")
    found = json.loads(results["even"].read_text())
    pairs = []
    for fold in range(2):
        images = coco["images"][fold::2]
        ids = {image["id"] for image in images}
        part = {
            "images": images,
            "annotations": [a for a in coco["annotations"] if a["image_id"] in ids],
            "categories": coco["categories"],
        }
        (tmp_path / f"val{fold}.json").write_text(json.dumps(part))
        mine = [r for r in found if r["image_id"] in ids]
        (tmp_path / f"found{fold}.json").write_text(json.dumps(mine))
        pairs += [tmp_path / f"found{fold}.json", tmp_path / f"val{fold}.json"]
    assert run(score_results, *pairs) == run(score_results, results["even"], f"{toy}/val.json")
    error = run(score_results, *pairs[:2], *pairs[:2], code=2)
    assert "is in" in error and "Traceback" not in error
