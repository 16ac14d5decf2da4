"""tools/report.py: each planted error is told by its name, and every figure is counted twice."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import report as tool
from conftest import PROJECT_ROOT, read_wandb_records, read_wandb_rows
from detection.data import coco as annotations
from detection.evaluation import error_analysis, matching
from detection.evaluation.average_precision import average_precision, evaluate
from detection.workshop.reports.errors import class_names
from detection.workshop.reports.page import PageBox, picture
from detection.workshop.reports.worst_images import worst_images
from hypothesis import given, settings
from hypothesis import strategies as st
from page_reader import Page
from wandb_server import WandbServer

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


def test_probable_label_errors_are_shown_and_written(planted, page):
    rows = (planted / "label_errors.csv").read_text(encoding="utf-8-sig").splitlines()[1:]
    section = page.text.partition("Probable label errors")[2].rpartition("Made by")[0]
    assert len(rows) == len(re.findall(r"\d\. \w+ \w+: ", section))
    assert rows[0].startswith(f",1,wrong label,0.900,1.png,10,1,{NAMES[0]},")
    assert any("missing box,0.600,4.png" in row for row in rows)


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
    assert rows["background"] == rows["duplicate"] == [""] * 4


def test_a_surer_detection_of_another_class_leaves_a_box_to_its_own(tmp_path):
    coco, box = make_coco(1), [10.0, 10.0, 20.0, 20.0]
    annotate(coco, 0, PAPER, box)
    results = [detection(0, PAPER, box, 0.9), detection(0, GLASS, box, 0.95)]
    page = page_of(coco, results, tmp_path)
    rows = page.rows("confusion")
    assert rows[NAMES[0]] == ["", "1", "1", ""]
    assert rows["background"] == rows["duplicate"] == [""] * 4
    # as the tables beside it say
    assert page.rows("classes")[NAMES[0]][3:6] == ["1", "1", "1"]
    assert [page.rows("kinds")[k][1] for k in ("classification", "background")] == ["1", "0"]


def page_of(coco: dict, results: list[dict], folder: Path) -> Page:
    arguments = [save(results, folder / "r.json"), save(coco, folder / "c.json"), "--count", "0"]
    assert tool.main([*arguments, "--output", str(folder / "page.html")]) == 0
    return Page(folder / "page.html", "worst")


SIDES = st.sampled_from([10.0, 12.0, 16.0])
PLACES = st.sampled_from([0.0, 3.0, 6.0, 20.0])
BOXES = st.tuples(st.integers(0, 1), st.sampled_from(IDS), PLACES, PLACES, SIDES, SIDES)
SCORES = st.sampled_from([0.05, 0.3, 0.5, 0.55, 0.804, 0.9, 1.0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(BOXES, st.integers(0, 4)), min_size=1, max_size=8),
    st.lists(st.tuples(BOXES, SCORES), min_size=1, max_size=12),
)
def test_confusion_agrees_with_the_tables_beside_it(planted, annotated, detected):
    coco, results = make_coco(2), []
    for (image, category, *box), crowd in annotated:
        annotate(coco, image, category, box, iscrowd=int(crowd == 4))
    if all(a["iscrowd"] for a in coco["annotations"]):
        coco["annotations"][0]["iscrowd"] = 0
    for (image, category, *box), score in detected:
        results.append(detection(image, category, box, score))
    page = page_of(coco, results, planted)
    keep = float(re.search(r"Detections with a score of (\S+) and up", page.text)[1])
    rows = page.rows("confusion")
    matrix = np.array([[int(cell or 0) for cell in row] for row in rows.values()])
    assert matrix.tolist() == counted_by_hand(coco, results, keep).tolist()

    classes, right = page.rows("classes"), np.diag(matrix)[:3]
    for name, found, lone in zip(rows, right, matrix[:3, 3], strict=False):
        boxes, _, ever_found = (int(v) for v in classes[name][3:6])
        assert found <= ever_found <= boxes and found + lone <= boxes
    if right.sum():
        boxes, *_, precision, recall = classes["all"][3:]
        assert f"{right.sum() / matrix[:, :3].sum():.2f}" == precision
        assert f"{right.sum() / int(boxes):.2f}" == recall
    assert matrix[3:, 3].tolist() == [0, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(BOXES, st.integers(0, 3)), min_size=1, max_size=8),
    st.lists(st.tuples(BOXES, SCORES), min_size=1, max_size=12),
)
def test_correct_and_ignored_equal_a_matching_by_hand(annotated, detected):
    coco = make_coco(2)
    for (image, category, *box), crowd in annotated:
        annotate(coco, image, category, box, iscrowd=int(crowd == 3))
    results = [detection(image, c, box, score) for (image, c, *box), score in detected]
    expected = matched_by_hand(coco, results)
    matches = matching.match(coco, results)
    assert [matching.KINDS[k] if k in (0, 6) else "" for k in matches.kinds] == expected


@pytest.mark.parametrize("crowds", [0, 3])
def test_correct_and_ignored_of_many_boxes_equal_a_matching_by_hand(crowds):
    coco, results = random_case(seed=1)
    for annotation in coco["annotations"][: 20 * crowds]:
        annotation["iscrowd"] = int(annotation["id"] % crowds == 0)
    results += [detection(0, PAPER, [1.0, 1.0, 5.0, 5.0], 0.5)] * 120  # COCO counts 100 of a class
    matches = matching.match(coco, results)
    kinds = [matching.KINDS[k] if k in (0, 6) else "" for k in matches.kinds]
    assert kinds == matched_by_hand(coco, results)
    assert min(kinds.count("correct"), kinds.count("ignored")) >= 20


def matched_by_hand(coco: dict, results: list[dict]) -> list[str]:
    """Of each detection "correct", "ignored" or ""; a slow COCO at IoU 0.5."""
    kinds, taken, counts = [""] * len(results), set(), Counter()
    for position in sorted(range(len(results)), key=lambda k: -results[k]["score"]):
        found = results[position]
        group = found["image_id"], found["category_id"]
        counts[group] += 1
        if counts[group] > 100:
            kinds[position] = "ignored"
            continue
        own = [a for a in coco["annotations"] if (a["image_id"], a["category_id"]) == group]
        free = [a for a in own if not a.get("iscrowd") and a["id"] not in taken]
        # of equals the last, as COCO does
        best = max(free[::-1], key=lambda a: iou_of(found["bbox"], a["bbox"]), default=None)
        inside = [
            shared_area(found["bbox"], a["bbox"]) / (found["bbox"][2] * found["bbox"][3])
            for a in own
            if a.get("iscrowd")
        ]
        if best and iou_of(found["bbox"], best["bbox"]) >= 0.5:
            taken.add(best["id"])
            kinds[position] = "correct"
        elif max(inside, default=0) >= 0.5:
            kinds[position] = "ignored"
    return kinds


def test_confusion_of_many_boxes_equals_a_count_by_hand():
    coco, results = random_case(seed=3)
    confusion = error_analysis.confusion(matching.match(coco, results), 3, 0.4)
    assert confusion.tolist() == counted_by_hand(coco, results, 0.4).tolist()


def counted_by_hand(coco: dict, results: list[dict], keep: float) -> np.ndarray:
    """(5, 4): classes by id, duplicates, background; classes by id, boxes with no detection."""
    counted = np.zeros((5, 4), int)
    column = {id_: rank for rank, id_ in enumerate(sorted(IDS))}
    for image in coco["images"]:
        boxes = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        real = [a for a in boxes if not a.get("iscrowd")]
        crowds = [a for a in boxes if a.get("iscrowd")]
        found = [r for r in results if r["image_id"] == image["id"] and r["score"] >= keep]
        found.sort(key=lambda r: -r["score"])
        taken, left = [], []  # ids of annotations; detections

        def on(r, candidates, is_own, is_free=None):
            """Those of its class, or of others, that it covers, the best one first."""
            overlaps = [
                (iou_of(r["bbox"], a["bbox"]), a)
                for a in candidates
                if (a["category_id"] == r["category_id"]) == is_own
                and is_free in (None, a["id"] not in taken)  # noqa: B023
            ]
            return [a for iou, a in sorted(overlaps, key=lambda o: -o[0]) if iou >= 0.5]

        for r in found:
            # of equals the last, as COCO does
            if own := on(r, real[::-1], True, is_free=True):
                taken.append(own[0]["id"])
                counted[column[r["category_id"]], column[r["category_id"]]] += 1
            elif not any(
                a["category_id"] == r["category_id"]
                and shared_area(r["bbox"], a["bbox"]) >= 0.5 * r["bbox"][2] * r["bbox"][3]
                for a in crowds
            ):
                left.append(r)
        for r in left:
            other = on(r, real, False, is_free=True) or on(r, real, False)
            row = 3 if on(r, real, True) else 4
            if other:
                taken.append(other[0]["id"])
                row = column[other[0]["category_id"]]
            counted[row, column[r["category_id"]]] += 1
        for a in real:
            counted[column[a["category_id"]], 3] += a["id"] not in taken
    return counted


def test_names_on_a_picture_are_whole_and_not_over_another():
    bboxes = {"first": (10, 50, 10, 40), "second": (12, 51, 18, 39)}
    bboxes |= {"a long name 0.99": (55, 20, 25, 20), "마지막 이름": (90, 80, 9, 10)}
    boxes = [PageBox(0, bbox, text, is_named=True) for text, bbox in bboxes.items()]
    boxes[0] = boxes[0]._replace(is_odd=True)
    drawing = picture(None, (100, 100), boxes, "")
    names = re.findall(r'<text x="(\S+)" y="(\S+)">(.*?)</text>', drawing)
    assert {text for *_, text in names} == set(bboxes) - {"second"}
    for x, _, text in names:  # letters of 14 px are about so wide
        assert 0 <= float(x) <= 420 - sum(8 if c.isascii() else 14 for c in text)


def test_page_needs_nothing_else(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "img")
        for key in ("src", "href", "xlink:href", "srcset"):
            is_link = (tag, key) == ("a", "href")  # followed by a click alone
            assert is_link or attributes.get(key, "#").startswith(("data:", "#"))
        if tag == "svg" and "aria-hidden" not in attributes:
            assert attributes["aria-label"]
    assert EVIL in page.text and "{{ glass }}" in page.text
    assert "<img" not in page.html


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kinds_are_counted_as_tide_counts_them(seed):
    coco, results = random_case(seed)
    matches = matching.match(coco, results)
    counts = np.bincount(matches.kinds, minlength=len(matching.KINDS))
    expected = {c.name: c.count for c in error_analysis.error_costs(evaluate(coco, results))}
    own = dict(zip(["correct", "classification", "localisation", "both"], counts, strict=False))
    assert own.pop("correct") == matches.found.sum() > 0
    own |= {"duplicate": counts[4], "background": counts[5], "missed": matches.missed.sum()}
    assert own == expected
    assert min(counts[:6]) > 0  # each kind occurs


def test_costs_are_what_ap50_gains_without_the_errors():
    coco, results = random_case(seed=5)
    matches = matching.match(coco, results)
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


def iou_of(a: list, b: list) -> float:
    shared = shared_area(a, b)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def shared_area(a: list, b: list) -> float:
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(wide, 0) * max(high, 0)


def test_thresholds_and_calibration_equal_a_count_by_hand():
    coco, results = random_case(seed=4)
    matches = matching.match(coco, results)
    truth, detections, correct = *(matches.truth, matches.detections), matches.kinds == 0
    _, of_classes = error_analysis.thresholds(matches, 3)
    for label, best in enumerate(of_classes):
        own, boxes = detections.labels == label, (truth.labels == label).sum()
        f1 = {}
        for score in detections.scores[own]:
            kept = own & (detections.scores >= score)
            f1[score] = 2 * correct[kept].sum() / (kept.sum() + boxes)
        assert best.score == max(f1, key=f1.get) and best.f1 == pytest.approx(max(f1.values()))
    # what the pages take for the calibration
    by_hotcoco = evaluate(coco, results).calibration()
    places, gaps = np.minimum(detections.scores * 10, 9).astype(int), 0.0
    for place, by_them in enumerate(by_hotcoco["bins"]):
        own = places == place
        assert by_them["count"] == own.sum()
        gaps += abs(detections.scores[own].sum() - correct[own].sum())
    assert by_hotcoco["ece"] == pytest.approx(gaps / len(results))


@pytest.mark.parametrize(
    ("high", "low", "verdict", "other"),
    [
        # (score, correct, wrong): the low ones alone would say the opposite
        ((0.6, 10, 0), (0.05, 0, 400), "underconfident", "overconfident"),
        ((0.95, 12, 8), (0.05, 30, 170), "overconfident", "underconfident"),
    ],
)
def test_confidence_is_judged_by_the_detections_that_are_used(tmp_path, high, low, verdict, other):
    coco, results = make_coco(50), []
    for score, correct, wrong in (high, low):
        for _ in range(correct):
            image = len(coco["annotations"])
            annotate(coco, image, PAPER, [10.0, 10.0, 20.0, 20.0])
            results.append(detection(image, PAPER, [10.0, 10.0, 20.0, 20.0], score))
        for number in range(wrong):
            results.append(detection(number % 50, PAPER, [60.0, 60.0, 20.0, 20.0], score))
    page = page_of(coco, results, tmp_path)
    score, correct, wrong = high
    part = correct / (correct + wrong)
    (told,) = [t for t in page.text.split(". ") if "the model is" in t and "mean" in t]
    assert f"score of {score:.2f} and up have a mean score of {score:.2f}" in told
    assert f"{part:.2f} of them are correct" in told
    assert verdict in told and other not in told
    assert f"scores are {100 * abs(score - part):.1f} points off" in page.text


def test_crowd_regions_are_neither_missed_nor_background():
    coco = make_coco(1)
    annotate(coco, 0, PAPER, [0.0, 0.0, 80.0, 80.0], iscrowd=1)
    annotate(coco, 0, BAD, [85.0, 85.0, 10.0, 10.0])
    results = [detection(0, PAPER, [20.0, 20.0, 10.0, 10.0], 0.9)]
    matches = matching.match(coco, results)
    assert matches.kinds.tolist() == [matching.IGNORED]
    assert matches.missed.tolist() == [False, True]
    assert error_analysis.image_costs(matches).tolist() == [1.0]


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


def test_report_of_a_run_with_other_classes_is_refused(planted, run_folder, capsys):
    arguments = [str(planted / "results.json"), str(planted / "val.json"), "--run", str(run_folder)]
    best = {"metric": "bbox/AP", "value": 1.0, "iteration": 19}
    record = run_folder / "model_best.json"
    record.write_text(json.dumps({**best, "thing_classes": NAMES[::-1]}))
    assert tool.main([*arguments, "--image-root", str(planted)]) == 0
    record.write_text(json.dumps({**best, "thing_classes": [*NAMES[:2], "renamed"]}))
    (run_folder / "report.html").unlink()
    capsys.readouterr()
    assert tool.main(arguments) == 2
    error = capsys.readouterr().err
    assert "'renamed'" in error and repr(NAMES[2]) in error and len(error.splitlines()) == 1
    assert not (run_folder / "report.html").exists()


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
    code = "import sys, detection.data.coco as a, tools.report as t; "
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


def test_worst_images_for_a_table_are_bounded_and_counted(planted):
    coco, results = (
        json.loads((planted / name).read_text(encoding="utf-8"))
        for name in ("val.json", "results.json")
    )
    annotate(coco, 1, PAPER, [0, 0, 90, 90], iscrowd=1)
    (planted / "6.png").rename(planted / "6.old")
    try:
        names = class_names(coco)
        args = coco, names, matching.match(coco, results), str(planted), 4, 0.5
        first, second, both = worst_images(*args, max_side=32)
    finally:
        (planted / "6.old").rename(planted / "6.png")
    assert [i.file_name for i in (first, second, both)] == ["1.png", "2.png", "5.png"]
    assert (first.false_positives, first.misses, len(first.truth)) == (1, 1, 1)
    assert first.pixels.shape == (32, 32, 3) and first.size == (SIDE, SIDE)
    (box,), (found,) = first.truth, first.detections
    assert box.corners == found.corners == (10, 10, 30, 30) and found.score == 0.9
    assert names[box.label] == NAMES[0] and names[found.label] == EVIL


@pytest.mark.slow
def test_the_same_figures_go_to_wandb(planted, run_folder):
    process = send(planted, run_folder, MODE="offline")
    assert process.returncode == 0, process.stderr
    assert "W&B: offline run; `wandb sync" in process.stdout
    page = Page(run_folder / "report.html", "worst")
    (part,) = (run_folder / "wandb").glob("offline-run-*")
    row, *more = read_wandb_rows(part)
    row = {k: v for part_ in (row, *more) for k, v in part_.items()}

    assert row["report/AP50"] == pytest.approx(float(page.rows("classes")["all"][1]), abs=0.05)
    assert row[f"report/AP-{NAMES[2]}"] == pytest.approx(100)
    cost = float(page.rows("kinds")["missed"][0])
    assert row["report/cost/missed"] == pytest.approx(cost, abs=0.05)
    tables = {}
    for name in ("classes", "errors", "sizes", "calibration", "confusion_table"):
        table = json.loads((part / "files" / row[f"report/{name}.path"]).read_text())
        tables[name] = {line[0]: line[1:] for line in table["data"]}
    assert tables["classes"][NAMES[2]] == pytest.approx([100, 100, 100, 1, 3, 1, 0.95, 1])
    assert tables["classes"][EVIL][-2:] == [None, None]
    assert tables["errors"]["missed"][0] == 2
    assert tables["sizes"]["small"][0] == 10 and len(tables["calibration"]) == 10
    assert [NAMES[0], "background", 3] in table["data"]
    assert "report/precision_recall_table.path" in row
    assert row["report/worst_images._type"] == "table-file"
    (file,) = part.glob("*.wandb")
    logged = [r.artifact for r in read_wandb_records(file) if r.HasField("artifact")]
    (logged,) = [artifact for artifact in logged if "worst_images" in artifact.name]
    files = {entry.path: Path(entry.local_path) for entry in logged.manifest.contents}
    (name,) = [name for name in files if name.endswith(".table.json")]
    table = json.loads(files[name].read_text())
    assert table["columns"] == ["file", "picture", "cost", "false positives", "misses", "boxes"]
    shown = [re.search(r"(\S+) · cost (\S+)", card).groups() for card in page.cards]
    assert [(line[0], f"{line[2]:.2f}") for line in table["data"]] == shown
    lines = {line[0]: line[3:] for line in table["data"]}
    # of detections from the threshold with the best F1 on, 0.95
    assert lines["1.png"] == [0, 1, 1] and lines["6.png"] == [0, 1, 2] and lines["0.png"][1] == 0
    picture = table["data"][0][1]
    assert picture["boxes"].keys() == {"ground_truth", "predictions"}
    assert picture["path"] in files and picture["width"] == SIDE
    column = table["column_types"]["params"]["type_map"]["picture"]["params"]["allowed_types"][0]
    layers = column["params"]["box_class_maps"]["params"]["val"]
    assert layers.keys() == {"ground_truth", "predictions"}
    for labels in layers.values():
        assert list(labels.values()) == [EVIL, NAMES[2], NAMES[0]]
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
    assert "W&B: not all could be sent" not in process.stdout
    names = " ".join(artifact["name"] for artifact in server.artifacts.values())
    assert "reportworst_images" in names and "reportconfusion_table" in names
    assert [row for row in run.rows if "report/worst_images" in row]


@pytest.mark.slow
def test_report_of_a_training_without_wandb_is_one_line(planted, run_folder):
    (run_folder / "config.yaml").write_text("writers: {wandb: null}\n")
    process = send(planted, run_folder)
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert "no W&B project" in process.stderr and "--wandb" in process.stderr
    assert not (run_folder / "report.html").exists()


def test_images_that_are_not_there_are_told(planted, tmp_path, capsys):
    make_page(planted, tmp_path / "r.html", "--image-root", str(tmp_path))
    assert "8 of 8 images are missing or broken" in capsys.readouterr().out


def test_comparison_shows_what_differs_and_what_is_noise(planted, tmp_path):
    coco, old, new = make_coco(40), [], []
    for image in range(40):
        for category, place in zip(IDS, (5.0, 35.0, 65.0), strict=True):
            box = [place, 10.0, 20.0, 20.0]
            annotate(coco, image, category, box)
            # what the old one takes for paper; of glass, either misses one image
            misses = {PAPER: (), BAD: (), GLASS: (3,)}[category]
            new += [] if image in misses else [detection(image, category, box, 0.9)]
            misses = {PAPER: (), BAD: (), GLASS: (4, 5)}[category]
            taken_for = PAPER if category == BAD and image % 2 else category
            old += [] if image in misses else [detection(image, taken_for, box, 0.9)]
    results = [f"old={save(old, tmp_path / 'a.json')}", f"new={save(new, tmp_path / 'b.json')}"]
    output, json_file = tmp_path / "c.html", save(coco, tmp_path / "val.json")
    arguments = ["--compare", *results, json_file, "--output", str(output)]
    assert tool.main(arguments) == 0
    page = Page(output, "worst")
    rows = page.rows("classes")
    boxes, before, after, difference = rows[EVIL]
    told = re.match(r"(\+\d+\.\d)([+-][\d.]+) to ([+-][\d.]+)", difference)
    gain, low, high = map(float, told.groups())
    assert boxes == "40" and gain == pytest.approx(float(after) - float(before), abs=0.11)
    assert 0 < low < gain < high
    assert rows[NAMES[2]][3].endswith("within noise")
    for text in (f"better than old on {EVIL}", f"on {NAMES[2]} the difference is within noise"):
        assert text in page.text
    before, after, difference = map(float, page.rows("kinds")["classification"])
    assert before > 0 and after == 0 and difference == -before


def test_every_column_of_a_comparison_has_its_head(planted, tmp_path):
    results = [f"{name}={planted / 'results.json'}" for name in ("plain", "tta")]
    output = tmp_path / "c.html"
    arguments = ["--compare", *results, str(planted / "val.json"), "--output", str(output)]
    assert tool.main(arguments) == 0
    page = Page(output, "worst")
    for section in ("metrics", "classes", "kinds"):
        head, *rows = page.tables[section]
        assert {len(row) for row in rows} == {len(head)}
        assert head[-2:] == ["tta", "differenceto plain"]
    # of two that are the same none is better
    assert "better" not in page.text.partition("In words")[2].partition("metric")[0]


def test_pages_land_in_the_output_folder(planted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results, json_file = str(planted / "results.json"), str(planted / "val.json")
    for arguments in (
        ["--compare", f"a={results}", f"b={results}", json_file],
        [results, json_file],
    ):
        output = Path(tool.parse_args(arguments).output)
        assert output.parent == PROJECT_ROOT / "output"


@pytest.mark.parametrize("num_classes", [1, 3])
def test_no_class_is_the_worst_where_all_are_the_same(tmp_path, num_classes):
    coco, results = make_coco(3), []
    for image, category in enumerate(IDS[:num_classes]):
        annotate(coco, image, category, [10.0, 10.0, 20.0, 20.0])
        results.append(detection(image, category, [10.0, 10.0, 20.0, 20.0], 0.9))
    page = page_of(coco, results, tmp_path)
    assert {row[0] for row in page.rows("classes").values()} - {"–"} >= {"100.0"}
    assert "worst class" not in page.text


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("results.json", "[]", "has no detections"),
        ("results.json", '[{"image_id": 10, "cat', "is not valid json"),
        ("results.json", json.dumps([detection(77, 7, [0, 0, 1, 1], 0.5)]), "image_id 770 is not"),
        ("results.json", json.dumps([detection(0, 99, [0, 0, 1, 1], 0.5)]), "category_id 99"),
        ("val.json", '{"images": [', "is not valid json"),
        ("val.json", json.dumps(make_coco(2)), "has no annotations"),
    ],
)
def test_bad_input_is_one_line(planted, tmp_path, capsys, name, content, told):
    for file in ("results.json", "val.json"):
        (tmp_path / file).write_bytes((planted / file).read_bytes())
    (tmp_path / name).write_text(content, encoding="utf-8")
    output = tmp_path / "report.html"
    arguments = [str(tmp_path / "results.json"), str(tmp_path / "val.json")]
    assert tool.main([*arguments, "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and name in error and told in error
    assert not output.exists()


def test_malformed_annotation_or_run_is_one_line(planted, tmp_path, capsys):
    coco = json.loads((planted / "val.json").read_text(encoding="utf-8"))
    del coco["annotations"][3]["bbox"]
    arguments = [str(planted / "results.json"), save(coco, tmp_path / "val.json")]
    assert tool.main([*arguments, "--output", str(tmp_path / "r.html")]) == 2
    assert "annotations[3]" in capsys.readouterr().err
    arguments = [str(planted / "results.json"), str(planted / "val.json"), "--run", str(tmp_path)]
    assert tool.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "metrics.json" in error and "--run" in error
