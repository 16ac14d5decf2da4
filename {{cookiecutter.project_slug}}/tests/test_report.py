"""tools/report.py: each planted error is told by its name, and every figure is counted twice."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import PROJECT_ROOT, read_wandb_rows
from page_reader import Page
from wandb_server import WandbServer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import report as tool

from detection import annotations, error_analysis, matching
from detection.average_precision import average_precision, evaluate

EVIL = '<b>&"<img src=http://example.invalid/x.png>'
NAMES = ["종이/박스", EVIL, "{{ glass }}"]
IDS = [7, 0, 3]  # of the categories, in this order in the file
PAPER, BAD, GLASS = IDS
SIDE = 100


@pytest.fixture(autouse=True, scope="module")
def classes():
    """The project's class names are those of these tests, whatever it was made for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotations, "CLASSES", NAMES)
        yield


def make_coco(num_images: int) -> dict:
    images = [
        {"id": 10 * k, "file_name": f"{k}.png", "width": SIDE, "height": SIDE}
        for k in range(num_images)
    ]
    categories = [{"id": id_, "name": name} for id_, name in zip(IDS, NAMES, strict=True)]
    return {"images": images, "categories": categories, "annotations": []}


def annotate(coco: dict, image: int, category: int, bbox: list, **more) -> None:
    annotation = {"id": len(coco["annotations"]), "image_id": 10 * image, "bbox": bbox}
    coco["annotations"].append({**annotation, "category_id": category, **more})


def detection(image: int, category: int, bbox: list, score: float) -> dict:
    return {"image_id": 10 * image, "category_id": category, "bbox": bbox, "score": score}


def random_case(seed: int, num_images: int = 60) -> tuple[dict, list[dict]]:
    """Boxes everywhere and detections of all kinds, no two scores the same."""
    rng = np.random.default_rng(seed)
    coco, results = make_coco(num_images), []
    scores = iter(rng.permutation(np.linspace(0.01, 0.99, 12 * num_images)).tolist())
    for image in range(num_images):
        for _ in range(4):
            place, size = rng.uniform(0, 60, 2), rng.uniform(10, 40, 2)
            annotate(coco, image, int(rng.choice(IDS)), [*place.tolist(), *size.tolist()])
        for _ in range(12):
            near = coco["annotations"][-int(rng.integers(1, 5))]
            box = np.array(near["bbox"]) + rng.normal(0, rng.choice([1, 5, 15]), 4)
            category = near["category_id"] if rng.random() < 0.7 else int(rng.choice(IDS))
            box[2:] = np.abs(box[2:]) + 1
            results.append(detection(image, category, box.tolist(), next(scores)))
    return coco, results


# the image in which each error is, its number, what its card says
PLANTED = {
    "classification": (1, 1, f"classification: {EVIL} 0.90 on a box of {NAMES[0]}, IoU 1.00"),
    "localisation": (2, 1, f"localisation: {NAMES[0]} 0.80 has an IoU of only 0.43 with its box"),
    "duplicate": (3, 1, f"duplicate: {NAMES[0]} 0.70 on a box that is found already"),
    "background": (4, 1, f"background: {NAMES[2]} 0.60 where nothing is annotated"),
    "both": (5, 1, f"both: {NAMES[2]} 0.55 near a box of {NAMES[0]}, IoU 0.43"),
    "missed": (6, 2, f"missed: {EVIL} of 30 × 20 px"),  # the other beside "both"
}


@pytest.fixture(scope="module")
def planted(classes, tmp_path_factory) -> Path:
    """Eight images with a box each that is found, but for one error in each of six."""
    folder = tmp_path_factory.mktemp("오류")
    coco, results = make_coco(8), []
    home = [10.0, 10.0, 20.0, 20.0]
    shifted = [18.0, 10.0, 20.0, 20.0]  # IoU 12 / 28
    for image in range(8):
        cv2.imencode(".png", np.full((SIDE, SIDE, 3), 90, np.uint8))[1].tofile(
            folder / f"{image}.png"
        )
        annotate(coco, image, PAPER, home)
        if image not in (1, 2, 5):
            results.append(detection(image, PAPER, home, 0.99))
    results.append(detection(1, BAD, home, 0.9))
    results.append(detection(2, PAPER, shifted, 0.8))
    results.append(detection(3, PAPER, [10.0, 10.0, 20.0, 18.0], 0.7))
    results.append(detection(4, GLASS, [60.0, 60.0, 20.0, 20.0], 0.6))
    results.append(detection(5, GLASS, shifted, 0.55))
    annotate(coco, 6, BAD, [50.0, 50.0, 30.0, 20.0])
    annotate(coco, 7, GLASS, [50.0, 50.0, 30.0, 30.0])
    results.append(detection(7, GLASS, [50.0, 50.0, 30.0, 30.0], 0.95))
    save(coco, folder / "val.json")
    save(results, folder / "results.json")
    return folder


def save(content, path: Path) -> str:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def page(planted) -> Page:
    return make_page(planted, planted / "report.html")


def make_page(folder: Path, output: Path, *more: str) -> Page:
    arguments = [str(folder / "results.json"), str(folder / "val.json"), "--image-root"]
    assert tool.main([*arguments, str(folder), "--output", str(output), *more]) == 0
    return Page(output, "worst")


def test_every_planted_error_is_told(page):
    kinds = page.rows("kinds")
    for kind, (image, count, told) in PLANTED.items():
        assert kinds[kind][1] == str(count), kind
        (card,) = [card for card in page.cards if f"{image}.png" in card]
        assert told in card


def test_worst_images_come_first_with_what_they_cost(page):
    told = [re.search(r"(\d)\.png · cost (\S+)", card).groups() for card in page.cards]
    # 1 for the box that is not found, and the score of what is false
    costs = {"1": 1.9, "2": 1.8, "5": 1.55, "6": 1.01, "3": 0.71, "4": 0.61, "7": 0.06, "0": 0.01}
    assert told == [(image, f"{cost:.2f}") for image, cost in costs.items()]


def test_classes_in_figures(page):
    rows = page.rows("classes")
    # AP, AP50, AP75, boxes, detections, found, threshold, F1, precision, recall
    assert rows[NAMES[0]][3:] == ["8", "7", "5", "0.99", "0.77", "1.00", "0.62"]
    assert rows[NAMES[2]][3:] == ["1", "3", "1", "0.95", "1.00", "1.00", "1.00"]
    assert rows[NAMES[2]][:3] == ["100.0"] * 3
    assert rows[EVIL][:6] == ["0.0", "0.0", "0.0", "1", "1", "0"]
    assert rows["all"][3:6] == ["10", "11", "6"]
    assert rows["small"][1:] == ["10", rows["small"][2]] and rows["medium"][1:] == ["0", "–"]


def test_confusion_has_rows_of_truth(page):
    rows = page.rows("confusion", with_head=True)
    assert rows["class"] == [EVIL, NAMES[2], NAMES[0], "background"]  # by their ids
    # of scores from 0.95, the best threshold: six correct ones, and no box of the others found
    assert rows[NAMES[0]] == ["", "", "5", "3"]
    assert rows[EVIL] == ["", "", "", "1"]
    assert rows[NAMES[2]] == ["", "1", "", ""]
    assert rows["background"] == [""] * 4


def test_page_needs_nothing_else(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "img")
        for key in ("src", "href", "xlink:href", "srcset"):
            is_link = (tag, key) == ("a", "href")  # followed by a click alone
            assert key not in attributes or is_link or attributes[key].startswith("data:")
        if tag == "svg" and "aria-hidden" not in attributes:
            assert attributes["aria-label"]
    assert EVIL in page.text and "{{ glass }}" in page.text
    assert "<img" not in page.html


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kinds_are_counted_as_tide_counts_them(seed):
    coco, results = random_case(seed)
    truth, detections = matching.to_boxes(coco, results)
    matches = matching.match(truth, detections, len(coco["images"]))
    counts = np.bincount(matches.kinds, minlength=len(matching.KINDS))
    expected = {c.name: c.count for c in error_analysis.error_costs(evaluate(coco, results))}
    own = dict(zip(["correct", "classification", "localisation", "both"], counts, strict=False))
    assert own.pop("correct") == matches.found.sum() > 0
    own |= {"duplicate": counts[4], "background": counts[5], "missed": matches.missed.sum()}
    assert own == expected
    assert min(counts[:6]) > 0  # each kind occurs


def test_costs_are_what_ap50_gains_without_the_errors():
    coco, results = random_case(seed=5)
    truth, detections = matching.to_boxes(coco, results)
    matches = matching.match(truth, detections, len(coco["images"]))
    costs = {c.name: c.cost for c in error_analysis.error_costs(evaluate(coco, results))}
    before = average_precision(coco, results)["AP50"]
    for name, kind in (("background", matching.BACKGROUND), ("duplicate", matching.DUPLICATE)):
        others = [r for r, k in zip(results, matches.kinds, strict=True) if k != kind]
        gain = average_precision(coco, others)["AP50"] - before
        assert costs[name] == pytest.approx(gain) and gain > 0.5
    kept = zip(coco["annotations"], matches.missed, strict=True)
    less = {**coco, "annotations": [a for a, is_missed in kept if not is_missed]}
    gain = average_precision(less, results)["AP50"] - before
    assert costs["missed"] == pytest.approx(gain) and gain > 0


def test_confusion_equals_a_count_by_hand():
    coco, results = random_case(seed=3)
    counted = np.zeros((4, 4), int)
    ranks = {id_: rank for rank, id_ in enumerate(sorted(IDS))}
    for image in coco["images"]:
        free = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        found = [r for r in results if r["image_id"] == image["id"] and r["score"] >= 0.4]
        for r in sorted(found, key=lambda r: -r["score"]):
            ious = [iou_of(r["bbox"], a["bbox"]) for a in free]
            best = int(np.argmax(ious)) if ious and max(ious) >= 0.5 else None
            row = 3 if best is None else ranks[free.pop(best)["category_id"]]
            counted[row, ranks[r["category_id"]]] += 1
        for a in free:
            counted[ranks[a["category_id"]], 3] += 1
    assert error_analysis.confusion(evaluate(coco, results), 0.4).tolist() == counted.tolist()


def iou_of(a: list, b: list) -> float:
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def test_thresholds_and_calibration_equal_a_count_by_hand():
    coco, results = random_case(seed=4)
    truth, detections = matching.to_boxes(coco, results)
    matches = matching.match(truth, detections, len(coco["images"]))
    correct = matches.kinds == matching.CORRECT
    _, of_classes = error_analysis.thresholds(truth, detections, matches, 3)
    for label, best in enumerate(of_classes):
        own, boxes = detections.labels == label, (truth.labels == label).sum()
        f1 = {}
        for score in detections.scores[own]:
            kept = own & (detections.scores >= score)
            f1[score] = 2 * correct[kept].sum() / (kept.sum() + boxes)
        assert best.score == max(f1, key=f1.get) and best.f1 == pytest.approx(max(f1.values()))
    bins = error_analysis.calibration(detections, matches)
    theirs = evaluate(coco, results).calibration(n_bins=10, iou_threshold=0.5)
    assert bins.counts.tolist() == [b["count"] for b in theirs["bins"]]
    assert bins.error == pytest.approx(theirs["ece"])


def test_crowd_regions_are_neither_missed_nor_background():
    coco = make_coco(1)
    annotate(coco, 0, PAPER, [0.0, 0.0, 80.0, 80.0], iscrowd=1)
    annotate(coco, 0, BAD, [85.0, 85.0, 10.0, 10.0])
    results = [detection(0, PAPER, [20.0, 20.0, 10.0, 10.0], 0.9)]
    truth, detections = matching.to_boxes(coco, results)
    matches = matching.match(truth, detections, 1)
    assert matches.kinds.tolist() == [matching.IGNORED]
    assert matches.missed.tolist() == [False, True]
    assert error_analysis.image_costs(truth, detections, matches, 1).tolist() == [1.0]


def test_curves_of_the_run(planted, tmp_path):
    run = tmp_path / "output" / "r50"
    run.mkdir(parents=True)
    rows = [
        {"iteration": 19, "total_loss": 2.5, "loss_cls": 1.5, "bbox/AP": 10.0},
        {"iteration": 39, "total_loss": 9.9, "loss_cls": 9.9},  # before the run was resumed
        {"iteration": 39, "total_loss": 1.5, "loss_cls": 0.5, "bbox/AP": 30.0},
        {"iteration": 59, "total_loss": float("nan"), "loss_cls": 0.25, "bbox/AP": 20.0},
    ]
    text = "\n".join(map(json.dumps, rows)) + '\n{"iteration": 79, "total_lo'  # killed there
    (run / "metrics.json").write_text(text, encoding="utf-8")
    config = f"dataset:\n  val: {{image_root: {json.dumps(str(planted))}}}\n"
    config += "shape: !!python/object/new:detectron2.layers.shape_spec.ShapeSpec [1, 2, 3, 4]\n"
    (run / "config.yaml").write_text(config, encoding="utf-8")
    arguments = [str(planted / "results.json"), str(planted / "val.json"), "--run", str(run)]
    assert tool.main(arguments) == 0
    page = Page(run / "report.html", "worst")
    assert "missing or broken" not in page.text  # the images are where the config has them
    assert "r50: the errors" in page.text
    assert "best evaluation was at iteration 40, AP 30.0; the last at 60, AP 20.0" in page.text
    assert "total_loss from 2.5 to 1.5; loss_cls from 1.5 to 0.25" in page.text


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """The output folder of a training that W&B knows as 1234abcd."""
    run = tmp_path / "output" / "r50"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text('{"iteration": 19, "total_loss": 2.5}\n')
    (run / "wandb_run.json").write_text('{"id": "1234abcd"}\n')
    wandb = "{project: trash, entity: '', mode: null, name: null, init_timeout: 3}"
    (run / "config.yaml").write_text(f"writers:\n  wandb: {wandb}\n")
    return run


def send(planted, run_folder, **settings: str) -> subprocess.CompletedProcess:
    """Make the report in a process of its own, with these settings of W&B's."""
    arguments = [str(planted / "results.json"), str(planted / "val.json"), "--wandb"]
    arguments += ["--run", str(run_folder), "--image-root", str(planted)]
    code = "import sys, detection.annotations as a, tools.report as t; "
    code += f"a.CLASSES = {NAMES!r}; sys.exit(t.main(sys.argv[1:]))"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    environment |= {f"WANDB_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=PROJECT_ROOT,
        env={**environment, "HOME": str(run_folder)},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_same_figures_go_to_wandb(planted, run_folder):
    process = send(planted, run_folder, MODE="offline")
    assert process.returncode == 0, process.stderr
    assert "W&B: offline run; `wandb sync" in process.stdout
    page = Page(run_folder / "report.html", "worst")
    (part,) = (run_folder / "wandb").glob("offline-run-*")
    row, more = read_wandb_rows(part)
    row |= more

    assert row["report/AP50"] == float(page.rows("classes")["all"][1])
    assert row[f"report/AP-{NAMES[2]}"] == 100
    assert row["report/cost/missed"] == float(page.rows("kinds")["missed"][0])
    tables = {}
    for name in ("classes", "errors", "sizes", "calibration", "confusion_table"):
        table = json.loads((part / "files" / row[f"report/{name}.path"]).read_text())
        tables[name] = {line[0]: line[1:] for line in table["data"]}
    assert tables["classes"][NAMES[2]] == [100, 100, 100, 1, 3, 1, 0.95, 1]
    assert tables["classes"][EVIL][-2:] == [None, None]
    assert tables["errors"]["missed"][0] == 2
    assert tables["sizes"]["small"][0] == 10 and len(tables["calibration"]) == 10
    assert [NAMES[0], "background", 3] in table["data"]
    assert "report/precision_recall_table.path" in row
    html = (part / "files" / row["report/page.path"]).read_text(encoding="utf-8")
    assert html == page.html
    # the training's own run is left as it was
    assert json.loads((run_folder / "wandb_run.json").read_text()) == {"id": "1234abcd"}


@pytest.mark.slow
@pytest.mark.parametrize("is_reachable", [True, False])
def test_report_goes_to_a_server_or_waits_for_it(planted, run_folder, is_reachable):
    with WandbServer() as server:
        if not is_reachable:
            server.stop()
        key = "0123456789abcdef" * 2 + "01234567"
        process = send(planted, run_folder, BASE_URL=server.url, API_KEY=key)
    assert process.returncode == 0, process.stderr
    assert (run_folder / "report.html").is_file()
    if not is_reachable:
        assert "going offline; `wandb sync" in process.stdout
        assert list((run_folder / "wandb").glob("offline-run-*"))
        return
    (run,) = server.runs.values()
    assert run.rows[0]["report/AP"] > 0 and run.exit_code == 0
    assert any(name.endswith(".html") for name in run.uploads)
    assert run.upserts[0]["jobType"] == "report" and run.upserts[0]["project"] == "trash"
    # it does without artifacts, which W&B's tables need
    assert "W&B: not all could be sent; `wandb sync" in process.stdout


@pytest.mark.slow
def test_report_of_a_training_without_wandb_is_one_line(planted, run_folder):
    (run_folder / "config.yaml").write_text("writers: {wandb: null}\n")
    process = send(planted, run_folder)
    assert process.returncode == 1 and process.stderr.count("\n") == 1
    assert "no W&B project" in process.stderr and "--wandb" in process.stderr
    assert not (run_folder / "report.html").exists()


def test_images_that_are_not_there_are_told(planted, tmp_path, capsys):
    make_page(planted, tmp_path / "r.html", "--image-root", str(tmp_path))
    assert "8 of 8 images are missing or broken" in capsys.readouterr().out


def test_comparison_shows_what_differs(planted, tmp_path):
    better = json.loads((planted / "results.json").read_text(encoding="utf-8"))
    (confused,) = [r for r in better if r["category_id"] == BAD]
    confused["category_id"] = PAPER
    better.append(detection(6, BAD, [50.0, 50.0, 30.0, 20.0], 0.95))
    results = [f"old={planted / 'results.json'}", f"new={save(better, tmp_path / 'b.json')}"]
    output = tmp_path / "c.html"
    arguments = ["--compare", *results, str(planted / "val.json"), "--output", str(output)]
    assert tool.main(arguments) == 0
    page = Page(output, "worst")
    assert page.rows("classes")[EVIL] == ["1", "0.0", "100.0", "+100.0"]
    assert page.rows("classes")[NAMES[2]] == ["1", "100.0", "100.0", "±0.0"]
    assert f"new is better than old on {EVIL}, {NAMES[0]} and worse on no class" in page.text
    before, after, difference = map(float, page.rows("kinds")["classification"])
    assert before > 0 and after == 0 and difference == -before


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("results.json", "[]", "has no detections"),
        ("results.json", '[{"image_id": 10, "cat', "is no valid json"),
        ("results.json", json.dumps([detection(77, 7, [0, 0, 1, 1], 0.5)]), "image_id 770 is not"),
        ("results.json", json.dumps([detection(0, 99, [0, 0, 1, 1], 0.5)]), "category_id 99"),
        ("val.json", '{"images": [', "is no valid json"),
        ("val.json", json.dumps(make_coco(2)), "has no annotations"),
    ],
)
def test_bad_input_is_one_line(planted, tmp_path, capsys, name, content, told):
    for file in ("results.json", "val.json"):
        (tmp_path / file).write_bytes((planted / file).read_bytes())
    (tmp_path / name).write_text(content, encoding="utf-8")
    output = tmp_path / "report.html"
    arguments = [str(tmp_path / "results.json"), str(tmp_path / "val.json")]
    assert tool.main([*arguments, "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and name in error and told in error
    assert not output.exists()


def test_malformed_annotation_or_run_is_one_line(planted, tmp_path, capsys):
    coco = json.loads((planted / "val.json").read_text(encoding="utf-8"))
    del coco["annotations"][3]["bbox"]
    arguments = [str(planted / "results.json"), save(coco, tmp_path / "val.json")]
    assert tool.main([*arguments, "--output", str(tmp_path / "r.html")]) == 1
    assert "annotations[3]" in capsys.readouterr().err
    arguments = [str(planted / "results.json"), str(planted / "val.json"), "--run", str(tmp_path)]
    assert tool.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "metrics.json" in error and "--run" in error
