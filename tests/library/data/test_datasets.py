"""detection/data/datasets.py and the checks: any file is loaded right, or refused in one line."""

import copy
import json
import logging
import random
import unicodedata

import cv2
import numpy as np
import pytest
from detection import classes
from detection.checks.annotations import check_annotations
from detection.data.coco import category_id_map, read_coco, validate
from detection.data.datasets import register_split, training_images
from detection.data.mapper import BoxMapper
from detection.data.results import read_results
from detection.evaluation.average_precision import average_precision
from detection.utils.errors import UserError
from detection.utils.run_lengths import run_length_problem
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

CLASSES = ["can", "종이", 'a/"b"']
NFD = unicodedata.normalize("NFD", CLASSES[1])
NAME = "datasets test"
WIDTH, HEIGHT = 60, 40


@pytest.fixture
def folder(tmp_path):
    """A folder with two images; the project's CLASSES are those of this file."""
    of_project = classes.CLASSES.copy()
    classes.CLASSES[:] = CLASSES
    for name in ("1.png", "2.png"):
        cv2.imwrite(str(tmp_path / name), np.full((HEIGHT, WIDTH, 3), 128, np.uint8))
    yield tmp_path
    classes.CLASSES[:] = of_project
    DatasetCatalog.pop(NAME, None)
    MetadataCatalog.pop(NAME, None)


def make_coco(ids=(1, 2, 3)) -> dict:
    """Two images, three annotations: one of each class."""
    sizes = {"width": WIDTH, "height": HEIGHT}
    boxes = ([5, 5, 20, 10], [30.5, 10, 12.25, 20], [0, 0, WIDTH, HEIGHT])
    return {
        "images": [{"id": i, "file_name": f"{i}.png", **sizes} for i in (1, 2)],
        "categories": [{"id": id_, "name": name} for id_, name in zip(ids, CLASSES, strict=True)],
        "annotations": [
            {
                "id": k,
                "image_id": min(k, 2),
                "category_id": id_,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for k, (id_, box) in enumerate(zip(ids, boxes, strict=True), start=1)
        ],
    }


def register(folder, coco: dict | str, name="data.json") -> list[dict]:
    path = folder / name
    path.write_text(coco if isinstance(coco, str) else json.dumps(coco), encoding="utf-8")
    return DatasetCatalog.get(register_split(NAME, str(path), str(folder)))


def refusal(folder, coco: dict | str) -> str:
    """The one line with which the file is refused."""
    with pytest.raises(UserError) as error:
        register(folder, coco)
    line = str(error.value)
    assert "\n" not in line and line.startswith(f"{folder}/data.json: ")
    return line.removeprefix(f"{folder}/data.json: ")


@pytest.mark.parametrize("ids", [(1, 2, 3), (0, 1, 2), (90, 7, 0), (2**40, 5, 6)])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_category_ids_are_mapped_by_name(folder, ids, is_reversed):
    coco = make_coco(ids)
    if is_reversed:
        coco["categories"].reverse()
    records = register(folder, coco)

    assert [r["file_name"] for r in records] == [f"{folder}/1.png", f"{folder}/2.png"]
    assert [(r["image_id"], r["width"], r["height"]) for r in records] == [
        (1, WIDTH, HEIGHT),
        (2, WIDTH, HEIGHT),
    ]
    (first,), (second, third) = (r["annotations"] for r in records)
    assert [a["category_id"] for a in (first, second, third)] == [0, 1, 2]
    assert second["bbox"] == [30.5, 10, 12.25, 20]
    assert second["bbox_mode"] == BoxMode.XYWH_ABS
    metadata = MetadataCatalog.get(NAME)
    assert metadata.thing_classes == CLASSES
    assert metadata.thing_dataset_id_to_contiguous_id == {id_: k for k, id_ in enumerate(ids)}
    assert read_coco(metadata.json_file) == coco


ROOT = {"id": 0, "name": "all", "supercategory": "none"}
TWIN = {"id": 0, "name": "can", "supercategory": "none"}


@pytest.mark.parametrize("spare", [ROOT, TWIN])
@pytest.mark.parametrize("is_annotated", [True, False])
def test_a_category_that_is_no_class_is_left_out(folder, caplog, spare, is_annotated):
    coco = make_coco((3, 1, 2))
    for category in coco["categories"]:
        category["supercategory"] = spare["name"]
    coco["categories"].insert(0, spare)
    if not is_annotated:
        del coco["annotations"]
    with caplog.at_level(logging.INFO, logger="detection"):
        records = register(folder, coco)
    assert caplog.text.count(f"{spare['name']} (id 0)") == 1
    labels = [a["category_id"] for r in records for a in r["annotations"]]
    assert labels == ([0, 1, 2] if is_annotated else [])
    # which predictions get back: the file's own
    assert MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id == {3: 0, 1: 1, 2: 2}


def test_a_root_that_is_used_or_a_class_stays(folder):
    coco = make_coco()
    coco["categories"].append({"id": 9, "name": "all"})
    for category in coco["categories"]:
        category["supercategory"] = "all"
    coco["annotations"][0]["category_id"] = 9
    assert "'all' is not in detection/classes.py" in refusal(folder, coco)
    classes.CLASSES.append("all")
    coco["annotations"][0]["category_id"] = 1
    register(folder, coco)
    assert MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id[9] == 3


def test_images_without_boxes_are_left_out_of_training(folder):
    coco = make_coco()
    coco["annotations"][0]["image_id"] = 2
    register(folder, coco)
    assert [r["image_id"] for r in training_images(NAME)] == [2]
    assert [r["image_id"] for r in training_images([NAME], filter_empty=False)] == [1, 2]


def test_registering_again_replaces_data_and_metadata(folder):
    register(folder, make_coco())
    coco = make_coco((7, 8, 9))
    del coco["images"][0], coco["annotations"][0]
    (record,) = register(folder, coco, name="other.json")
    assert [a["category_id"] for a in record["annotations"]] == [1, 2]
    metadata = MetadataCatalog.get(NAME)
    assert metadata.json_file == f"{folder}/other.json"
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 0, 8: 1, 9: 2}


def test_file_without_annotations_is_fit_for_predictions(folder, caplog):
    coco = make_coco()
    del coco["annotations"]
    with caplog.at_level(logging.INFO, logger="detection"):
        assert [r["annotations"] for r in register(folder, coco)] == [[], []]
    assert "no annotations" in caplog.text
    assert [r["image_id"] for r in training_images(NAME, filter_empty=False)] == [1, 2]
    with pytest.raises(UserError, match=r"data.json: no image in it has annotations to train on"):
        training_images(NAME)


def test_relative_paths_start_at_the_project(folder, monkeypatch):
    monkeypatch.setattr("detection.utils.paths.PROJECT_ROOT", folder)
    (folder / "data.json").write_text(json.dumps(make_coco()))
    register_split(NAME, "data.json", ".")
    assert DatasetCatalog.get(NAME)[0]["file_name"] == f"{folder}/1.png"


def test_missing_file_says_which_key_to_set(folder):
    with pytest.raises(UserError, match=r"nowhere.json: cannot be read .*dataset.train.json_file"):
        register_split(NAME, str(folder / "nowhere.json"), str(folder))
    assert NAME not in DatasetCatalog


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not valid json"),
        ('{"images": [', "is not valid json"),
        ("[" * 100_000, "is not valid json"),
        ("[]", 'has no "images"'),
        ("null", 'has no "images"'),
        ('{"images": {"id": 1}}', 'has no "images"'),
        ('{"images": [1], "categories": []}', 'it has no "categories"'),
        ('{"images": [1], "categories": [1], "annotations": null}', '"annotations" are'),
        ('{"images": [1], "categories": [1]}', "categories[0].id: "),
    ],
)
def test_files_that_are_no_coco_json(folder, text, says):
    assert says in refusal(folder, text)


def test_file_that_is_no_utf_8(folder):
    (folder / "data.json").write_bytes("종이".encode("cp949"))
    with pytest.raises(UserError, match="is not valid json"):
        register_split(NAME, str(folder / "data.json"), str(folder))


@pytest.mark.parametrize(
    ("categories", "says"),
    [
        ({0: "can", 1: "종이"}, "it lacks 'a/\"b\"' of detection/classes.py: add the category"),
        (
            {0: "can", 1: "종이", 2: 'a/"b"', 3: "new"},
            "its 'new' is not in detection/classes.py and no annotation uses it: take",
        ),
        ({0: "Can", 1: "종이", 2: 'a/"b"'}, "its category 'Can' is 'can' in detection/classes.py"),
        ({0: "Can", 1: "종이", 2: 'a/"b"'}, "they differ in upper and lower case"),
        (
            {0: " can", 1: "종 이", 2: 'a/"b"'},
            "'종이' in detection/classes.py (they differ in blanks",
        ),
        ({0: "can", 1: NFD, 2: 'a/"b"'}, "(they differ in Unicode form (NFC, NFD), which no eye"),
        (
            {0: "cans", 1: "종이", 2: 'a/"b"'},
            "its category 'cans' is 'can' in",
        ),
        (
            {0: "can", 1: "paper", 2: 'a/"b"'},
            "(renamed, as it seems): write it",
        ),
        (
            {0: "can", 1: "x", 2: "y", 3: "z"},
            "it lacks '종이', 'a/\"b\"' of detection/classes.py: add the category to the json, or "
            "take the class out of CLASSES; its 'x', 'y', 'z' is not in",
        ),
        ({0: "cat", 1: "개"}, "its category 'cat' is 'can'"),
        (
            {0: "dog", 1: "개"},
            "none of its categories ('dog', '개') is one of detection/cl",
        ),
        ({0: "can", 1: "종이", 2: 'a/"b"', 3: "can"}, "two categories have the name 'can'"),
        (
            {"0": "can", "1": "종이", 2: 'a/"b"'},
            "categories[0].id: must be a whole number from 0, it is '0'",
        ),
        (
            {-1: "can", 1: "종이", 2: 'a/"b"'},
            "categories[0].id: must be a whole number from 0, it is -1",
        ),
        ({0: ["can"], 1: "종이", 2: 'a/"b"'}, "categories[0].name: "),
    ],
)
def test_categories_that_are_not_the_classes(folder, categories, says):
    coco = {"images": make_coco()["images"]}
    coco["categories"] = [{"id": id_, "name": name} for id_, name in categories.items()]
    assert says in refusal(folder, coco)


def test_category_that_only_the_json_has_but_annotations_use(folder):
    coco = make_coco()
    coco["categories"].append({"id": 8, "name": "new"})
    coco["annotations"][0]["category_id"] = 8
    assert "its 'new' is not in detection/classes.py: add the class at" in refusal(folder, coco)


def test_categories_in_another_order_are_only_mentioned(folder, caplog):
    coco = make_coco()
    coco["categories"] = [{"id": 4 - c["id"], "name": c["name"]} for c in coco["categories"]]
    with caplog.at_level(logging.INFO, logger="detection"):
        register(folder, coco)
    (said,) = caplog.records
    assert said.levelno == logging.INFO and "another order than CLASSES" in said.message


def test_byte_order_mark_does_no_harm(folder):
    assert len(register(folder, "\ufeff" + json.dumps(make_coco()))) == 2


def test_two_categories_with_one_id(folder):
    assert "categories[1].id: 4" in refusal(folder, make_coco((4, 4, 5)))


def test_class_that_stands_twice_in_the_classes(folder, monkeypatch):
    monkeypatch.setattr("detection.data.coco.CLASSES", [*CLASSES, "can"])
    with pytest.raises(UserError, match=r"classes.py: .* twice"):
        register(folder, make_coco())


# (path into the json, new value) -> part of the error
ERRORS = [
    ("images.0.id", "1", "1 (number 0 (\"id\" must be a whole number from 0, it is '1'"),
    ("images.1.id", -1, 'number 1 ("id" must be a whole number from 0, it is -1'),
    ("images.1.width", None, 'number 1 ("width" must be a whole number from 1, it is none'),
    ("images.1.width", 0, '"width" must be a whole number from 1, it is 0'),
    ("images.0.height", 0, '"height" must be a whole number from 1, it is 0'),
    ("images.1.width", 60.0, '"width" must be a whole number'),
    ("images.1.file_name", 5, '"file_name" must be text'),
    ("images.1", [], 'image records that cannot be used: 1 (number 1 ("id" must be'),
    ("images.1.width", 10**30, '"width" must be a whole number'),
    ("images.1", make_coco()["images"][0], "image ids that occur more than once: 1 (1)"),
    ("images.1.file_name", "3.png", ": 1 (3.png)"),
    ("annotations.2.id", 1, "annotation ids that occur more than once: 1 (1 (2.png))"),
    ("annotations.2.id", True, 'records that cannot be used: 1 (number 2 ("id" must be'),
    ("annotations.2", None, 'annotation records that cannot be used: 1 (number 2 ("id" must be'),
    ("annotations.0.image_id", 9, "of an image that the file does not list: 1 (1)"),
    ("annotations.0.category_id", 9, "of a category that the file does not list: 1 (1 (1.png))"),
    ("annotations.0.bbox", "1,2,3,4", "not four finite numbers"),
    ("annotations.0.bbox", [], "not four finite numbers (x, y, w, h): 1 (1 (1.png))"),
    ("annotations.0.bbox", [1, 2, 3], "not four finite numbers"),
    ("annotations.0.bbox", [1, 2, 3, "4"], "not four finite numbers"),
    ("annotations.0.bbox", [1, 2, 3, float("nan")], "not four finite numbers"),
    ("annotations.0.bbox", [1, 2, 3, -float("inf")], "not four finite numbers"),
    ("annotations.0.bbox", [1, 2, 3, 10**400], "not four finite numbers"),
    ("annotations.0.area", "12", "area is not a number: 1 (1 (1.png))"),
    ("annotations.0.iscrowd", "0", "iscrowd is neither 0 nor 1: 1 (1 (1.png))"),
    ("annotations.0.iscrowd", None, "iscrowd is neither 0 nor 1: 1 (1 (1.png))"),
    ("annotations.0.ignore", 1, 'annotations to "ignore"'),
    ("annotations.0.segmentation", [1, 2, 3, 4, 5, 6], "neither polygons nor RLE: 1 (1 (1.png))"),
    ("annotations.0.keypoints", [1, 2], "keypoints are not numbers in threes: 1 (1 (1.png))"),
    ("annotations.0.segmentation", {"size": [40]}, "RLE does not fit their image: 1 (1 (1.png"),
]
WARNINGS = [
    ("annotations.0.bbox", [1, 2, 0, 5], "box has no area: 1 (1 (1.png)); left out of training"),
    ("annotations.0.bbox", [9, 9, 5, -5], "box has no area: 1 (1 (1.png)); left out of training"),
    ("annotations.0.bbox", [60, 5, 10, 10], "box is outside its image: 1 (1 (1.png))"),
    ("annotations.0.bbox", [-9, 5, 9, 10], "box is outside its image: 1 (1 (1.png))"),
    ("annotations.0.bbox", [5, 5, 60, 10], "more than a pixel outside their image"),
    ("annotations.0.bbox", [-2, 5, 10, 10], "more than a pixel outside their image"),
    ("annotations.0.bbox", [5, 38.5, 10, 3], "more than a pixel outside their image"),
    ("annotations.0.segmentation", [[1, 2, 3, 4]], "without a polygon of three points or more"),
    ("annotations.0.id", 0, "annotations with id 0: 1 (0 (1.png)); pycocotools never counts"),
    ("annotations.0.image_id", 2, "images without annotations: 1 (1.png); left out of training"),
    (
        "annotations.0.category_id",
        2,
        "classes without annotations: 1 (can); ",
    ),
]


def change(coco: dict, path: str, value) -> dict:
    """The json with one value replaced; a category's new id is its annotations' too."""
    coco = copy.deepcopy(coco)
    *parents, last = (int(step) if step.isdigit() else step for step in path.split("."))
    node = coco
    for step in parents:
        node = node[step]
    node[last] = value
    if path == "categories.0.id":
        coco["annotations"][0]["category_id"] = value
    return coco


@pytest.mark.parametrize(("path", "value", "says"), ERRORS)
def test_errors_stop_the_loading(folder, path, value, says):
    coco = change(make_coco(), path, value)
    finding = check_annotations(coco, str(folder))[0]
    assert finding.is_error and says in finding.message
    line = refusal(folder, coco)
    assert line.startswith(finding.message) and "`make check" in line


@pytest.mark.parametrize(("path", "value", "says"), WARNINGS)
def test_warnings_do_not(folder, path, value, says, caplog):
    coco = change(make_coco(), path, value)
    (finding,) = check_annotations(coco, str(folder))
    assert not finding.is_error and says in finding.message
    with caplog.at_level(logging.WARNING, logger="detection"):
        assert len(register(folder, coco)) == 2
    assert f"data.json: {finding.message}" in caplog.text


def test_nothing_is_said_of_good_data(folder):
    coco = make_coco()
    coco["annotations"][0]["bbox"] = [-1, -1, WIDTH + 2, HEIGHT + 2]  # rounding is no error
    coco["annotations"][1]["segmentation"] = [[30, 10, 42, 10, 42, 30]]
    coco["annotations"][2].update(segmentation={"size": [40, 60], "counts": [0, 2400]}, iscrowd=1)
    (crowds,) = check_annotations(coco, str(folder))
    assert crowds.kind == "crowds" and crowds.items == [3]
    coco["annotations"][2]["segmentation"] = None
    for annotation in coco["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    assert check_annotations(coco, str(folder)) == []


def test_findings_name_five_examples(folder):
    coco = make_coco()
    coco["images"] = [{**coco["images"][0], "id": i, "file_name": f"0{i}"} for i in range(1, 9)]
    (finding, *_) = check_annotations(coco, str(folder))
    assert ": 8 (01, 02, 03, 04, 05, …); " in finding.message


def test_boxes_without_area_load_but_never_reach_a_batch(folder):
    coco = make_coco()
    boxes = [[5, 5, 0, 10], [5, 5, 10, 0], [5, 5, -4, 10], [200, 5, 10, 10], [-30, -30, 20, 20]]
    for k, box in enumerate(boxes, start=4):
        coco["annotations"].append({**coco["annotations"][0], "id": k, "bbox": box})
    records = register(folder, coco)
    assert [len(r["annotations"]) for r in records] == [6, 2]

    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="BGR")
    instances = mapper(records[0])["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[5, 5, 25, 15]]
    assert instances.gt_classes.tolist() == [0]


@pytest.mark.parametrize("section", ["images", "categories"])
def test_a_name_that_is_far_too_long_ends_in_a_short_line(folder, section):
    coco = make_coco()
    coco[section][0]["file_name" if section == "images" else "name"] = "x" * 10**7
    assert len(refusal(folder, coco)) < 1000
    if section == "images":
        with pytest.raises(UserError, match=r"images\[0\]"):
            validate(coco, "data.json")


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("images.1.width", 0, "images[1].width: "),
        ("images.1", None, "images[1].id: "),
        ("images.1.id", 1, "images[1].id: 1 "),
        ("categories.2.name", 5, "categories[2].name: "),
        ("categories.2.id", 1, "categories[2].id: 1 "),
        ("annotations.0", 7, "annotations[0].image_id: "),
        ("annotations.1.image_id", True, "annotations[1].image_id: "),
        ("annotations.1.image_id", 9, "annotations[1].image_id: 9 "),
        ("annotations.1.category_id", 9, "annotations[1].category_id: 9 "),
        ("annotations.2.bbox", [1, 2, 3, float("nan")], "annotations[2].bbox: "),
    ],
)
def test_the_first_bad_record_is_named_with_its_field(folder, path, value, where):
    keys = ("image_id", "category_id", "bbox")
    validate(make_coco(), "data.json", annotations=keys)
    with pytest.raises(UserError) as error:
        validate(change(make_coco(), path, value), "data.json", annotations=keys)
    line = str(error.value)
    assert line.startswith(f"data.json: {where}") and "\n" not in line
    if path.startswith("annotations"):  # which are only looked at where they are needed
        validate(change(make_coco(), path, value), "data.json")


def damage(coco: dict, rng: random.Random):
    """Replaces, removes or doubles a few random values of a json, wherever they are."""
    odd = [None, True, -1, 0, 1, 1.5, 10**30, 1e308, float("nan"), float("inf"), "", "1", "\ud800"]
    odd += [[], {}, [[]], [None], [0, 0, 0, 0], {"size": [1], "counts": []}, "x" * 300]
    for _ in range(rng.choice([1, 1, 1, 3])):
        node = coco
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(node[key], dict | list) and rng.random() < 0.95:
                node = node[key]
                continue
            action = rng.random()
            if action < 0.15:
                del node[key]
            elif action < 0.25 and isinstance(node, list):
                node.append(copy.deepcopy(node[key]))
            else:
                node[key] = copy.deepcopy(rng.choice(odd))
            break
    return coco


def test_damaged_files_are_refused_or_train_and_evaluate(folder):
    """What the checks let pass, loads and can be evaluated; the rest is a UserError."""
    rng = random.Random(0)
    path = folder / "data.json"
    outcomes = {"refused": 0, "loaded": 0}
    for _ in range(700):
        coco = make_coco()
        coco["annotations"][0]["segmentation"] = [[5, 5, 25, 5, 25, 15]]
        coco["annotations"][1]["segmentation"] = {"size": [40, 60], "counts": [0, 2400]}
        coco["annotations"][2]["ignore"] = 0
        text = json.dumps(damage(coco, rng))
        if rng.random() < 0.05:
            text = text[: rng.randrange(len(text))]
        path.write_text(text)
        try:
            records = DatasetCatalog.get(register_split(NAME, str(path), str(folder)))
            if any(r["annotations"] for r in records):
                average_precision(read_coco(str(path)), [])
            outcomes["loaded"] += 1
        except UserError as e:
            assert "\n" not in str(e) and len(str(e)) < 2000, text
            outcomes["refused"] += 1
        except Exception as e:
            raise AssertionError(f"{e!r} for {text}") from e
    assert min(outcomes.values()) > 20, outcomes


def test_records_are_those_of_detectron2(folder):
    """But for the category ids: load_coco_json, without a name, leaves those of the file."""
    coco = make_coco((3, 9, 1))
    first, second, third = coco["annotations"]
    first["segmentation"] = [[5, 5, 25, 5, 25, 15], [1, 2, 3, 4]]
    first["keypoints"] = [5, 6, 2, 0, 0, 0]
    second["segmentation"] = {"size": [40, 60], "counts": [100, 2300]}
    third.update(segmentation={"size": [40, 60], "counts": "T3lW2"}, iscrowd=1)
    coco["images"].reverse()
    records = register(folder, coco)
    id_map = MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id
    theirs = load_coco_json(str(folder / "data.json"), str(folder))
    for record in theirs:
        for annotation in record["annotations"]:
            annotation["category_id"] = id_map[annotation["category_id"]]
    assert records == theirs


def rle(size, counts) -> dict:
    return {"size": size, "counts": counts}


# of 40 × 60 pixels
BAD_RUNS = {
    "too short": rle([40, 60], [0, 100]),
    "too long": rle([40, 60], [0, 2401]),
    "another size": rle([60, 40], [0, 2400]),
    "huge": rle([10**8, 10**8], [0, 10**16]),
    "huge, few counts": rle([10**8, 10**8], [0, 100]),
    "negative": rle([40, 60], [-5, 2405]),
    "compressed, too short": rle([40, 60], "T3"),
    "compressed, cut": rle([40, 60], "T3lW"),
    "compressed, too long": rle([40, 60], "T3lW21"),
    "compressed, another size": rle([60, 40], "T3lW2"),
    "compressed, huge": rle([10**8, 10**8], "T3lW2"),
    "compressed, no such text": rle([40, 60], "\u00e9\n"),
    "compressed, endless": rle([40, 60], "o" * 1000),
    "no counts": rle([40, 60], None),
}


@pytest.mark.parametrize("runs", BAD_RUNS.values(), ids=BAD_RUNS)
def test_run_lengths_that_do_not_fit_are_neither_trained_on_nor_scored(folder, runs):
    coco = make_coco()
    coco["annotations"][1]["segmentation"] = rle([40, 60], "T3lW2")
    assert len(register(folder, coco)) == 2
    results = [{**a, "score": 0.5} for a in coco["annotations"][1:2]]
    coco["annotations"] = coco["annotations"][1:2]
    average_precision(coco, results, "segm")

    with pytest.raises(UserError, match=r"results\[0\]"):
        average_precision(coco, [{**results[0], "segmentation": runs}], "segm")
    coco["annotations"][0]["segmentation"] = runs
    with pytest.raises(UserError):
        average_precision(coco, results, "segm")
    (finding,) = (f for f in check_annotations(coco, str(folder)) if f.is_error)
    assert (finding.kind, finding.items) == ("odd_run_lengths", [2])
    assert "`make check ARGS=--fix`" in refusal(folder, coco)

    (folder / "results.json").write_text(json.dumps([{**results[0], "segmentation": runs}]))
    if runs["size"] != [60, 40]:  # which results alone do not show
        with pytest.raises(UserError, match=r"results\[0\]"):
            read_results(str(folder / "results.json"), "data.json", {"images": [{"id": 2}]}, {2})


def test_run_lengths_are_read_as_pycocotools_writes_them(folder):
    rng = np.random.default_rng(0)
    for share in (0, 0.01, 0.5, 1):
        for width, height in ((1, 1), (7, 3), (300, 500)):
            pixels = np.asfortranarray(rng.random((height, width)) < share, np.uint8)
            mask = mask_util.encode(pixels)
            mask["counts"] = mask["counts"].decode()
            assert run_length_problem(mask, (width, height)) == ""
            assert run_length_problem({**mask, "counts": mask["counts"] + "1"}) != ""
            assert run_length_problem(mask, (width + 1, height)) != ""


def test_a_bad_polygon_takes_no_box_along(folder, caplog):
    coco = make_coco()
    for a in coco["annotations"]:
        x, y, w, h = a["bbox"]
        a["segmentation"] = [[x, y, x + w, y + h]]
    with caplog.at_level(logging.WARNING, logger="detection"):
        records = register(folder, coco)
    assert [[a["bbox"] for a in r["annotations"]] for r in records] == [
        [coco["annotations"][0]["bbox"]],
        [a["bbox"] for a in coco["annotations"][1:]],
    ]
    assert len([r for r in caplog.records if "polygon" in r.message]) == 1
    assert len(training_images(NAME)) == 2
    mapper = BoxMapper(True, augmentations=[], image_format="BGR")
    assert mapper(training_images(NAME)[0])["instances"].gt_boxes.tensor.tolist() == [
        [5, 5, 25, 15]
    ]
    with pytest.raises(UserError, match=r"none of its 3 annotations has a polygon"):
        training_images(NAME, masks=True)

    # a model of masks leaves out the object, and the image if it has no other
    coco["annotations"][1]["segmentation"] = [[30, 10, 42, 10, 42, 30]]
    register(folder, coco)
    (record,) = training_images(NAME, masks=True)
    mapper = BoxMapper(True, augmentations=[], image_format="BGR", masks=True)
    assert record["image_id"] == 2 and mapper(record)["instances"].gt_classes.tolist() == [1]


def test_data_of_crowds_only_is_refused_with_the_reason(folder):
    coco = make_coco()
    for a in coco["annotations"]:
        a.update(iscrowd=1, segmentation=rle([40, 60], [0, 2400]))
    (finding,) = check_annotations(coco, str(folder))
    assert (finding.kind, finding.items, finding.is_error) == ("only_crowds", [1, 2, 3], True)
    line = refusal(folder, coco)
    assert "iscrowd" in line and "ARGS=--fix" not in line


def test_line_breaks_in_names_break_no_line(folder):
    coco = change(make_coco(), "images.1.file_name", "a\nb\x1b[31m\u2028종이")
    assert "(a\\nb\\x1b[31m\\u2028종이)" in refusal(folder, coco)


def test_single_boxes_that_seem_to_be_corners_are_reported(folder):
    coco = change(make_coco(), "annotations.0.bbox", [30, 20, 50, 35])
    (finding,) = check_annotations(coco, str(folder))
    assert finding.kind == "partly_outside"
    assert "1 (1.png, would fit as x1, y1, x2, y2)" in finding.message


def test_category_id_map_alone(folder):
    assert category_id_map(make_coco((3, 9, 1)), "x.json") == {1: 2, 3: 0, 9: 1}
