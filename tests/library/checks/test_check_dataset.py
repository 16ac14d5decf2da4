"""tools/check_dataset.py: each kind of damage is found, fixed where possible, and then gone."""

import copy
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
import zlib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import check_dataset as tool
import numpy as np
import pytest
from conftest import PROJECT_ROOT
from detection import classes
from detection.checks.kinds import KINDS
from detection.utils.errors import UserError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CLASSES = ["can", "종이", 'a/"b"{c}']
WIDTH, HEIGHT = 64, 48
COUNTS = {"train": 8, "val": 3, "test": 2}


@pytest.fixture
def project_classes():
    """The project's CLASSES are those of this file."""
    of_project = classes.CLASSES.copy()
    classes.CLASSES[:] = CLASSES
    yield
    classes.CLASSES[:] = of_project


@pytest.fixture
def data(tmp_path, project_classes):
    """A sound data set: `data.splits`, to be damaged; `data.check(*arguments)` runs the tool."""
    return Data(tmp_path)


class Data:
    """Eight images to train on, three to validate, two to predict, in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.images = folder / "images"
        self.splits = {split: self._make(split, n) for split, n in COUNTS.items()}

    def _make(self, split: str, count: int) -> dict:
        images, annotations = [], []
        for k in range(count):
            name = f"{split}/{k} 사진.jpg"
            self.draw(name, seed=len(split) * 100 + k)
            images.append({"id": k, "file_name": name, "width": WIDTH, "height": HEIGHT})
            for c in range(3 if split != "test" else 0):
                box = [2 + c, 30 - c, 20.5 + k, 15]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": k,
                        "category_id": c + 1,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)]
        coco = {"images": images, "categories": categories, "annotations": annotations}
        return coco if annotations else {k: v for k, v in coco.items() if k != "annotations"}

    def draw(self, name: str, seed=0, size=(WIDTH, HEIGHT), **options) -> Path:
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(path, **options)
        return path

    def write(self) -> list[str]:
        for split, coco in self.splits.items():
            (self.folder / f"{split}.json").write_text(json.dumps(coco), encoding="utf-8")
        return [str(self.folder / f"{split}.json") for split in self.splits]

    def check(self, *arguments: str) -> tuple[int, dict]:
        """Exit status and report."""
        report = self.folder / "report.json"
        files = self.write()
        status = tool.main(
            [
                *(*files, "--image-root", str(self.images), "--json", str(report)),
                *("--output", str(self.folder / "fixed"), *arguments),
            ]
        )
        return status, json.loads(report.read_text(encoding="utf-8"))


def kinds(findings: list[dict]) -> set[str]:
    return {f["kind"] for f in findings}


# -- the damages: each plants one, and returns the items that are to be named in train -----------


def edit(**fields):
    """Overwrite fields of train's annotation 5, which is the second of image 1."""

    def plant(data):
        data.splits["train"]["annotations"][4].update(fields)
        return [fields.get("id", 5)]

    return plant


def edit_image(**fields):
    def plant(data):
        data.splits["train"]["images"][1].update(fields)
        return [fields.get("file_name", "train/1 사진.jpg")]

    return plant


def edit_category(**fields):
    def plant(data):
        data.splits["train"]["categories"][1].update(fields)

    return plant


def repeat_annotation(data):
    annotations = data.splits["train"]["annotations"]
    annotations.append({**annotations[4], "id": 99})
    return [99]


def add_same_box_of_another_class(data):
    annotations = data.splits["train"]["annotations"]
    annotations.append({**annotations[4], "id": 99, "category_id": 1})
    return [99]


def malform_annotation(data):
    data.splits["train"]["annotations"][4] = {"id": 5, "bbox": "?"}
    return ["number 4"]


def write_ids_as_text(data):
    for image in data.splits["train"]["images"]:
        image["id"] = str(image["id"])
    for annotation in data.splits["train"]["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
    return [f"number {k}" for k in range(8)]


def forget_sizes(data):
    del data.splits["train"]["images"][1]["width"]
    return ["number 1"]


def repeat_image_record(data):
    images = data.splits["train"]["images"]
    images.append(dict(images[1]))
    return [1]


def list_file_twice(data):
    images = data.splits["train"]["images"]
    images.append({**images[1], "id": 99})
    data.splits["train"]["annotations"][4]["image_id"] = 99
    return ["train/1 사진.jpg"]


def write_corners(data):
    for a in data.splits["train"]["annotations"]:
        x, y, w, h = a["bbox"]
        a["bbox"] = [x, y, x + w, y + h]
    return list(range(1, 25))


def write_fractions(data):
    for a in data.splits["train"]["annotations"]:
        x, y, w, h = a["bbox"]
        a["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]
    return list(range(1, 25))


def remove_image(data):
    (data.images / "train/1 사진.jpg").unlink()
    return ["train/1 사진.jpg"]


def decompose_file_name(data):
    name = "train/1 사진.jpg"
    (data.images / name).rename(data.images / unicodedata.normalize("NFD", name))
    return [name]


def empty_file(data):
    (data.images / "train/1 사진.jpg").write_bytes(b"")
    return ["train/1 사진.jpg"]


def break_file(data):
    (data.images / "train/1 사진.jpg").write_bytes(b"<html>404</html>")
    return ["train/1 사진.jpg"]


def cut_file(data):
    path = data.images / "train/1 사진.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    return ["train/1 사진.jpg"]


def cut_png(data):
    path = data.draw("train/1.png")
    path.write_bytes(path.read_bytes()[:-4000])
    data.splits["train"]["images"][1]["file_name"] = "train/1.png"
    return ["train/1.png"]


def enlarge_image(data):
    data.draw("train/1 사진.jpg", size=(WIDTH + 9, HEIGHT + 9))
    return ["train/1 사진.jpg"]


def shrink_image(data):
    data.draw("train/1 사진.jpg", size=(WIDTH // 2, HEIGHT // 2))
    return ["train/1 사진.jpg"]


def turn_image(data, orientation=6, box=(40, 5, 20, 10)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data.draw("train/1 사진.jpg", exif=exif)
    data.splits["train"]["annotations"][4]["bbox"] = list(box)
    return ["train/1 사진.jpg"]


def turn_image_upside_down(data):
    return turn_image(data, orientation=3)


def copy_image(data):
    content = (data.images / "train/1 사진.jpg").read_bytes()
    (data.images / "train/2 사진.jpg").write_bytes(content)
    return ["train/2 사진.jpg"]


def blacken_image(data):
    Image.new("RGB", (WIDTH, HEIGHT)).save(data.images / "train/1 사진.jpg")
    return ["train/1 사진.jpg"]


def brighten_image(data):
    """White with a few dark pixels."""
    pixels = np.full((HEIGHT, WIDTH, 3), 250, np.uint8)
    pixels[:2, :2] = 100
    Image.fromarray(pixels).save(data.images / "train/1 사진.jpg")
    return ["train/1 사진.jpg"]


def blacken_all_images(data):
    names = [image["file_name"] for image in data.splits["train"]["images"]]
    for k, name in enumerate(names):
        Image.new("RGB", (WIDTH, HEIGHT), (k, 0, 0)).save(data.images / name, quality=100)
    return names


def write_12_bits_in_16(data):
    images = data.splits["train"]["images"]
    for image in images:
        pixels = np.asarray(Image.open(data.images / image["file_name"]).convert("L"))
        image["file_name"] = f"train/{image['id']}.png"
        Image.fromarray(pixels.astype(np.uint16) * 16).save(data.images / image["file_name"])
    return [image["file_name"] for image in images]


def copy_image_to_val(data):
    content = (data.images / "train/1 사진.jpg").read_bytes()
    (data.images / "val/2 사진.jpg").write_bytes(content)
    return ["train/1 사진.jpg"]


def list_image_in_test_too(data):
    data.splits["test"]["images"].append({**data.splits["train"]["images"][1], "id": 99})
    return ["train/1 사진.jpg"]


def leave_image_empty(data):
    annotations = data.splits["train"]["annotations"]
    annotations[:] = [a for a in annotations if a["image_id"] != 1]
    return ["train/1 사진.jpg"]


def leave_class_out(data):
    annotations = data.splits["train"]["annotations"]
    annotations[:] = [a for a in annotations if a["category_id"] != 2]
    return ["종이"]


def add_unused_category(data):
    data.splits["train"]["categories"].append({"id": 0, "name": "supercategory"})


def add_root_category(data):
    """As Roboflow does."""
    data.splits["train"]["categories"].insert(0, {"id": 0, "name": "all", "supercategory": "none"})
    for category in data.splits["train"]["categories"][1:]:
        category["supercategory"] = "all"
    return ["all"]


def lose_category(data):
    leave_class_out(data)
    del data.splits["train"]["categories"][1]


def number_val_otherwise(data):
    for number, category in enumerate(data.splits["train"]["categories"]):
        category["id"] = number
    for annotation in data.splits["train"]["annotations"]:
        annotation["category_id"] -= 1


def shift_categories(data):
    for annotation in data.splits["train"]["annotations"]:
        annotation["category_id"] -= 1
    return list(range(1, 25, 3))


def make_all_crowds(data):
    for annotation in data.splits["train"]["annotations"]:
        annotation["iscrowd"] = 1
    return list(range(1, 25))


# (plant, kind, whether --fix fixes it, or with which option)
DAMAGES = [
    (edit(image_id=99), "unknown_image_ids", True),
    (edit(category_id=99), "unknown_category_ids", True),
    (edit(bbox=[1, 2, 3]), "not_four_numbers", True),
    (edit(bbox=[1, 2, float("nan"), 4]), "not_four_numbers", True),
    (edit(bbox=[1, float("inf"), 3, 4]), "not_four_numbers", True),
    (edit(area="12"), "odd_area", True),
    (edit(iscrowd="0"), "odd_iscrowd", True),
    (edit(ignore=1), "ignored", True),
    (edit(segmentation=[1, 2, 3, 4, 5, 6]), "odd_segmentation", True),
    (edit(segmentation=[[1, 2, 3, 4]]), "no_polygon", True),
    (edit(segmentation={"size": [48, 64], "counts": [9]}), "odd_run_lengths", True),
    (shift_categories, "shifted_category_ids", "shift"),
    (make_all_crowds, "only_crowds", False),
    (edit(keypoints=[1, 2]), "odd_keypoints", True),
    (edit(bbox=[5, 5, 0, 10]), "no_area", True),
    (edit(bbox=[15, 5, -9, 10]), "no_area", True),
    (edit(bbox=[70, 5, 9, 10]), "outside", True),
    (edit(bbox=[-20, 5, 9, 10]), "outside", True),
    (edit(bbox=[60, 5, 9, 10]), "partly_outside", True),
    (edit(bbox=[-6, -3, 9, 10]), "partly_outside", True),
    (edit(id=0), "annotation_id_0", True),
    (edit(id=4), "repeated_annotation_ids", True),
    (edit(iscrowd=1), "crowds", False),
    (repeat_annotation, "repeated_annotations", True),
    (add_same_box_of_another_class, "two_classes", False),
    (malform_annotation, "malformed_annotations", True),
    (write_ids_as_text, "malformed_images", True),
    (forget_sizes, "malformed_images", True),
    (repeat_image_record, "repeated_image_ids", True),
    (list_file_twice, "repeated_file_names", True),
    (write_corners, "corners", True),
    (write_fractions, "fractions", False),
    (remove_image, "missing_images", "drop"),
    (edit_image(file_name="train/1 사진.JPG"), "missing_images", True),
    (decompose_file_name, "missing_images", True),
    (empty_file, "unreadable_images", "drop"),
    (break_file, "unreadable_images", "drop"),
    (cut_file, "truncated_images", "drop"),
    (cut_png, "truncated_images", "drop"),
    (enlarge_image, "other_sizes", True),
    (shrink_image, "other_sizes", False),
    (turn_image, "other_sizes", True),
    (turn_image, "turned_by_exif", False),
    (turn_image_upside_down, "turned_by_exif", False),
    (blacken_image, "blank_images", False),
    (brighten_image, "blank_images", False),
    (blacken_all_images, "only_blank_images", False),
    (write_12_bits_in_16, "unused_bits", False),
    (copy_image, "repeated_images", "drop"),
    (copy_image_to_val, "shared_images", "drop"),
    (list_image_in_test_too, "shared_images", "drop"),
    (leave_image_empty, "empty_images", False),
    (leave_class_out, "absent_classes", False),
    (edit_category(name=" 종이"), "categories", True),
    (edit_category(name=unicodedata.normalize("NFD", "종이")), "categories", True),
    (edit_category(name="paper"), "categories", False),
    (edit_category(id="2"), "categories", True),
    (add_unused_category, "categories", True),
    (add_root_category, "left_out_categories", False),
    (lose_category, "categories", True),
    (number_val_otherwise, "category_numbering", False),
]


def name_of(value) -> str:
    return getattr(value, "__name__", None) if not isinstance(value, bool) else None


@pytest.mark.parametrize(("plant", "kind", "is_fixable"), DAMAGES, ids=name_of)
def test_damage_is_found_and_fixed(data, capsys, plant, kind, is_fixable):
    items = plant(data)
    if kind == "missing_images" and (data.images / items[0]).exists():
        pytest.skip("to this file system the names are the same")
    status, report = data.check("--fix")
    if isinstance(is_fixable, str):
        assert status == 1 and kind in kinds(report["findings_left"])
        assert report["changes"] == {"train": {}, "val": {}, "test": {}}
        assert (is_fixable == "drop") == ("train" in report["refused"])
        capsys.readouterr()
        status, report = data.check(f"--fix={is_fixable}")
    (found,) = (f for f in report["findings"] if f["kind"] == kind)
    assert found["split"] == "train"
    assert items is None or found["items"] == items
    assert found["count"] == len(found["items"])
    shown = capsys.readouterr().out
    assert KINDS[kind].what.split()[0] in shown and KINDS[kind].effect.split()[0] in shown

    left = report["findings_left"]
    assert (kind in kinds(left)) != bool(is_fixable)
    assert bool(KINDS[kind].fix) or is_fixable in (False, "shift")
    # no fix does damage; a class that is added is absent
    new = kinds(left) - kinds(report["findings"]) - {"absent_classes"}
    assert all(KINDS[kind].severity == "note" for kind in new)
    assert status == any(f["severity"] == "error" for f in left)
    if is_fixable:
        assert report["changes"]["train"][kind] >= 1
        for split in COUNTS:
            assert json.loads((data.folder / "fixed" / f"{split}.json").read_text("utf-8"))


def test_every_kind_is_planted():
    elsewhere = {"no_annotations", "differing_categories", "category_order"}
    elsewhere |= {"alike_classes", "metric_collisions"}
    elsewhere |= {"torn_images", "old_folds"}
    assert {kind for _, kind, _ in DAMAGES} == set(KINDS) - elsewhere


def test_root_category_is_no_error(data, capsys):
    for split in data.splits:
        data.splits[split]["categories"].insert(0, {"id": 0, "name": "all", "supercategory": ""})
        data.splits[split]["categories"][1]["supercategory"] = "all"
    status, report = data.check()
    assert status == 0
    found = [(f["split"], f["items"]) for f in report["findings"] if "left_out" in f["kind"]]
    assert found == [(split, ["all"]) for split in COUNTS]
    assert "all (id 0)" in capsys.readouterr().out


def test_root_that_is_a_class_is_named(data):
    """As in a project whose classes were read from such a file."""
    classes.CLASSES.append("all")
    for coco in data.splits.values():
        coco["categories"].append({"id": 0, "name": "all", "supercategory": "none"})
        coco["categories"][0]["supercategory"] = "all"
    _, report = data.check()
    absent = [f for f in report["findings"] if f["kind"] == "absent_classes"]
    assert [f["items"] for f in absent] == [["all"], ["all"]]
    assert all("detection/classes.py" in f["notes"][0] for f in absent)


def test_class_names_that_look_alike_are_named(data):
    classes.CLASSES[:] = ["can", "Can", 'a/"b"', "c an "]
    for coco in data.splits.values():
        coco["categories"] = [{"id": k, "name": n} for k, n in enumerate(classes.CLASSES, 1)]
    _, report = data.check()
    found = [f for f in report["findings"] if f["kind"] == "alike_classes"]
    assert [(f["split"], f["items"]) for f in found] == [(s, ["Can", "c an "]) for s in COUNTS]
    assert all("'can'" in note for f in found for note in f["notes"])


@pytest.mark.parametrize(
    ("preset", "names", "is_error"),
    [
        ("mmdet2", ["50", "can"], True),
        ("mmdet3", ["50", "can"], False),
        ("mmdet2", ["a/b", "a_b"], True),
        ("detectron2", ["a/b", "a_b"], True),
        (None, ["50", "can"], False),
    ],
)
def test_class_that_training_refuses_for_its_metrics(data, monkeypatch, preset, names, is_error):
    project = data.folder / "project"
    (project / "configs" / "common").mkdir(parents=True)
    source = (PROJECT_ROOT / "configs/common/writers.py").read_text(encoding="utf-8")
    source = re.sub('preset="[a-z0-9]+"', f'preset="{preset}"' if preset else "style=1", source)
    (project / "configs/common/writers.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr("detection.writers.metric_names.PROJECT_ROOT", project)
    classes.CLASSES[:] = names
    for coco in data.splits.values():
        coco["categories"] = [{"id": k, "name": name} for k, name in enumerate(names, 1)]
        kept = [a for a in coco.get("annotations", []) if a["category_id"] < 3]
        coco |= {"annotations": kept} if kept else {}
    status, report = data.check("--no-images")
    assert status == is_error
    found = [f for f in report["findings"] if f["kind"] == "metric_collisions"]
    assert len(found) == is_error and all(names[0] in f["items"][0] for f in found)


def test_nothing_is_said_of_sound_data(data, capsys):
    before = {p: p.read_bytes() for p in map(Path, data.write())}
    status, report = data.check("--fix")
    assert status == 0
    assert [(f["kind"], f["split"]) for f in report["findings"]] == [("no_annotations", "test")]
    assert report["images_read"] == 13
    assert {p: p.read_bytes() for p in before} == before
    shown = capsys.readouterr().out
    assert "0 errors, 0 warnings, 1 note" in shown and "nothing to fix" in shown
    for split, coco in data.splits.items():
        fixed = json.loads((data.folder / "fixed" / f"{split}.json").read_text(encoding="utf-8"))
        assert fixed == {**coco, "fixes": {}}


def fixed(data, split="train") -> dict:
    return json.loads((data.folder / "fixed" / f"{split}.json").read_text(encoding="utf-8"))


def fixed_annotation(data, number=5) -> dict:
    (annotation,) = (a for a in fixed(data)["annotations"] if a["id"] == number)
    return annotation


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"bbox": [60, 5, 9, 10]}, {"bbox": [60, 5, 4, 10], "area": 40}),
        ({"bbox": [-6, -3, 9.5, 10]}, {"bbox": [0, 0, 3.5, 7], "area": 24.5}),
        # the area of a mask is its own
        (
            {"bbox": [60, 5, 9, 10], "area": 7, "segmentation": [[60, 5, 62, 5, 62, 9]]},
            {"bbox": [60, 5, 4, 10], "area": 7, "segmentation": [[60, 5, 62, 5, 62, 9]]},
        ),
        ({"area": [1]}, {"area": 21.5 * 15}),
        ({"iscrowd": True, "ignore": 0}, {"iscrowd": True}),
        ({"iscrowd": "true"}, {"iscrowd": 1}),
        ({"iscrowd": None}, {"iscrowd": 0}),
        ({"ignore": 1}, {"iscrowd": 1}),
        ({"image_id": "1", "category_id": 2.0}, {"image_id": 1, "category_id": 2}),
    ],
)
def test_what_fixed_annotations_look_like(data, before, after):
    annotation = data.splits["train"]["annotations"][4]
    annotation.update(before)
    status, _ = data.check("--fix")
    assert status == 0
    repaired = fixed_annotation(data)
    assert repaired.items() >= after.items()
    for key in annotation.keys() - before.keys() - after.keys():
        assert repaired[key] == annotation[key]


def test_corners_become_boxes(data):
    wanted = copy.deepcopy(data.splits["train"]["annotations"])
    write_corners(data)
    data.check("--fix")
    assert fixed(data)["annotations"] == wanted


def test_large_boxes_are_not_taken_for_corners(data):
    """One object that fills each image also has w > x and h > y."""
    for a in data.splits["train"]["annotations"]:
        a["bbox"] = [2, 2, WIDTH - 4 - a["category_id"], HEIGHT - 4]
    assert "corners" not in kinds(data.check()[1]["findings"])


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_drawn_before_exif_turned_the_image_are_turned(data, orientation):
    turn_image(data, orientation)
    boxes = [a["bbox"] for a in data.splits["train"]["annotations"] if a["image_id"] == 1]
    with Image.open(data.images / "train/1 사진.jpg") as image:
        lying, upright = np.asarray(image), np.asarray(ImageOps.exif_transpose(image))
    data.check("--fix")
    turned = [a["bbox"] for a in fixed(data)["annotations"] if a["image_id"] == 1]
    for (x, y, w, h), (left, top, width, height) in zip(boxes, turned, strict=True):
        if (w, h) == (20, 10):  # whole pixels
            inside = lying[y : y + h, x : x + w].reshape(-1, 3)
            found = upright[top : top + height, left : left + width].reshape(-1, 3)
            assert sorted(inside.tolist()) == sorted(found.tolist())
    assert fixed(data)["images"][1]["width"] == HEIGHT


def test_annotations_of_a_file_listed_twice_are_joined(data):
    list_file_twice(data)
    data.check("--fix")
    assert fixed_annotation(data)["image_id"] == 1
    assert len(fixed(data)["images"]) == COUNTS["train"]


def test_shared_images_stay_where_they_are_scored(data):
    copy_image_to_val(data)
    list_image_in_test_too(data)
    _, report = data.check("--fix=drop")
    notes = {f["split"]: f["notes"] for f in report["findings"] if f["kind"] == "shared_images"}
    assert notes == {
        "train": ["val: val/2 사진.jpg; test: train/1 사진.jpg"],
        "val": ["train: train/1 사진.jpg; test: train/1 사진.jpg"],
    }
    assert [i["id"] for i in fixed(data)["images"]] == [0, 2, 3, 4, 5, 6, 7]
    assert all(a["image_id"] != 1 for a in fixed(data)["annotations"])
    assert [i["id"] for i in fixed(data, "val")["images"]] == [0, 1]
    assert len(fixed(data, "test")["images"]) == 3


def test_no_image_to_predict_is_taken_out(data):
    (data.images / "test/0 사진.jpg").unlink()
    (data.images / "test/1 사진.jpg").write_bytes(b"")
    status, report = data.check("--fix")
    assert status == 1
    assert kinds(report["findings_left"]) >= {"missing_images", "unreadable_images"}
    assert fixed(data, "test")["images"] == data.splits["test"]["images"]


def separate_folders(data) -> list[str]:
    """Train and val of one class in folders of their own, in which the files have equal names."""
    files = []
    for split in ("train", "val"):
        coco = data.splits[split]
        for k, image in enumerate(coco["images"]):
            image["file_name"] = f"frame_{k:06}.PNG"
            data.draw(f"{split}/images/{image['file_name']}", seed=len(split) * 100 + k)
        files.append(str(data.folder / f"{split}.json"))
    data.write()
    return files


def test_equal_names_in_folders_of_their_own(data):
    """A root for each file; images of equal names are not the same, those of equal content are."""
    files = separate_folders(data)
    report, fixed_folder = data.folder / "report.json", str(data.folder / "fixed")
    more = ["--json", str(report), "--fix", "--output", fixed_folder]

    def check(*options: str) -> tuple[int, dict]:
        options = [part for option in options for part in ("--image-root", option)]
        status = tool.main([*files, *options, *more])
        return status, json.loads(report.read_text(encoding="utf-8"))

    roots = [f"{data.images}/{split}/images" for split in ("train", "val")]
    for options in (
        [f"{files[0]}={roots[0]}", f"{files[1]}={roots[1]}"],
        [f"train={roots[0]}", f"val={roots[1]}"],
        [roots[0], f"{os.path.relpath(files[1])}={roots[1]}"],
    ):
        status, found = check(*options)
        assert (status, found["findings"]) == (0, []), options
        assert found["images_read"] == COUNTS["train"] + COUNTS["val"]
        assert fixed(data) == {**data.splits["train"], "fixes": {}}

    # no image is there: none is shared; both folders are named, as either has these names
    status, found = check(str(data.images))
    assert status == 1 and kinds(found["findings"]) == {"missing_images"}
    notes = {f["split"]: f["notes"][0] for f in found["findings"]}
    assert roots[0] in notes["train"] and roots[1] not in notes["train"]  # val has too few
    assert all(root in notes["val"] for root in roots)

    # with the root of train for both, each image of val is one of train, which is not fixed
    status, found = check(roots[0])
    assert status == 1 and kinds(found["findings"]) == {"shared_images"}
    assert fixed(data) == {**data.splits["train"], "fixes": {}}

    # and another name with the same pixels is found
    os.replace(f"{roots[0]}/frame_000003.PNG", f"{roots[1]}/frame_000000.PNG")
    with Image.open(f"{roots[1]}/frame_000000.PNG") as image:
        image.save(f"{roots[0]}/frame_000003.PNG", compress_level=1)
    _, found = check(f"train={roots[0]}", f"val={roots[1]}")
    (shared,) = (f for f in found["findings"] if f["kind"] == "shared_images")
    assert (shared["split"], shared["items"]) == ("train", ["frame_000003.PNG"])


def test_root_of_no_file_is_one_line(data, capsys):
    files = data.write()
    assert tool.main([*files, "--image-root", f"{data.folder}/tain.json={data.images}"]) == 2
    error = capsys.readouterr().err
    assert "tain.json is none of the files" in error and error.count("\n") == 1


def test_root_with_an_equals_sign(data):
    data.images = data.images.rename(data.folder / "size=64.json=1")
    assert data.check()[0] == 0


def test_roots_and_files_are_those_of_the_config(data):
    separate_folders(data)
    config = data.folder / "mine.py"
    config.write_text(
        "dataset = dict(\n"
        + "".join(
            f"    {split}=dict(json_file={str(data.folder / split)!r} + '.json',\n"
            f"        image_root={f'{data.images}/{split}/images'!r}),\n"
            for split in ("train", "val")
        )
        + ")\n",
        encoding="utf-8",
    )
    report = data.folder / "report.json"
    assert tool.main(["--config-file", str(config), "--json", str(report)]) == 0
    found = json.loads(report.read_text(encoding="utf-8"))
    assert (list(found["files"]), found["images_read"]) == (["train", "val"], 11)


def test_folds(data, capsys):
    """Of a random split, of one made by `make split`, and of an older json."""
    import split_dataset

    copy_image(data)  # image 2 is image 1 under another name
    files = data.write()
    folds = data.folder / "folds"
    train = data.splits["train"]

    def write_fold(name: str, val_ids: set, coco: dict) -> None:
        (folds / name).mkdir(parents=True)
        for part in ("train", "val"):
            is_in = {i["id"]: (i["id"] in val_ids) == (part == "val") for i in coco["images"]}
            images = [i for i in coco["images"] if is_in[i["id"]]]
            boxes = [a for a in coco["annotations"] if is_in[a["image_id"]]]
            (folds / name / f"{part}.json").write_text(
                json.dumps({**coco, "images": images, "annotations": boxes}), encoding="utf-8"
            )

    def found() -> dict:
        status, report = data.check()
        of_folds = [f for f in report["findings"] if f["split"].startswith("folds/")]
        return status, {(f["split"], f["kind"]): (f["items"], f["notes"]) for f in of_folds}

    write_fold("0", {1, 3}, train)
    name, copied = (train["images"][k]["file_name"] for k in (1, 2))
    torn = {("folds/0", "torn_images"): ([name], [f"train: {copied}"])}
    assert found() == (1, torn)
    assert "make split" in capsys.readouterr().out
    status, report = data.check("--fix")
    assert status == 1 and "torn_images" in kinds(report["findings_left"])

    arguments = [files[0], "--image-root", str(data.images), "--folds", "3", "--force"]
    split_dataset.main(arguments)
    assert found() == (0, {})

    first, *others = train["images"]
    train["images"] = [*others, {**first, "id": 99, "file_name": "train/new.jpg"}]
    data.draw("train/new.jpg", seed=1234)
    for annotation in train["annotations"]:
        if annotation["image_id"] == first["id"]:
            annotation["image_id"] = 99
    notes = [first["file_name"], "train/new.jpg"], ["not in train.json", "in train.json alone"]
    assert found() == (0, {(f"folds/{k}", "old_folds"): notes for k in range(3)})


def test_superfluous_folder_is_named(data):
    for image in data.splits["train"]["images"]:
        (data.images / image["file_name"]).rename(data.images / Path(image["file_name"]).name)
    _, report = data.check()
    (finding,) = (f for f in report["findings"] if f["kind"] == "missing_images")
    assert len(finding["notes"]) == COUNTS["train"]
    assert all("folder is superfluous" in note for note in finding["notes"])
    assert not any("is that image_root" in note for note in finding["notes"])


def test_metadata_of_a_jpeg_do_not_make_another_image(data):
    source = data.images / "train/1 사진.jpg"
    exif = Image.Exif()
    exif[0x010E] = "a description"
    content = source.read_bytes()
    segment = b"Exif\0\0" + exif.tobytes()[6:]
    segment = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    (data.images / "val/2 사진.jpg").write_bytes(content[:2] + segment + content[2:])
    _, report = data.check()
    (shared,) = (f for f in report["findings"] if f["kind"] == "shared_images")
    assert shared["items"] == ["train/1 사진.jpg"]


def test_an_image_beyond_pillows_limit_is_sound(data):
    """As it is to training; 196 million pixels."""
    large = Image.linear_gradient("L").resize((14000, 14000))
    large.save(data.images / "train/1 사진.jpg")
    data.splits["train"]["images"][1].update(width=14000, height=14000)
    status, report = data.check("--fix")
    assert status == 0 and kinds(report["findings"]) == {"no_annotations"}
    assert fixed(data)["images"] == data.splits["train"]["images"]


def test_a_wrong_folder_takes_nothing_out_and_is_reported(data, capsys):
    files = data.write()
    assert tool.main([*files, "--image-root", str(data.folder)]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert f"but {data.images} has it: is that image_root?" in shown
    elsewhere = data.folder / "elsewhere"
    elsewhere.mkdir()
    arguments = ["--image-root", str(elsewhere), "--fix=drop", "--output", str(data.folder / "out")]
    assert tool.main([*files, *arguments]) == 1
    made = json.loads((data.folder / "out" / "train.json").read_text(encoding="utf-8"))
    assert made == {**data.splits["train"], "fixes": {}}
    # with the folder that has them further down, the names follow
    arguments = ["--image-root", str(data.folder), "--fix", "--output", str(data.folder / "out")]
    assert tool.main([*files, *arguments]) == 0
    made = json.loads((data.folder / "out" / "train.json").read_text(encoding="utf-8"))
    assert [i["file_name"] for i in made["images"]] == [
        f"images/{i['file_name']}" for i in data.splits["train"]["images"]
    ]


def test_several_damages_at_once_are_fixed_and_the_copy_can_be_registered(data):
    from detection.data.datasets import register_split
    from detectron2.data import DatasetCatalog

    for plant in (forget_sizes, copy_image, write_corners, add_unused_category):
        plant(data)
    edit(id=0)(data)
    data.splits["train"]["annotations"][7]["image_id"] = 1000
    data.splits["train"]["annotations"][8] = None
    with pytest.raises(UserError):
        DatasetCatalog.get(register_split("repaired", str(data.write()[0]), str(data.images)))
    status, _ = data.check("--fix=drop")
    assert status == 0
    path = str(data.folder / "fixed" / "train.json")
    records = DatasetCatalog.get(register_split("repaired", path, str(data.images)))
    assert len(records) == COUNTS["train"] - 1
    assert records[0]["annotations"][0]["bbox"] == [2, 30, 20.5, 15]


def test_pycocotools_never_finds_annotation_0_and_we_do(data):
    """Every box is found with the right class; once fixed, pycocotools says so too."""
    from detection.evaluation.average_precision import average_precision

    edit(id=0)(data)
    data.check("--fix")
    scores = []
    for coco in (data.splits["train"], fixed(data)):
        results = [{**a, "score": 0.9} for a in coco["annotations"]]
        ground_truth = COCO()
        ground_truth.dataset = copy.deepcopy(coco)
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        scores.append((evaluation.stats[0], average_precision(coco, results)["AP"]))
    (with_0, ours_with_0), (without, ours) = scores
    assert with_0 < 0.99 and without == pytest.approx(1)
    assert ours_with_0 == ours == pytest.approx(100)


def test_differing_categories_of_splits(data):
    number_val_otherwise(data)
    _, report = data.check()
    findings = [f for f in report["findings"] if f["kind"] == "differing_categories"]
    assert [f["split"] for f in findings] == ["val", "test"]
    assert findings[0]["items"] == CLASSES
    assert findings[0]["notes"] == ["id 1", "id 2", "id 3"]


def test_without_images(data, capsys):
    cut_file(data)
    status, report = data.check("--no-images")
    assert (status, report["images_read"]) == (0, 0)
    remove_image(data)
    assert data.check("--no-images")[0] == 1  # whether a file is there, is seen from outside
    assert "no image file read" in capsys.readouterr().out


# -- what tools export: one image, two classes, one annotation -----------------------------------

BOX = [8, 8, 20, 20]
SQUARE = [8, 8, 28, 8, 28, 28, 8, 28]
RUNS = [8 * 64 + 8] + [20, 44] * 19 + [20, 64 * 64 - 28 * 64 + 36]


class Export:
    """A json as small as can be; `fix(*words)` gives exit status, report and what is trained on."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.root = folder / "images"
        self.draw("a.png")
        self.image = {"id": 1, "file_name": "a.png", "width": 64, "height": 64}
        self.annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": BOX}
        self.coco = {
            "images": [self.image],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [self.annotation],
        }

    def draw(self, name: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)

    def load(self, path: Path) -> list[tuple]:
        """(file below the root, [(class, box)]) of each image, from the project's own loader."""
        from detection.data.datasets import register_split
        from detectron2.data import DatasetCatalog

        records = DatasetCatalog.get(register_split("export", str(path), str(self.root)))
        assert all(Path(r["file_name"]).is_file() for r in records)
        return [
            (
                os.path.relpath(r["file_name"], self.root),
                [(classes.CLASSES[a["category_id"]], list(a["bbox"])) for a in r["annotations"]],
            )
            for r in records
        ]

    def write(self) -> Path:
        path = self.folder / "export.json"
        path.write_text(json.dumps(self.coco), encoding="utf-8")
        return path

    def fix(self, word: str = "--fix") -> tuple[int, dict, list | None]:
        path, report = self.write(), self.folder / "report.json"
        before = path.read_bytes()
        arguments = [str(path), "--image-root", str(self.root), "--json", str(report), word]
        status = tool.main([*arguments, "--output", str(self.folder / "fixed")])
        assert path.read_bytes() == before
        loaded = None if status else self.load(self.folder / "fixed" / "export.json")
        return status, json.loads(report.read_text(encoding="utf-8")), loaded

    def refusal(self) -> str:
        with pytest.raises(UserError) as error:
            self.load(self.write())
        return str(error.value)


@pytest.fixture
def export(tmp_path):
    of_project = classes.CLASSES.copy()
    classes.CLASSES[:] = ["cat", "dog"]
    yield Export(tmp_path)
    classes.CLASSES[:] = of_project


def without_box(**fields):
    def plant(export):
        del export.annotation["bbox"]
        export.annotation.update(fields)

    return plant


def with_annotation(**fields):
    return lambda export: export.annotation.update(fields)


def with_text_ids(export):
    export.image["id"] = export.annotation["image_id"] = "2007_000001"


def with_leading_zeros(export):
    export.draw("b.png")
    export.coco["images"].insert(0, {**export.image, "id": "1", "file_name": "b.png"})
    export.image["id"] = export.annotation["image_id"] = "01"


def with_compressed_runs(export):
    from pycocotools import mask

    whole = mask.frPyObjects({"size": [64, 64], "counts": RUNS}, 64, 64)
    without_box(segmentation={"size": [64, 64], "counts": whole["counts"].decode()})(export)


KEPT = {
    "box from polygons": without_box(segmentation=[SQUARE]),
    "box from two polygons": without_box(segmentation=[SQUARE[:6], SQUARE[4:] + SQUARE[:2]]),
    "box from runs": without_box(segmentation={"size": [64, 64], "counts": RUNS}),
    "box from compressed runs": with_compressed_runs,
    "null box": with_annotation(bbox=None, segmentation=[SQUARE]),
    "box without area": with_annotation(bbox=[8, 8, 0, 0], segmentation=[SQUARE]),
    "quoted box": with_annotation(bbox=["8", "8", "20", "20"]),
    "quoted box with points": with_annotation(bbox=["8.0", " 8", "20", "2e1"]),
    "box as text": with_annotation(bbox="[8, 8, 20, 20]"),
    "box as object": with_annotation(bbox={"x": 8, "y": 8, "width": 20, "height": 20}),
    "box as corners": with_annotation(bbox={"xmin": 8, "ymin": 8, "xmax": "28", "ymax": 28}),
    "text image ids": with_text_ids,
    "flat polygon": with_annotation(segmentation=SQUARE),
    "polygon of points": with_annotation(segmentation=[[8, 8], [28, 8], [28, 28], [8, 28]]),
    "polygon of two points": with_annotation(segmentation=[[8, 8, 28, 28]]),
    "category by name": with_annotation(category_id="cat"),
    "text annotation id": with_annotation(id="7d1f"),
    "no annotation id": with_annotation(id=None),
    "area in quotes": with_annotation(area="400"),
}


@pytest.mark.parametrize("plant", KEPT.values(), ids=KEPT)
def test_what_can_be_read_is_kept(export, plant):
    plant(export)
    status, report, loaded = export.fix()
    assert (status, loaded) == (0, [("a.png", [("cat", BOX)])])
    assert report["removed"] == report["refused"] == {}
    assert set(report["changes"]["export"].values()) == {1}


def test_text_ids_that_are_one_number_stay_apart(export):
    with_leading_zeros(export)
    status, _, loaded = export.fix()
    assert (status, sorted(loaded)) == (0, [("a.png", [("cat", BOX)]), ("b.png", [])])


def test_a_polygon_that_is_wrapped_is_a_mask(export):
    export.annotation["segmentation"] = SQUARE
    export.fix()
    made = json.loads((export.folder / "fixed" / "export.json").read_text(encoding="utf-8"))
    assert made["annotations"][0]["segmentation"] == [SQUARE]


NAMES = [
    "images/a.png",
    "x/y/a.png",
    "./../other/a.png",
    "/home/someone/data/a.png",
    "C:\\data\\a.png",
    "..\\label\\a.png",
    "images\\1/a.png",
    "../../label-studio/label-studio/media/upload/1/a.png",
    "/data/local-files/?d=1/a.png",
    "/data/upload/1/0a1b2c3d-a.png",
    "s3://bucket/some%20where/a.png",
    "a",
    "x/a",
    "A.PNG",
]


@pytest.mark.parametrize("place", ["a.png", "deep/er/a.png"])
@pytest.mark.parametrize("name", NAMES)
def test_images_are_found_by_their_base_name(export, name, place):
    (export.root / "a.png").unlink()
    export.draw("b.png")
    export.draw(place)
    export.image["file_name"] = name
    status, report, loaded = export.fix()
    assert (status, loaded) == (0, [(place, [("cat", BOX)])])
    assert report["changes"] == {"export": {"missing_images": 1}}


def test_of_several_images_with_the_name_the_nearest_is_meant(export):
    (export.root / "a.png").unlink()
    for place in ("train/a.png", "val/a.png"):
        export.draw(place)
    export.image["file_name"] = "C:\\data\\val\\a.png"
    assert export.fix()[2] == [("val/a.png", [("cat", BOX)])]
    export.image["file_name"] = "other/a.png"
    status, report, _ = export.fix()
    assert (status, report["changes"]) == (1, {"export": {}})


def test_an_image_of_another_size_is_not_taken_for_a_missing_one(export):
    export.image.update(file_name="x/a.png", width=60)
    status, report, _ = export.fix()
    assert status == 1 and "other_sizes" in kinds(report["findings_left"])


def test_no_two_images_become_one(export):
    export.image["file_name"] = "x/a.png"
    export.coco["images"].append({**export.image, "id": 2, "file_name": "y/a.png"})
    status, report, _ = export.fix()
    assert (status, report["changes"]) == (1, {"export": {}})
    export.image["file_name"] = "a.png"
    status, report, _ = export.fix()
    assert status == 1 and "repeated_file_names" not in report["changes"]["export"]


REFUSED = {
    "null category": with_annotation(category_id=None),
    "no box and no mask": without_box(),
    "unknown category": with_annotation(category_id=9),
    "missing image": lambda export: export.image.update(file_name="b.png"),
    "box without area or mask": with_annotation(bbox=[8, 8, 0, 20]),
}


@pytest.mark.parametrize("plant", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("count", [1, 40])
def test_no_image_loses_all_it_has_without_a_word(export, plant, count, capsys):
    for k in range(2, count + 1):
        export.draw(f"{k}.png")
        export.coco["images"].append({**export.image, "id": k, "file_name": f"{k}.png"})
        export.coco["annotations"].append({**export.annotation, "id": k, "image_id": k})
    plant(export)
    before = copy.deepcopy(export.coco)
    status, report, _ = export.fix()
    made = json.loads((export.folder / "fixed" / "export.json").read_text(encoding="utf-8"))
    assert (status, made) == (1, {**before, "fixes": {}})
    # an only image stays in any case, and then there is nothing to refuse
    if not (count == 1 and export.image["file_name"] == "b.png"):
        assert (
            report["refused"]["export"].items()
            >= {"annotations": 1, "of_annotations": count}.items()
        )
        shown = " ".join(capsys.readouterr().out.split())
        assert f"removes 1 of {count} annotations" in shown
        assert ("--fix=drop" in shown.split("refused")[1]) == (count > 1)
    status, report, loaded = export.fix("--fix=drop")
    if count == 1:
        assert status == 1 and report["changes"] == {"export": {}}
    else:
        assert status == 0 and sum(len(boxes) for _, boxes in loaded) == count - 1
        assert sum(report["changes"]["export"].values()) == 1


def test_few_are_taken_out_unasked_and_many_are_not(export):
    export.coco["annotations"] = [
        {**export.annotation, "id": k, "bbox": [k, 8, 20, 20]} for k in range(1, 41)
    ]
    for broken, status in ((1, 0), (2, 0), (3, 1)):
        for a in export.coco["annotations"][:broken]:
            a["bbox"] = None
        found, report, _ = export.fix()
        assert found == status
        kind = "refused" if status else "removed"
        assert report[kind]["export"]["annotations"] == broken


def test_only_large_removals_are_refused(export, capsys):
    """40 boxes of one image: one without numbers goes, six outside stay and are named."""
    export.coco["annotations"] = [
        {**export.annotation, "id": k, "bbox": [k, 8, 20, 20]} for k in range(1, 41)
    ]
    first, *others = export.coco["annotations"]
    first["bbox"] = None
    others[0]["iscrowd"] = "0"
    for a in others[1:7]:
        a["bbox"] = [a["bbox"][0] + 100, 8, 20, 20]
    status, report, _ = export.fix()
    assert status == 1
    assert report["removed"]["export"]["kinds"] == {"not_four_numbers": 1}
    assert report["refused"]["export"]["kinds"] == {"outside": 6}
    assert report["changes"] == {"export": {"not_four_numbers": 1, "odd_iscrowd": 1}}
    assert {f["kind"]: f["count"] for f in report["findings_left"]}["outside"] == 6
    made = json.loads((export.folder / "fixed" / "export.json").read_text(encoding="utf-8"))
    assert len(made["annotations"]) == 39
    shown = " ".join(capsys.readouterr().out.split()).split("refused")[1]
    assert KINDS["outside"].what in shown and "ARGS=--fix=drop" in shown
    status, report, _ = export.fix("--fix=drop")
    assert (status, report["refused"]) == (0, {})
    assert report["removed"]["export"]["kinds"] == {"not_four_numbers": 1, "outside": 6}


@pytest.mark.parametrize(("first", "shift"), [(0, 1), (2, -1)])
def test_classes_that_are_off_by_one_are_never_trained_on(export, first, shift):
    export.annotation["category_id"] = first
    export.coco["annotations"].append({**export.annotation, "id": 2, "category_id": first + 1})
    export.coco["annotations"][1]["bbox"] = [30, 30, 9, 9]
    wanted = [("a.png", [("cat", BOX), ("dog", [30, 30, 9, 9])])]
    for word in ("--fix", "--fix=drop"):
        status, report, _ = export.fix(word)
        assert status == 1
        assert "shifted_category_ids" in kinds(report["findings_left"])
        assert report["removed"] == {}
    assert "--fix=shift" in export.refusal() and "ARGS=--fix`" not in export.refusal()
    assert export.fix("--fix=shift")[::2] == (0, wanted)


def test_one_id_of_two_files_is_left_to_people(export):
    export.draw("b.png")
    export.coco["images"].append({**export.image, "file_name": "b.png"})
    status, report, _ = export.fix()
    assert status == 1 and report["changes"] == {"export": {}}
    export.coco["images"][1]["id"] = export.image["id"] = 2  # that no annotation has
    export.draw("c.png")
    export.coco["images"].append({**export.image, "id": 1, "file_name": "c.png"})
    status, _, loaded = export.fix()
    assert status == 0 and sorted(loaded) == [
        ("a.png", []),
        ("b.png", []),
        ("c.png", [("cat", BOX)]),
    ]


@pytest.mark.parametrize(
    ("plant", "is_fixable"),
    [
        (KEPT["quoted box"], True),
        (KEPT["box from polygons"], True),
        (with_text_ids, True),
        (lambda export: export.image.update(file_name="x/a.png"), True),
        (REFUSED["null category"], False),
        (REFUSED["missing image"], False),
    ],
)
def test_training_recommends_a_fix_that_helps_and_no_other(export, plant, is_fixable):
    plant(export)
    assert ("make check ARGS=--fix`" in export.refusal()) == is_fixable
    assert (export.fix()[0] == 0) == is_fixable


# -- files that cannot be checked or written ------------------------------------------------------


def test_unreadable_files_are_reported_and_the_others_checked(data, capsys):
    files = data.write()
    Path(files[1]).write_text("{", encoding="utf-8")
    missing = str(data.folder / "missing.json")
    assert tool.main([*files, missing, "--image-root", str(data.images)]) == 2
    out, err = capsys.readouterr()
    assert [line.split(": ")[1] for line in err.splitlines()] == [files[1], missing]
    assert out.splitlines()[0].startswith("train") and out.splitlines()[1].startswith("test")


def test_originals_are_never_overwritten(data, capsys):
    edit(id=0)(data)
    for path in data.write():
        before = Path(path).read_bytes()
        arguments = [path, "--image-root", str(data.images), "--fix"]
        assert tool.main([*arguments, "--output", str(data.folder)]) == 2
        line = capsys.readouterr().err
        assert f": {path}: " in line and line.count("\n") == 1
        assert Path(path).read_bytes() == before
    assert data.check("--fix")[0] == data.check("--fix")[0] == 0  # its own copies it may
    copies = [str(data.folder / "fixed" / f"{split}.json") for split in COUNTS]
    assert tool.main([*copies, "--fix", "--output", str(data.folder / "fixed")]) == 2
    assert not list(data.folder.rglob("*.partial"))


def test_the_report_overwrites_no_input(data, capsys):
    path = data.write()[0]
    before = Path(path).read_bytes()
    assert tool.main([path, "--image-root", str(data.images), "--json", path]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and Path(path).read_bytes() == before


@pytest.mark.parametrize("key", ["attributes", "id", "bbox", "segmentation"])
def test_deep_nesting_ends_in_no_traceback(data, capsys, key):
    nested = []
    for _ in range(490):  # more levels than a deep copy can follow
        nested = [nested]
    data.splits["train"]["annotations"][4][key] = nested
    status, report = data.check("--fix")
    assert status == 0 or "train" in report["refused"]


def test_a_name_without_end_is_shown_short(data, capsys):
    data.splits["train"]["images"][1]["file_name"] = "x" * 10**6
    data.check()
    assert len(capsys.readouterr().out) < 10_000


def test_copy_that_cannot_be_written_is_one_line(data, capsys):
    files = data.write()
    (data.folder / "file").write_text("")
    arguments = ["--fix", "--output", str(data.folder / "file" / "folder")]
    assert tool.main([*files, "--image-root", str(data.images), *arguments]) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error and error.count("\n") == 1


def test_as_a_command_from_elsewhere(data):
    data.write()
    command = [sys.executable, tool.__file__, "--json", "-"]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(data.folder)}
    environment["PYTHONIOENCODING"] = "ascii:strict"
    arguments = ["--image-root", str(data.images)]
    done = subprocess.run(
        [*command, *arguments], cwd=data.folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr  # the project's own classes are others
    report = json.loads(done.stdout)
    assert list(report["files"]) == ["train", "val", "test"]
    assert report["images_read"] == 13
    assert "categories that are not the classes" in done.stderr
    assert (
        f"'{CLASSES[1]}'"
        in next(f for f in report["findings"] if f["kind"] == "categories")["items"][0]
    )


def test_lines_are_aligned_with_wide_names(data, capsys):
    path = data.folder / "한국어.json"
    files = data.write()
    path.write_text(json.dumps(data.splits["val"]), encoding="utf-8")
    tool.main([*files[:1], str(path), "--image-root", str(data.images)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train         8 images")
    assert lines[1].startswith("한국어        3 images")


def test_backslashes_in_a_path_are_called_so(data, capsys):
    data.splits["train"]["images"][1]["file_name"] = "train\\1 사진.jpg"
    _, report = data.check()
    (missing,) = (f for f in report["findings"] if f["kind"] == "missing_images")
    assert missing["notes"] == ["train/1 사진.jpg is there"]
    assert "NFC" not in capsys.readouterr().out.partition("effect")[0]


NESTED = json.loads("[" * 500 + "]" * 500)
LONG = "x" * 10**7


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("annotations", {"id": NESTED}),
        ("annotations", {"bbox": NESTED}),
        ("annotations", {"segmentation": NESTED}),
        ("annotations", {"attributes": NESTED}),
        ("images", {"file_name": NESTED}),
        ("images", {"file_name": LONG}),
        ("images", {LONG: LONG}),
        ("categories", {"name": NESTED}),
        ("categories", {"name": LONG}),
    ],
)
def test_deep_and_long_values_end_in_a_few_lines(data, capsys, section, fields):
    data.splits["train"][section][1].update(fields)
    for arguments in ([], ["--fix", "--output", str(data.folder / "fixed")]):
        status = tool.main([data.write()[0], "--image-root", str(data.images), *arguments])
        shown = capsys.readouterr()
        assert status in (0, 1, 2)
        assert len(shown.out) + len(shown.err) < 10_000 and "Traceback" not in shown.err
        assert status < 2 or (shown.err.count("\n") == 1 and "train" in shown.err)


# -- anything at all ------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["", "1", "\ud800", "a\0b", 10**30, -1, 0, 1e308, "x" * 300, *CLASSES]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "name", "bbox", "size", "counts", "images"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def places(node: dict | list) -> list[tuple]:
    """(parent, key) of every value in it, at any depth."""
    found = []
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        found.append((node, key))
        if isinstance(node[key], dict | list):
            found += places(node[key])
    return found


@st.composite
def damaged(draw, coco: dict) -> bytes:
    """The json with a few values replaced, removed or doubled, or cut, or nonsense."""
    coco = copy.deepcopy(coco)
    for _ in range(draw(st.sampled_from([1, 1, 1, 3]))):
        node, key = draw(st.sampled_from(places(coco) or [({"": 0}, "")]))
        action = draw(st.sampled_from(["replace", "nudge", "nudge", "remove", "double"]))
        if action == "remove":
            del node[key]
        elif action == "double" and isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        else:
            node[key] = draw(st.integers(0, 9) if action == "nudge" else VALUES)
    content = json.dumps(coco, ensure_ascii=draw(st.booleans()))
    content = content.encode("utf-8", draw(st.sampled_from(["surrogatepass", "backslashreplace"])))
    return content[: draw(st.integers(0, 3000))] if draw(st.integers(0, 20)) == 20 else content


@pytest.mark.slow
def test_no_file_ends_in_a_traceback(tmp_path_factory, project_classes):
    from detection.data.datasets import register_split
    from detectron2.data import DatasetCatalog

    data = Data(tmp_path_factory.mktemp("fuzz"))
    coco = data.splits["train"]
    coco["images"], coco["annotations"] = coco["images"][:3], coco["annotations"][:9]
    coco["annotations"][0]["segmentation"] = [[5, 5, 25, 5, 25, 15]]
    coco["annotations"][1].update(segmentation={"size": [48, 64], "counts": [0, 3072]}, iscrowd=1)
    coco["annotations"][2]["keypoints"] = [5, 5, 2]
    val = data.write()[1]
    path, output = data.folder / "odd.json", data.folder / "fixed"
    seen = {"loaded": 0, "refused": 0}

    @settings(
        max_examples=200,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(damaged(coco), damaged(coco), damaged(coco), st.binary(max_size=60)))
    def run(content):
        path.write_bytes(content)
        arguments = [str(path), val, "--image-root", str(data.images)]
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with redirect_stdout(out), redirect_stderr(err):
            status = tool.main([*arguments, "--fix", "--output", str(output)])
        err.seek(0)
        lines = err.read().splitlines()
        assert len(lines) == (status == 2), lines
        try:
            DatasetCatalog.get(register_split("fuzz", str(path), str(data.images)))
            seen["loaded"] += 1
        except UserError as e:
            assert "\n" not in str(e)
            seen["refused"] += 1
        if status == 0:  # what is called sound, loads
            DatasetCatalog.get(register_split("fuzz", str(output / "odd.json"), str(data.images)))

    run()
    assert min(seen.values()) > 10, seen  # else it tries only one of the two
