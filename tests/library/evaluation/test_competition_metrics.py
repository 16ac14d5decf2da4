"""competition_metrics.py: numbers worked out by hand, and slow rewrites on random data."""

import copy
import itertools
import json
import math
from collections import defaultdict

import numpy as np
import pytest
from detection.evaluation import extra_classes
from detection.evaluation.competition_metrics import (
    DEFAULT_METRIC,
    METRICS,
    find_metric,
)
from detection.evaluation.intervals import difference, resample
from detection.evaluation.metric import best_threshold, value_at
from detection.utils.errors import UserError
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

A, B = [0, 0, 10, 10], [100, 0, 10, 10]  # boxes that do not touch
NAMES = ("can", "box")


def data(*images: tuple) -> tuple[dict, list[dict]]:
    """Images as (annotations, detections): (box, class=0, crowd=0) and (box, score, class=0)."""
    annotations, results = [], []
    for image_id, (truth, found) in enumerate(images):
        for box, label, crowd in ((*t, 0, 0)[:3] for t in truth):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": [float(v) for v in box],
                    "area": float(box[2] * box[3]),
                    "iscrowd": crowd,
                }
            )
        for box, score, label in ((*f, 0)[:3] for f in found):
            record = {"image_id": image_id, "category_id": label, "score": score}
            results.append(record | {"bbox": [float(v) for v in box]})
    coco = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(len(images))],
        "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES)],
        "annotations": annotations,
    }
    return coco, results


def score(name: str, *images: tuple, threshold: float | None = None) -> float:
    return METRICS[name].score(*data(*images), threshold).value


def inside(iou: float) -> list[float]:
    """A part of A whose IoU with it is `iou`."""
    return [0, 0, 10, 10 * iou]


# ---- worked out by hand ----


def test_map50():
    # one of two found, the wrong one first: precision 1/2 up to recall 1/2, so 51 of 101 recalls
    assert score("mAP50", ([(A,), (B,)], [((50, 0, 9, 9), 0.9), (A, 0.8)])) == pytest.approx(
        51 / 101 / 2
    )
    # a second detection of the same box is wrong, but comes after all recall is reached
    assert score("mAP50", ([(A,)], [(A, 0.9), (A, 0.8)])) == 1
    # the better score first, though the other fits better: the second box stays for it
    assert score("mAP50", ([(A,)], [(inside(0.6), 0.9), (A, 0.8)])) == 1
    # what is in a crowd region is neither right nor wrong, and the region is not missed
    images = ([(A,), (B, 0, 1)], [((101, 1, 3, 3), 0.9), ((102, 2, 3, 3), 0.8), (A, 0.7)])
    assert score("mAP50", images) == 1
    # an image without boxes: its detections are wrong; recall 1 at precision 1/2
    assert score("mAP50", ([], [(A, 0.9)]), ([(A,)], [(A, 0.8)])) == pytest.approx(0.5)
    # the mean over classes, of those that have boxes
    metric = METRICS["mAP50"].score(*data(([(A, 0, 0), (B, 1, 0)], [(A, 0.9, 0)])))
    assert metric.value == 0.5 and metric.per_class == {"can": 1, "box": 0}
    assert metric.threshold is None
    only = METRICS["mAP50"].score(*data(([(A,)], [(A, 0.9, 0), (B, 0.99, 1)])))
    assert only.value == 1 and only.per_class == {"can": 1}


def test_coco_ap():
    # IoU 0.8: found at 0.5, 0.55 … 0.8, seven of ten thresholds
    assert score("coco_AP", ([(A,)], [(inside(0.8), 0.9)])) == pytest.approx(0.7)
    assert score("coco_AP", ([(A,)], [(A, 0.1)])) == 1
    assert score("coco_AP", ([(A,)], [])) == 0
    assert math.isnan(score("coco_AP", ([], [(A, 0.1)])))


def test_wheat():
    # three of the six thresholds 0.5 … 0.75 are reached by IoU 0.6
    assert score("wheat_mAP", ([(A,)], [(inside(0.6), 0.9)])) == pytest.approx(3 / 6)
    # TP 1, FP 1, FN 1 at all thresholds
    assert score("wheat_mAP", ([(A,), (B,)], [((50, 0, 9, 9), 0.9), (A, 0.9)])) == pytest.approx(
        1 / 3
    )
    # a duplicate is a false positive: 1 / 2; at a threshold above its score it is not there
    duplicates = ([(A,)], [(A, 0.9), (A, 0.3)])
    assert score("wheat_mAP", duplicates, threshold=0.1) == pytest.approx(0.5)
    assert score("wheat_mAP", duplicates, threshold=0.5) == 1
    # the mean is over images, however many boxes each has: (1 + 0) / 2
    assert score("wheat_mAP", ([(A,), (B,)], [(A, 0.9), (B, 0.9)]), ([(A,)], [])) == 0.5
    # the file names no class, so any class will do
    assert score("wheat_mAP", ([(A, 1, 0)], [(A, 0.9, 0)])) == 1
    # in a crowd region: neither TP nor FP
    crowd = ([(A,), (B, 0, 1)], [(A, 0.9), ((101, 1, 3, 3), 0.95)])
    assert score("wheat_mAP", crowd, threshold=0) == 1


def test_rsna():
    # five of the eight thresholds 0.4 … 0.75 are reached by IoU 0.6
    found = ([(A,)], [(inside(0.6), 0.9)])
    assert score("rsna_mAP", found) == pytest.approx(5 / 8)
    # an image without boxes and detections is left out of the mean; with a detection it is 0
    assert score("rsna_mAP", ([(A,)], [(A, 0.9)]), ([], [])) == 1
    empty = ([(A,)], [(A, 0.9)]), ([], [(A, 0.4), (B, 0.3)])
    assert score("rsna_mAP", *empty, threshold=0.2) == 0.5
    assert score("rsna_mAP", *empty, threshold=0.5) == 1
    # an image with boxes and no detections is 0, and counts
    assert score("rsna_mAP", ([(A,)], [(A, 0.9)]), ([(A,)], [])) == 0.5
    assert math.isnan(score("rsna_mAP", ([], []), ([], [])))


def test_cots():
    # TP 1, FP 2, FN 1: 5 / (5 + 4 + 2)
    wrong = [((50, 0, 9, 9), 0.9), ((70, 0, 9, 9), 0.9)]
    assert score("cots_F2", ([(A,), (B,)], [(A, 0.9), *wrong])) == pytest.approx(5 / 11)
    # IoU 0.5: five of the eleven thresholds 0.3 … 0.8, where F2 is 1
    assert score("cots_F2", ([(A,)], [(inside(0.5), 0.9)])) == pytest.approx(5 / 11)
    # the counts are over all images: TP 1, FN 1 in the one, FP 1 in the other; 5 / (5 + 4 + 1)
    assert score("cots_F2", ([(A,), (B,)], [(A, 0.9)]), ([], [(A, 0.9)])) == pytest.approx(0.5)
    # two equal scores come and go together: 5 / (5 + 1), not 1
    assert score("cots_F2", ([(A,)], [(A, 0.9), (B, 0.9)])) == pytest.approx(5 / 6)
    # each takes the best box that is left: the first takes A, so the second has B
    close = [0, 2, 10, 10]
    assert score("cots_F2", ([(A,), (close,)], [(A, 0.9), (inside(0.9), 0.8)])) < 1
    assert score("cots_F2", ([(A,)], [])) == 0


def test_vinbigdata():
    # PASCAL VOC 2010: the exact area; the wrong one first gives precision 1/2 at recall 1/2
    images = ([(A,), (B,)], [((50, 0, 9, 9), 0.9), (A, 0.8)])
    assert score("vinbigdata_mAP40", images) == pytest.approx(0.25)
    # IoU 0.4 is enough
    assert score("vinbigdata_mAP40", ([(A,)], [(inside(0.4), 0.9)])) == 1
    assert score("vinbigdata_mAP40", ([(A,)], [(inside(0.39), 0.9)])) == 0
    # "No finding": one image has none and gets none; the other's box is found: both classes 1
    result = METRICS["vinbigdata_mAP40"].score(*data(([(A,)], [(A, 0.9)]), ([], [])))
    assert result.per_class == {"can": 1, "No finding": 1} and result.value == 1
    # a detection in the image without boxes costs that class all: (1/2 … first wrong + 0) / 2
    assert score("vinbigdata_mAP40", ([(A,)], [(A, 0.8)]), ([], [(A, 0.9)])) == pytest.approx(
        (0.5 + 0) / 2
    )
    # nothing detected where there is something: No finding has precision 1/2 at recall 1
    half = ([(A,)], []), ([], [])
    assert score("vinbigdata_mAP40", *half) == pytest.approx((0 + 0.5) / 2)
    # VOC: the second detection wants the box that is taken, and is wrong; COCO gives it the other
    near = [0, 1, 10, 10]
    taken = ([(A,), (near,)], [(A, 0.9), (inside(1), 0.8)])
    assert score("vinbigdata_mAP40", taken) == pytest.approx(0.5)
    assert score("mAP50", taken) == 1


def test_siim():
    assert score("siim_mAP50", ([(A,)], [(inside(0.5), 0.9)])) == 1
    assert score("siim_mAP50", ([(A,)], [(inside(0.4), 0.9)])) == 0
    result = METRICS["siim_mAP50"].score(*data(([(A,)], [(A, 0.9)]), ([], [])))
    assert result.per_class == {"can": 1, "none": 1}


@pytest.fixture
def hierarchy(tmp_path, monkeypatch):
    """Writes a hierarchy json, and lets the metric find it."""
    file = tmp_path / "hierarchy.json"
    monkeypatch.setattr(extra_classes, "HIERARCHY", str(file))

    def write(content) -> str:
        file.write_text(json.dumps(content))
        return str(file)

    return write


def test_open_images(hierarchy):
    plain = ([(A, 0, 0)], [(A, 0.9, 0)])
    assert METRICS["open_images_mAP50"].score(*data(plain)).per_class == {"can": 1}
    # a can is a box too; a box is not a can
    hierarchy({"LabelName": "thing", "Subcategory": [{"LabelName": "box", "Subcategory": [
        {"LabelName": "can"}]}]})  # fmt: skip
    metric = METRICS["open_images_mAP50"]
    assert metric.score(*data(plain)).per_class == {"can": 1, "box": 1}
    assert metric.score(*data(([(A, 1, 0)], [(A, 0.9, 0)]))).per_class == {"box": 1}
    assert metric.score(*data(([(A, 0, 0)], [(A, 0.9, 1)]))).per_class == {"can": 0, "box": 1}
    # what is expanded already is not doubled
    coco, results = data(([(A, 0, 0), (B, 0, 0)], [(A, 0.9, 0), (A, 0.9, 1), (B, 0.8, 0)]))
    assert metric.score(coco, results).value == 1


def test_open_images_groups():
    # a group is found by the best inside it, the others inside count nothing
    group = ([(A, 0, 1), (B, 0, 0)], [((1, 1, 3, 3), 0.9), ((5, 5, 3, 3), 0.8), (B, 0.7)])
    assert score("open_images_mAP50", group) == 1
    # a group in which nothing is found is missed
    assert score("open_images_mAP50", ([(A, 0, 1), (B, 0, 0)], [(B, 0.9)])) == 0.5
    # a class that nobody looked for in an image is not judged there
    coco, results = data(([(A, 0, 0)], [(A, 0.8, 0)]), ([], [(A, 0.9, 0)]))
    assert METRICS["open_images_mAP50"].score(coco, results).value == 0.5
    coco["images"][1]["neg_category_ids"] = [1]
    assert METRICS["open_images_mAP50"].score(coco, results).value == 1


def test_a_hierarchy_that_does_not_know_a_class(hierarchy):
    coco, results = data(([(A,)], [(A, 0.9)]))
    for content in ({"LabelName": "can"}, [1], {"Subcategory": []}):
        file = hierarchy(content)
        with pytest.raises(UserError) as e:
            METRICS["open_images_mAP50"].score(coco, results)
        assert file in str(e.value) and "\n" not in str(e.value)
        assert ("'box'" in str(e.value)) == (content == {"LabelName": "can"})


def test_custom_is_an_example():
    right, wrong = ([(A,)], [(A, 0.9), (B, 0.2)]), ([], [(A, 0.9)])
    assert score("custom", right, wrong) == 0.5
    with pytest.raises(UserError, match=r"mAP51.*mAP50"):
        find_metric("mAP51")


# ---- slow rewrites on random data ----


BOXES = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 6)] * 2)
TRUTH = st.tuples(BOXES, st.integers(0, 1), st.sampled_from([0, 0, 0, 0, 1]))
FOUND = st.tuples(BOXES, st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.7, 0.9]), st.integers(0, 1))
IMAGES = st.lists(
    st.tuples(st.lists(TRUTH, max_size=5), st.lists(FOUND, max_size=8)), min_size=1, max_size=5
)


def by_image(coco: dict, results: list[dict], one_class: bool) -> dict:
    """{(image, class): (boxes, crowds, detections by descending score)}."""
    groups = defaultdict(lambda: ([], [], []))
    for a in coco["annotations"]:
        key = a["image_id"], 0 if one_class else a["category_id"]
        groups[key][1 if a["iscrowd"] else 0].append(a["bbox"])
    for r in results:
        groups[r["image_id"], 0 if one_class else r["category_id"]][2].append(r)
    for _, _, found in groups.values():
        found.sort(key=lambda r: -r["score"])
    return groups


def area_shared(a, b) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def iou_of(a, b) -> float:
    shared = area_shared(a, b)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def slow_counts(boxes, crowds, found, t: float) -> tuple[int, int, int]:
    """TP, FP, FN of an image."""
    left, tp, fp = list(boxes), 0, 0
    for r in found:
        best = max(left, key=lambda box: iou_of(box, r["bbox"]), default=None)
        if best is not None and iou_of(best, r["bbox"]) >= t:
            # of equals the last
            same = [
                k for k, b in enumerate(left) if iou_of(b, r["bbox"]) == iou_of(best, r["bbox"])
            ]
            del left[same[-1]]
            tp += 1
        elif not any(
            area_shared(c, r["bbox"]) / (r["bbox"][2] * r["bbox"][3]) >= t for c in crowds
        ):
            fp += 1
    return tp, fp, len(left)


def slow_point_metric(name: str, coco: dict, results: list[dict], threshold: float) -> float:
    first, last = {"wheat_mAP": (50, 75), "rsna_mAP": (40, 75), "cots_F2": (30, 80)}[name]
    kept = [r for r in results if r["score"] >= threshold]
    groups = by_image(coco, kept, one_class=True)
    values = []
    for t in np.arange(first, last + 1, 5) / 100:
        counts = [slow_counts(*groups[i["id"], 0], t) for i in coco["images"]]
        if name == "cots_F2":
            tp, fp, fn = map(sum, zip(*counts, strict=True))
            values.append(tp / (tp + 0.8 * fn + 0.2 * fp) if tp + fn else math.nan)
        else:
            ratios = [tp / (tp + fp + fn) for tp, fp, fn in counts if tp + fp + fn]
            values.append(sum(ratios) / len(ratios) if ratios else math.nan)
    return float(np.mean(values))


@settings(max_examples=60, deadline=None)
@given(images=IMAGES, name=st.sampled_from(["wheat_mAP", "rsna_mAP", "cots_F2"]))
def test_point_metrics_equal_a_slow_rewrite_at_each_threshold(images, name):
    coco, results = data(*images)
    metric = METRICS[name]
    assignment = metric.assign(coco, results)
    curve = metric.curve(assignment, np.ones(len(images)))
    thresholds = sorted({0.0, 0.05, 0.3, 2.0, *(r["score"] for r in results)})
    expected = [slow_point_metric(name, coco, results, t) for t in thresholds]
    values = [value_at(assignment, curve, t) for t in thresholds]
    assert values == pytest.approx(expected, abs=1e-12, nan_ok=True)
    best = metric.score(coco, results)
    if not math.isnan(best.value):
        assert best.value == pytest.approx(np.nanmax(expected), abs=1e-12)
        again = slow_point_metric(name, coco, results, best.threshold)
        assert again == pytest.approx(best.value, abs=1e-12)


def slow_voc(coco: dict, results: list[dict], t: float, groups_count: bool = False) -> dict:
    """{class: AP} as PASCAL VOC 2010's devkit computes it, with crowds as difficult objects."""
    values = {}
    for category in coco["categories"]:
        k = category["id"]
        truth = [a for a in coco["annotations"] if a["category_id"] == k]
        positives = sum(groups_count or not a["iscrowd"] for a in truth)
        if not positives:
            continue
        taken, points, tp, fp = set(), [], 0, 0
        own = [r for r in results if r["category_id"] == k]
        for r in sorted(own, key=lambda r: (-r["score"], r["image_id"])):
            there = [a for a in truth if a["image_id"] == r["image_id"]]
            plain = [a for a in there if not a["iscrowd"]]
            best = max(plain, key=lambda a: iou_of(a["bbox"], r["bbox"]), default=None)
            is_near = best is not None and iou_of(best["bbox"], r["bbox"]) >= t
            area = r["bbox"][2] * r["bbox"][3]
            crowds = [a for a in there if a["iscrowd"]]
            crowds = [a for a in crowds if area_shared(a["bbox"], r["bbox"]) / area >= t]
            if is_near and best["id"] not in taken:
                taken.add(best["id"])
                tp += 1
            elif crowds:
                crowd = max(crowds, key=lambda a: area_shared(a["bbox"], r["bbox"]))
                if groups_count and crowd["id"] not in taken:
                    taken.add(crowd["id"])
                    tp += 1
            else:
                fp += 1
            points.append((tp / positives, tp / (tp + fp) if tp + fp else 0))
        recalls = [0, *sorted({recall for recall, _ in points})]
        values[category["name"]] = sum(
            (high - low) * max(p for recall, p in points if recall >= high)
            for low, high in itertools.pairwise(recalls)
        )
    return values


@settings(max_examples=60, deadline=None)
@given(images=IMAGES)
def test_voc_equals_a_slow_rewrite(images):
    coco, results = data(*images)
    plain = METRICS["open_images_mAP50"].score(coco, results).per_class
    assert plain == pytest.approx(slow_voc(coco, results, 0.5, groups_count=True), abs=1e-12)
    for name, nothing, t in (("vinbigdata_mAP40", "No finding", 0.4), ("siim_mAP50", "none", 0.5)):
        with_none = copy.deepcopy(coco), copy.deepcopy(results)
        with_none[0]["categories"].append({"id": 9, "name": nothing})
        for i in range(len(images)):
            for records in (with_none[0]["annotations"], with_none[1]):
                if all(r["image_id"] != i for r in records):
                    none = {"image_id": i, "category_id": 9, "bbox": [0, 0, 1, 1]}
                    records.append({**none, "id": 1000 + i, "iscrowd": 0, "score": 1})
        expected = slow_voc(*with_none, t)
        result = METRICS[name].score(coco, results)
        assert result.per_class == pytest.approx(expected, abs=1e-12)
        if expected:
            assert result.value == pytest.approx(np.mean([*expected.values()]), abs=1e-12)


def pycocotools_precision(coco: dict, results: list[dict]) -> np.ndarray:
    """(IoU threshold, recall, class)."""
    truth = COCO()
    truth.dataset = copy.deepcopy(coco)
    truth.createIndex()
    found = truth.loadRes(copy.deepcopy(results)) if results else None
    if found is None:
        found = COCO()
        found.dataset = {**copy.deepcopy(coco), "annotations": []}
        found.createIndex()
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, -1]


def check_pycocotools(coco: dict, results: list[dict]) -> None:
    precision = pycocotools_precision(coco, results)
    for name, part in (("mAP50", precision[:1]), ("coco_AP", precision)):
        result = METRICS[name].score(coco, results)
        known = part[part > -1]
        if not known.size:
            assert math.isnan(result.value) and not result.per_class
            continue
        assert result.value == pytest.approx(known.mean(), abs=1e-9)
        categories = sorted(coco["categories"], key=lambda c: c["id"])
        for k, category in enumerate(categories):
            if (part[:, :, k] > -1).any():
                value = result.per_class[category["name"]]
                assert value == pytest.approx(part[:, :, k].mean(), abs=1e-9)
            else:
                assert category["name"] not in result.per_class


@settings(max_examples=40, deadline=None)
@given(images=IMAGES)
def test_average_precision_equals_pycocotools(images):
    check_pycocotools(*data(*images))


def test_more_than_100_detections_of_a_class_equal_pycocotools():
    random = np.random.default_rng(0)
    corners = random.integers(0, 90, (420, 2)).tolist()
    scores = random.random(400).round(2).tolist()
    truth = [((x, y, 8, 8), k % 2, 0) for k, (x, y) in enumerate(corners[:20])]
    found = [
        ((x, y, 8, 8), score, k % 2)
        for k, ((x, y), score) in enumerate(zip(corners[20:], scores, strict=True))
    ]
    check_pycocotools(*data((truth, found), (truth[:3], [])))


@settings(max_examples=30, deadline=None)
@given(images=IMAGES, seed=st.integers(0, 9))
def test_weights_are_images_that_are_there_several_times(images, seed):
    # equal scores would be in another order
    steps = itertools.count()
    images = [(t, [(b, s + 1e-4 * next(steps), k) for b, s, k in found]) for t, found in images]
    times = np.random.default_rng(seed).integers(0, 3, len(images))
    repeated = [image for image, n in zip(images, times, strict=True) for _ in range(n)]
    if not repeated:
        return
    for name, metric in METRICS.items():
        if metric.whole or name == "open_images_mAP50":
            continue
        assignment = metric.assign(*data(*images))
        (value,) = metric.resampled(assignment, times[None], threshold=0.3)
        expected = metric.score(*data(*repeated), threshold=0.3).value
        assert value == pytest.approx(expected, abs=1e-12, nan_ok=True), name


def test_intervals_of_differences():
    right, wrong = ([(A,)], [(A, 0.9)]), ([(A,)], [(B, 0.9)])
    images = {"all": [right] * 20, "most": [right] * 19 + [wrong], "none": [wrong] * 20}
    for metric in ("mAP50", "coco_AP", "rsna_mAP", "cots_F2", "custom"):
        drawn = {}
        for name, parts in images.items():
            drawn[name] = resample(metric, *data(*parts))
        if metric == "custom":  # its example counts objects, right or wrong
            continue
        same = difference(drawn["most"], drawn["most"])
        assert (same.value, same.low, same.high, same.is_noise) == (0, 0, 0, True)
        little = difference(drawn["most"], drawn["all"])
        assert little.low == 0 < little.value < little.high and little.is_noise
        assert "within noise" in str(little)
        large = difference(drawn["none"], drawn["all"])
        assert large.low > 0.9 and not large.is_noise and "noise" not in str(large)


def test_every_metric_says_what_it_is_and_where_it_is_defined():
    assert DEFAULT_METRIC in METRICS
    for name, metric in METRICS.items():
        assert "http" in metric.definition or name in ("mAP50", "custom")
    assert best_threshold(
        METRICS["cots_F2"].assign(*data(([(A,)], []))), np.array([math.nan])
    ) == pytest.approx(0)
