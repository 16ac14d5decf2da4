"""coco_evaluator.py: pycocotools' numbers, whatever the data, and predictions mapped back."""

import copy
import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detection.data.datasets import register_split
from detection.evaluation.average_precision import average_precision, results_table
from detection.evaluation.coco_evaluator import COCOEvaluator
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import launch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import distributed

SIDE = 300
# sparse and not in order; the fourth is annotated nowhere, the last never detected
CLASSES = {5: "can", 0: "종이", 90: "a/b", 7: "none", 3: "missed"}


def rle(polygons: list[list[float]]) -> dict:
    """A mask as detectron2's evaluators write it."""
    mask = mask_util.merge(mask_util.frPyObjects(polygons, SIDE, SIDE))
    return {**mask, "counts": mask["counts"].decode()}


def random_data(seed: int, masks: bool = False) -> tuple[dict, list[dict]]:
    """A ground truth and detections: crowds, empty images, ties, more than 100 an image."""
    random = np.random.default_rng(seed)

    def record(box, image_id: int, category_id: int, crowd: int | None = None) -> dict:
        x, y, w, h = bbox = [round(4 * v) / 4 for v in box]  # exact in 32 bits
        found = {"image_id": image_id, "category_id": category_id, "bbox": bbox}
        triangle = [x, y, x + w, y, x + w / 2, y + h]
        if masks and crowd is None:
            found["segmentation"] = rle([triangle])
        elif masks and crowd:
            before, height = round(x) * SIDE, SIDE * round(w)
            rest = SIDE * SIDE - before - height
            found["segmentation"] = {"size": [SIDE, SIDE], "counts": [before, height, rest]}
        elif masks:
            found["segmentation"] = [triangle]
        return found

    images = [{"id": i, "file_name": f"{i}.jpg", "width": SIDE, "height": SIDE} for i in range(14)]
    annotations, results = [], []
    for image in images[:11]:  # the last three have no annotations
        for _ in range(random.integers(1, 9)):
            size = random.choice([12, 50, 140]) * random.uniform(0.6, 1.4, 2)
            box = np.array([*random.uniform(0, SIDE - size), *size])
            category_id = int(random.choice([0, 0, 5, 90, 3]))
            crowd = int(random.random() < 0.15)
            annotation = record(box, image["id"], category_id, crowd)
            area = float(box[2] * box[3] * random.uniform(0.5, 1))
            annotations.append({**annotation, "area": area, "iscrowd": crowd})
            for _ in range(random.integers(0, 4)):
                moved = np.clip(box + random.normal(0, 0.08, 4) * np.tile(size, 2), 1, SIDE)
                guess = int(random.choice([category_id, category_id, 0, 7]))
                results.append(record(moved, image["id"], 0 if guess == 3 else guess))
    for image in [images[0]] * 130 + images[9:]:
        box = [*random.uniform(0, 200, 2), *random.uniform(2, 100, 2)]
        results.append(record(box, image["id"], 0))
    results += copy.deepcopy(results[:5])
    for result in results:
        result["score"] = round(random.random(), 1)
    for position, id_ in enumerate(random.permutation(len(annotations))):
        annotations[position]["id"] = int(id_) + 1
    categories = [{"id": id_, "name": name} for id_, name in CLASSES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def reference(ground_truth: dict, results: list[dict], task: str) -> dict:
    """What pycocotools says, class by class, in percent; -1, for what there is not, left out."""
    if task == "segm":  # as detectron2 does: else an area is the box's, not the mask's
        results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
    coco = COCO()
    coco.dataset = copy.deepcopy(ground_truth)
    coco.createIndex()

    def stats(*category_ids):
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), task)
        evaluation.params.catIds = sorted(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation.stats

    names = {c["id"]: c["name"] for c in ground_truth["categories"]}
    metrics = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    scores = dict(zip(metrics, stats(*names), strict=False))
    for category_id, name in names.items():
        scores[f"AP-{name}"], scores[f"AP50-{name}"] = stats(category_id)[:2]
    return {name: 100 * value for name, value in scores.items() if value > -1}


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed, task):
    ground_truth, results = random_data(seed, masks=task == "segm")
    before = copy.deepcopy((ground_truth, results))
    scores = average_precision(ground_truth, results, task)
    assert scores == pytest.approx(reference(ground_truth, results, task), abs=1e-9, rel=0)
    assert {"APs", "APm", "APl", "AP-missed"} <= scores.keys() and "AP-none" not in scores
    assert 0 == scores["AP-missed"] < scores["AP"] < 100
    assert (ground_truth, results) == before, "the inputs are left alone"


def test_single_class():
    ground_truth, results = random_data(seed=9)
    ground_truth["categories"] = [{"id": 0, "name": "종이"}]
    for records in (ground_truth["annotations"], results):
        for record in records:
            record["category_id"] = 0
    scores = average_precision(ground_truth, results)
    assert scores == pytest.approx(reference(ground_truth, results, "bbox"), abs=1e-9, rel=0)
    assert scores["AP-종이"] == scores["AP"] and scores["AP50-종이"] == scores["AP50"]


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_no_predictions(task):
    ground_truth, _ = random_data(seed=0, masks=True)
    scores = average_precision(ground_truth, [], task)
    assert set(scores.values()) == {0.0}
    assert {"AP", "AP50", "AP-can", "AP50-can", "AP-종이"} <= scores.keys()
    assert not {"AP-none", "AP50-none"} & scores.keys()


def box_data(**annotation) -> tuple[dict, list[dict]]:
    """One box and its perfect detection."""
    box = {"image_id": 1, "category_id": 1, "bbox": [10.0, 10.0, 50.0, 40.0]}
    ground_truth = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": SIDE, "height": SIDE}],
        "categories": [{"id": 1, "name": "can"}],
        "annotations": [{"id": 1, **box, "area": 2000.0, "iscrowd": 0, **annotation}],
    }
    return ground_truth, [{**box, "score": 0.9}]


def test_annotation_id_0_counts_as_found():
    data = box_data(id=0)
    assert average_precision(*data)["AP"] == pytest.approx(100)
    # pycocotools takes the matched annotation's id, 0, for "no match"
    assert reference(*data, "bbox")["AP"] == 0


def test_crowds_alone_are_no_ground_truth():
    assert average_precision(*box_data(iscrowd=1)) == {}


@pytest.mark.parametrize("value", [None, "missing"])
def test_area_and_iscrowd_may_be_missing(value):
    ground_truth, results = box_data(area=value, iscrowd=value)
    if value == "missing":
        for key in ("area", "iscrowd"):
            del ground_truth["annotations"][0][key]
    scores = average_precision(ground_truth, results)
    assert scores["AP"] == pytest.approx(100)
    assert "APm" in scores and "APs" not in scores, "the box's 2000 pixels are of medium size"


def test_what_box_ap_does_not_need_may_be_odd():
    ground_truth, results = box_data(segmentation="", note={"by": None}, keypoints=3)
    ground_truth["images"][0].update(license="?", flickr_url=5, date_captured=None)
    ground_truth["categories"][0].update(supercategory=7)
    ground_truth.update(info=None, licenses="x")
    assert average_precision(ground_truth, results)["AP"] == pytest.approx(100)


def test_table_has_every_class_and_dashes_for_what_cannot_be_computed():
    ground_truth, results = random_data(seed=1)
    table = results_table(average_precision(ground_truth, results), ground_truth)
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[2:-1]}
    assert set(rows) == {*CLASSES.values(), "all"}
    assert rows["none"] == ["0", "-", "-"] and rows["missed"][1:] == ["0.0", "0.0"]
    assert rows["all"][0] == str(len(ground_truth["annotations"]))
    assert table.splitlines()[-1].startswith("AP ") and "AP75 " in table.splitlines()[-1]


@pytest.fixture
def register(tmp_path, monkeypatch):
    """Registers a ground truth as the data set "evaluation test"; returns that name."""

    def register(ground_truth: dict) -> str:
        classes = [c["name"] for c in ground_truth["categories"]]
        monkeypatch.setattr("detection.data.coco.CLASSES", classes)
        monkeypatch.setattr("detection.data.datasets.CLASSES", classes)
        (tmp_path / "val.json").write_text(json.dumps(ground_truth))
        return register_split("evaluation test", str(tmp_path / "val.json"), str(tmp_path))

    yield register
    DatasetCatalog.pop("evaluation test", None)
    MetadataCatalog.pop("evaluation test", None)


def as_batches(results: list[dict], images: list[dict], ids: list[int]) -> list[tuple]:
    """Results as a model gives them: (inputs, outputs), one image a batch."""
    batches = []
    for image in images:
        own = [r for r in results if r["image_id"] == image["id"]]
        instances = Instances((SIDE, SIDE))
        x, y, w, h = torch.tensor([r["bbox"] for r in own]).reshape(-1, 4).unbind(1)
        instances.pred_boxes = Boxes(torch.stack([x, y, x + w, y + h], dim=1))
        instances.scores = torch.tensor([r["score"] for r in own], dtype=torch.float64)
        instances.pred_classes = torch.tensor([ids.index(r["category_id"]) for r in own]).long()
        if own and "segmentation" in own[0]:
            masks = np.stack([mask_util.decode(r["segmentation"]) for r in own])
            instances.pred_masks = torch.from_numpy(masks).bool()
        batches.append(([{"image_id": image["id"]}], [{"instances": instances}]))
    return batches


def in_order(results: list[dict]) -> list[str]:
    """Results whose order does not matter, to compare."""
    return sorted(json.dumps(r, sort_keys=True) for r in results)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_evaluator(task, register, tmp_path):
    ground_truth, results = random_data(seed=5, masks=task == "segm")
    evaluator = COCOEvaluator(register(ground_truth), str(tmp_path / "inference"))
    for _ in range(2):  # the second round starts from nothing
        evaluator.reset()
        # a model's class numbers are positions in CLASSES, not the file's ids
        for inputs, outputs in as_batches(results, ground_truth["images"], [*CLASSES]):
            evaluator.process(inputs, outputs)
        scores = evaluator.evaluate()

    assert list(scores) == (["bbox"] if task == "bbox" else ["bbox", "segm"])
    expected = reference(ground_truth, results, task)
    assert scores[task] == pytest.approx(expected, abs=1e-9, rel=0)
    written = json.loads((tmp_path / "inference/coco_instances_results.json").read_text())
    assert in_order(written) == in_order(results)


def test_masks_are_not_scored_where_some_lack(register, caplog):
    ground_truth, results = random_data(seed=5, masks=True)
    del ground_truth["annotations"][0]["segmentation"]
    evaluator = COCOEvaluator(register(ground_truth))
    for inputs, outputs in as_batches(results, ground_truth["images"], [*CLASSES]):
        evaluator.process(inputs, outputs)
    assert list(evaluator.evaluate()) == ["bbox"]
    assert "not every annotation has a mask" in caplog.text


def test_evaluator_on_some_of_the_images(register):
    ground_truth, results = random_data(seed=5)
    some = ground_truth["images"][:4]
    evaluators = [COCOEvaluator(register(ground_truth), only_seen=seen) for seen in (False, True)]
    batches = as_batches(results, some, [*CLASSES])
    for evaluator in evaluators:
        for inputs, outputs in batches:
            evaluator.process(inputs, outputs)
    whole, part = (evaluator.evaluate()["bbox"] for evaluator in evaluators)

    def of_some(records):
        return [r for r in records if r["image_id"] < 4]

    assert whole == pytest.approx(reference(ground_truth, of_some(results), "bbox"), abs=1e-9)
    ground_truth["annotations"] = of_some(ground_truth["annotations"])
    assert part == pytest.approx(reference(ground_truth, of_some(results), "bbox"), abs=1e-9)
    assert part["AP"] > whole["AP"]


@pytest.mark.parametrize("only_seen", [False, True])
def test_evaluator_without_annotations_still_writes_predictions(register, tmp_path, only_seen):
    ground_truth, results = random_data(seed=5)
    del ground_truth["annotations"]
    evaluator = COCOEvaluator(register(ground_truth), str(tmp_path / "inference"), only_seen)
    for inputs, outputs in as_batches(results, ground_truth["images"], [*CLASSES]):
        evaluator.process(inputs, outputs)
    assert evaluator.evaluate() == OrderedDict()
    written = json.loads((tmp_path / "inference/coco_instances_results.json").read_text())
    assert in_order(written) == in_order(results)


def test_evaluator_without_output_dir_writes_nothing(register, tmp_path):
    ground_truth, _ = random_data(seed=5)
    evaluator = COCOEvaluator(register(ground_truth))
    assert evaluator.evaluate()["bbox"]["AP"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["val.json"]


def evaluate_share(json_file: str, folder: str) -> None:
    """One of several processes: evaluates every n-th image, and writes its scores."""
    ids = sorted(CLASSES)
    MetadataCatalog.get("shared").set(
        json_file=json_file, thing_dataset_id_to_contiguous_id={id_: k for k, id_ in enumerate(ids)}
    )
    ground_truth, results = random_data(seed=7)
    evaluator = COCOEvaluator("shared", folder)
    share = ground_truth["images"][comm.get_rank() :: comm.get_world_size()]
    for inputs, outputs in as_batches(results, share, ids):
        evaluator.process(inputs, outputs)
    scores = evaluator.evaluate()
    with open(f"{folder}/rank{comm.get_rank()}.json", "w") as f:
        json.dump(scores, f)
    comm.synchronize()  # the first to end takes the others' store along
    if distributed.is_initialized():
        distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path):
    json_file = tmp_path / "val.json"
    json_file.write_text(json.dumps(random_data(seed=7)[0]))
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        launch(evaluate_share, count, dist_url="auto", args=(str(json_file), str(folder)))
    alone, shared = (json.loads((tmp_path / f"{n}/rank0.json").read_text()) for n in (1, 2))
    assert alone["bbox"]["AP"] > 0
    assert shared == alone
    assert json.loads((tmp_path / "2/rank1.json").read_text()) == {}
    written = json.loads((tmp_path / "2/coco_instances_results.json").read_text())
    assert in_order(written) == in_order(random_data(seed=7)[1])
