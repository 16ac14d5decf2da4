"""tools/convert_dataset.py: exports in the layouts that each tool writes, and YOLO's way back."""

import base64
import csv
import io
import json
import random
import shutil
import zlib
from pathlib import Path

import convert_dataset as tool
import numpy as np
import pytest
import yaml
from detection.checks.annotations import check_annotations
from detection.data import coco as coco_files
from PIL import Image

CLASSES = ["고양이", 'dog\'s "toy"', "car/van"]
CAT, DOG, CAR = CLASSES
SIZE = (60, 40)  # of all images


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty folder `datasets`, in which an export is put."""
    monkeypatch.setattr(tool, "CLASSES", CLASSES)
    monkeypatch.setattr(coco_files, "CLASSES", CLASSES)
    (tmp_path / "datasets").mkdir()
    return tmp_path / "datasets"


def draw(path: Path, size=SIZE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(path, **options)
    return path


def write(path: Path, content: object) -> Path:
    """A json, or a text as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    return path


def run(root: Path, *args: object) -> int:
    args = [*map(str, args), f"--image-root={root}"]
    if not any(arg.startswith("--output") for arg in args):
        args.append(f"--output={root}/train.json")
    return tool.main(args)


def convert(root: Path, *args: object) -> dict:
    """Converts, and returns what is in train.json, whose images are all there."""
    assert run(root, *args) == 0
    return read(root / "train.json")


def read(path: Path) -> dict:
    coco = json.loads(path.read_text(encoding="utf-8"))
    assert [c["name"] for c in coco["categories"]] == CLASSES
    assert not any(f.is_error for f in check_annotations(coco, str(path.parent)))
    return coco


def refusal(capsys, root: Path, *args: object) -> str:
    """The one line with which the tool refuses; nothing is written."""
    before = sorted(root.rglob("*"))
    assert run(root, *args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert sorted(root.rglob("*")) == before
    return error


def boxes(coco: dict) -> dict[str, list]:
    """{file name: [(class, x, y, w, h)]}, in order."""
    names = {c["id"]: c["name"] for c in coco["categories"]}
    files = {i["id"]: i["file_name"] for i in coco["images"]}
    found = {file: [] for file in files.values()}
    for a in coco["annotations"]:
        found[files[a["image_id"]]].append((names[a["category_id"]], *a["bbox"]))
    return found


# -- Roboflow --------------------------------------------------------------------------------------


def coco_json(images: list[str], annotations: list[dict]) -> dict:
    """As Roboflow writes it: an unused root category, ids from 0, the user's name in `extra`."""
    names = ["pets", CAR, CAT, DOG]
    return {
        "info": {"year": "2024", "description": "Exported from roboflow.com"},
        "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}],
        "categories": [
            {"id": k, "name": name, "supercategory": "pets" if k else "none"}
            for k, name in enumerate(names)
        ],
        "images": [
            {
                "id": k,
                "license": 1,
                "file_name": name,
                "height": SIZE[1],
                "width": SIZE[0],
                "extra": {"name": f"원본 {k}.jpg"},
            }
            for k, name in enumerate(images)
        ],
        "annotations": [
            {"id": k, "segmentation": [], "iscrowd": 0, "area": 100, **a}
            for k, a in enumerate(annotations)
        ],
    }


def roboflow_coco(root: Path) -> Path:
    export = root / "pets.v1i.coco"
    polygon = [[1, 2, 21, 2, 11, 12]]
    for split, annotations in {
        "train": [
            {"image_id": 0, "category_id": 2, "bbox": [1, 2, 20, 10], "segmentation": polygon},
            {"image_id": 0, "category_id": 1, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        ],
        "valid": [{"image_id": 0, "category_id": 3, "bbox": [5.5, 6, 7, 8]}],
        "test": [],
    }.items():
        names = [f"{split}_한_jpg.rf.0a1b.jpg", "same_jpg.rf.ff.jpg"]
        for name in names:
            draw(export / split / name)
        write(export / split / "_annotations.coco.json", coco_json(names, annotations))
    write(export / "README.roboflow.txt", "pets - v1")
    return export


def test_roboflow_coco_keeps_its_splits(root, capsys):
    export = roboflow_coco(root)
    train = convert(root, export)
    at = "pets.v1i.coco"
    assert boxes(train) == {
        f"{at}/train/train_한_jpg.rf.0a1b.jpg": [(CAT, 1, 2, 20, 10), (CAR, 0, 0, 60, 40)],
        f"{at}/train/same_jpg.rf.ff.jpg": [],
    }
    masked, crowd = train["annotations"]
    assert masked["segmentation"] == [[1, 2, 21, 2, 11, 12]] and masked["area"] == 100
    assert (masked["iscrowd"], crowd["iscrowd"]) == (0, 1)
    assert train["images"][0]["extra"] == {"name": "원본 0.jpg"}
    val = boxes(read(root / "val.json"))
    assert val[f"{at}/valid/valid_한_jpg.rf.0a1b.jpg"] == [(DOG, 5.5, 6, 7, 8)]
    assert sum(map(len, boxes(read(root / "test.json")).values())) == 0
    shown = capsys.readouterr().out
    assert "recognised as COCO, split into train, valid as val, test" in shown
    assert "categories without annotations that are not classes: pets" in shown


def test_splits_are_joined(root):
    coco = convert(root, roboflow_coco(root), "--join")
    assert [len(found) for found in boxes(coco).values()] == [2, 0, 1, 0]
    for section in ("images", "annotations"):
        assert [r["id"] for r in coco[section]] == list(range(1, len(coco[section]) + 1))
    assert not (root / "val.json").exists() and len(read(root / "test.json")["images"]) == 2


def test_roboflow_yolo(root, capsys):
    """A box, a polygon, an image without labels, one with an empty file; the same name twice."""
    export = root / "pets.v1i.yolov8"
    for split in ("train", "valid", "test"):
        for name in ("a_jpg.rf.1.jpg", "빈 곳.jpg"):
            draw(export / split / "images" / name)
        (export / split / "labels").mkdir()
        if split != "test":
            write(export / split / "labels" / "빈 곳.txt", "")
    write(export / "train/labels/a_jpg.rf.1.txt", "1 0.5 0.5 0.5 0.5\n2 0 0 0.5 0 0.25 0.5\n")
    write(export / "valid/labels/a_jpg.rf.1.txt", "0 0.5 0.5 1 1")
    data = {"train": "../train/images", "val": "../valid/images", "nc": 3, "names": CLASSES}
    write(export / "data.yaml", yaml.safe_dump(data, allow_unicode=True))
    write(export / "README.dataset.txt", "# pets")
    train = boxes(convert(root, export))
    at = "pets.v1i.yolov8"
    assert train == {
        f"{at}/train/images/a_jpg.rf.1.jpg": [(DOG, 15, 10, 30, 20), (CAR, 0, 0, 30, 20)],
        f"{at}/train/images/빈 곳.jpg": [],
    }
    val = boxes(read(root / "val.json"))
    assert val[f"{at}/valid/images/a_jpg.rf.1.jpg"] == [(CAT, 0, 0, 60, 40)]
    shown = capsys.readouterr().out
    assert "recognised as YOLO, split into train, valid as val" in shown
    assert "left out, folders without annotations: test" in shown
    assert "the upright boxes around other shapes: polygon 1" in shown


def test_roboflow_csv_and_voc(root):
    export = root / "pets.v1i.tensorflow"
    draw(export / "train" / "a.jpg")
    draw(export / "valid" / "a.jpg")
    header = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    write(export / "train" / "_annotations.csv", f"{header}a.jpg,60,40,{CAT},1,2,11,12\n")
    xml = f"""<annotation><folder></folder><filename>a.jpg</filename><object><name>{CAT}</name>
        <bndbox><xmin>3</xmin><xmax>13</xmax><ymin>4</ymin><ymax>24</ymax></bndbox></object>
        </annotation>"""
    write(export / "valid" / "a.xml", xml)
    assert boxes(convert(root, export))[f"{export.name}/train/a.jpg"] == [(CAT, 1, 2, 10, 10)]
    assert boxes(read(root / "val.json"))[f"{export.name}/valid/a.jpg"] == [(CAT, 3, 4, 10, 20)]


def test_roboflow_darknet(root, capsys):
    """The images beside the labels; each split has a file of names, in an order of its own."""
    for split, names in (("train", [DOG, CAT, CAR]), ("valid", [CAR, DOG, CAT])):
        draw(root / "export" / split / "a.jpg")
        write(root / "export" / split / "a.txt", "0 0.5 0.5 1 1")
        write(root / "export" / split / "_darknet.labels", "\n".join(names))
    assert boxes(convert(root, root / "export")) == {"export/train/a.jpg": [(DOG, 0, 0, 60, 40)]}
    assert boxes(read(root / "val.json")) == {"export/valid/a.jpg": [(CAR, 0, 0, 60, 40)]}
    assert "passed over" not in capsys.readouterr().out


def test_yolo_with_years_and_a_list_of_images(root):
    """As COCO's labels for YOLO are: labels/train2017, and train2017.txt beside."""
    for split in ("train2017", "val2017"):
        draw(root / "coco" / "images" / split / "1.jpg")
        write(root / "coco" / "labels" / split / "1.txt", "2 0.5 0.5 1 1\n")
        write(root / "coco" / f"{split}.txt", f"./images/{split}/1.jpg\n")
    write(root / "coco" / "data.yaml", yaml.safe_dump({"names": CLASSES}))
    expected = {"coco/images/train2017/1.jpg": [(CAR, 0, 0, 60, 40)]}
    assert boxes(convert(root, root / "coco")) == expected
    assert list(boxes(read(root / "val.json"))) == ["coco/images/val2017/1.jpg"]


def test_images_of_a_split_may_be_behind_a_link(root, tmp_path):
    for split in ("train", "valid"):
        draw(tmp_path / "disk" / split / "a.jpg")
        write(root / "export" / split / "labels" / "a.txt", "0 .5 .5 1 1")
        images = root / "export" / split / "images"
        images.symlink_to(tmp_path / "disk" / split, target_is_directory=True)
    write(root / "export" / "data.yaml", yaml.safe_dump({"names": CLASSES}))
    assert list(boxes(convert(root, root / "export"))) == ["export/train/images/a.jpg"]
    assert list(boxes(read(root / "val.json"))) == ["export/valid/images/a.jpg"]


def test_a_coco_file_is_converted_where_asked_to(root, capsys):
    """As Label Studio exports it: the names of its own disk, Windows' or another."""
    draw(root / "export" / "images" / "0a1b-한.jpg")
    path = "..\\..\\media\\upload\\1\\0a1b-한.jpg"
    source = coco_json([path], [{"image_id": 0, "category_id": 2, "bbox": [1, 2, 3, 4]}])
    source["annotations"][0].pop("bbox")  # but it has a polygon
    source["annotations"][0]["segmentation"] = [[1, 2, 21, 2, 11, 12]]
    write(root / "export" / "result.json", source)
    assert "is a COCO json already" in refusal(capsys, root, root / "export" / "result.json")
    expected = {"export/images/0a1b-한.jpg": [(CAT, 1, 2, 20, 10)]}
    assert boxes(convert(root, root / "export")) == expected
    args = ["--format=coco", f"--images={root}/export"]
    assert boxes(convert(root, root / "export" / "result.json", *args)) == expected


def test_what_is_beside_splits_is_not_lost(root):
    """Annotations in another folder: these are not splits."""
    for folder in ("train", "valid", "more"):
        draw(root / "l" / folder / f"{folder}.jpg")
        write(root / "l" / folder / f"{folder}.txt", "0 .5 .5 1 1")
    coco = convert(root, root / "l")
    assert len(coco["annotations"]) == 3 and not (root / "val.json").exists()
    for folder, name in (("labels/train", "a"), ("labels/valid", "b"), ("more labels/train", "c")):
        write(root / "m" / folder / f"{name}.txt", "0 .5 .5 1 1")
        draw(root / "m" / "images" / f"{name}.jpg")
    coco = convert(root, root / "m", "--force")
    assert len(coco["annotations"]) == 3 and not (root / "val.json").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bbox": [1, 2, 3]}, "annotations[0].bbox: must be a list of four finite numbers"),
        ({"bbox": [1, 2, 3, 4, 30]}, "annotations[0].bbox: must be a list of four"),
        ({"category_id": 9}, "annotations[0].category_id: 9 is not in"),
        ({"image_id": 9}, "annotations[0].image_id: 9 is not in"),
        ({"category_id": 0}, "names that are not in detection/classes.py: 'pets' (1)"),
    ],
)
def test_bad_coco_is_one_line(root, capsys, change, says):
    export = roboflow_coco(root)
    file = export / "valid" / "_annotations.coco.json"
    coco = json.loads(file.read_text(encoding="utf-8"))
    coco["annotations"][0] |= change
    write(file, coco)
    assert says in refusal(capsys, root, export)


def test_missing_image_of_a_split(root, capsys):
    export = roboflow_coco(root)
    (export / "valid" / "same_jpg.rf.ff.jpg").unlink()
    assert run(root, export) == 1  # the check of val.json says so
    assert "valid: kept with the size that the annotations say" in capsys.readouterr().out
    assert run(root, export, "--skip-missing", "--force") == 0
    assert len(read(root / "val.json")["images"]) == 1


# -- VGG Image Annotator ---------------------------------------------------------------------------

VIA_SHAPES = [  # and the boxes around them
    ({"name": "rect", "x": 1, "y": 2, "width": 10, "height": 20}, (1, 2, 10, 20)),
    (
        {"name": "polygon", "all_points_x": [5, 15, 9], "all_points_y": [6, 7, 17]},
        (5, 6, 10, 11),
    ),
    ({"name": "circle", "cx": 20, "cy": 15, "r": 5.5}, (14.5, 9.5, 11, 11)),
    (
        {"name": "ellipse", "cx": 30, "cy": 20, "rx": 8, "ry": 4, "theta": np.pi / 2},
        (26, 12, 8, 16),
    ),
]


def via_records(attributes: dict) -> dict:
    regions = [{"shape_attributes": s, "region_attributes": attributes} for s, _ in VIA_SHAPES]
    return {
        "고양이 1.jpg1234": {
            "filename": "고양이 1.jpg",
            "size": 1234,
            "regions": regions,
            "file_attributes": {"caption": "", "url": ""},
        },
        "b.jpg99": {"filename": "b.jpg", "size": 99, "regions": [], "file_attributes": {}},
    }


def via_files(root: Path) -> Path:
    """via.json and via.csv of the same regions."""
    records = via_records({"type": CAT, "quality": {"blurred": True}})
    header = "filename,file_size,file_attributes,region_count,region_id"
    rows = [[*header.split(","), "region_shape_attributes", "region_attributes"]]
    for image in records.values():
        head = [image["filename"], image["size"], "{}", len(image["regions"])]
        for k, region in enumerate(image["regions"]):
            rows.append([*head, k, *(json.dumps(v, ensure_ascii=False) for v in region.values())])
        if not image["regions"]:
            rows.append([*head, 0, "{}", "{}"])
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    write(root / "via.csv", text.getvalue())
    write(root / "via.json", records)
    return root


@pytest.fixture
def via_images(root) -> Path:
    draw(root / "images" / "고양이 1.jpg")
    draw(root / "images" / "b.jpg")
    return root / "images"


def assert_via(coco: dict) -> None:
    found = boxes(coco)
    assert found["images/b.jpg"] == []
    np.testing.assert_allclose(
        [box[1:] for box in found["images/고양이 1.jpg"]], [box for _, box in VIA_SHAPES], atol=1e-3
    )
    assert {box[0] for box in found["images/고양이 1.jpg"]} == {CAT}


@pytest.mark.parametrize("layout", ["annotations", "project", "version 1", "csv"])
def test_via(root, via_images, layout, capsys):
    source = via_files(root) / {"csv": "via.csv"}.get(layout, "via.json")
    records = json.loads((root / "via.json").read_text(encoding="utf-8"))
    if layout == "version 1":
        for image in records.values():
            image["regions"] = {str(k): region for k, region in enumerate(image["regions"])}
        write(source, records)
    elif layout == "project":
        keys = {"_via_settings": {"ui": {}}, "_via_img_metadata": records, "_via_attributes": {}}
        write(source, keys)
    assert_via(convert(root, source, "--images", via_images))
    shown = capsys.readouterr().out
    assert "recognised as VGG Image Annotator" in shown
    assert "the upright boxes around other shapes: polygon 1, circle 1, ellipse 1" in shown


def test_via_3(root, via_images):
    """A project of images: what is drawn belongs to a view, and a view to a file."""
    drawn = [[2, 1, 2, 10, 20], [7, 5, 6, 15, 7, 9, 17], [3, 20, 15, 5.5], [4, 30, 20, 4, 8]]
    project = {
        "project": {"pid": "__VIA_PROJECT_ID__", "data_format_version": "3.1.1", "vid_list": ["1"]},
        "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}},
        "attribute": {
            "1": {
                "aname": "Class",
                "anchor_id": "FILE1_Z0_XY1",
                "type": 4,
                "options": {"0": DOG, "1": CAT},
            },
            "2": {"aname": "note", "anchor_id": "FILE1_Z0_XY1", "type": 1, "options": {}},
        },
        "file": {
            "1": {"fid": 1, "fname": "고양이 1.jpg", "type": 2, "loc": 1, "src": ""},
            "2": {
                "fid": 2,
                "fname": "b.jpg",
                "type": 2,
                "loc": 2,
                "src": "http://x.kr/a%20b/b.jpg",
            },
        },
        "view": {"1": {"fid_list": [1]}, "2": {"fid_list": [2]}},
        "metadata": {
            f"1_{k}": {"vid": "1", "flg": 0, "z": [], "xy": xy, "av": {"1": "1", "2": "?"}}
            for k, xy in enumerate(drawn)
        },
    }
    source = write(root / "via3.json", project)
    assert_via(convert(root, source, "--images", via_images))


@pytest.mark.parametrize(
    ("attributes", "args", "says"),
    [
        ({"colour": "red", "kind": CAT}, (), "colour, kind; --columns class=… says which"),
        ({"colour": "red"}, (), "names that are not in detection/classes.py: 'red' (4)"),
        ({"class": {CAT: True, DOG: True}}, (), "region 1: 'class' has 2 classes"),
        ({"class": ""}, (), "region 1: 'class' has no label"),
        ({"class": CAT}, ("--columns", "class=kind"), "region 1: 'kind' has no label"),
    ],
)
def test_via_without_one_class(root, capsys, via_images, attributes, args, says):
    source = write(root / "via.json", via_records(attributes))
    assert says in refusal(capsys, root, source, "--images", via_images, *args)


def test_via_class_is_named_or_ticked(root, via_images):
    ticked = {"kind": {CAT: True, DOG: False}, "colour": "red"}
    source = write(root / "via.json", via_records(ticked))
    assert_via(convert(root, source, "--images", via_images, "--columns", "class=kind"))


def test_via_of_one_class_needs_no_attribute(root, capsys, via_images, monkeypatch):
    source = write(root / "via.json", via_records({}))
    assert "region 1: 'class' has no label" in refusal(capsys, root, source, "--images", via_images)
    monkeypatch.setattr(tool, "CLASSES", [CAT])
    assert run(root, source, "--images", via_images) == 0
    coco = json.loads((root / "train.json").read_text(encoding="utf-8"))
    assert [c["name"] for c in coco["categories"]] == [CAT]
    assert len(coco["annotations"]) == len(VIA_SHAPES)


# -- Supervisely -----------------------------------------------------------------------------------


def sly_object(kind: str, label: str = CAT, **place: object) -> dict:
    if isinstance(place.get("points"), list) and kind != "oriented_bbox":
        place["points"] = {"exterior": place["points"], "interior": []}
    return {"id": 1, "classId": 7, "geometryType": kind, "classTitle": label, "tags": []} | place


def sly_mask(width: int, height: int) -> str:
    png = io.BytesIO()
    Image.new("L", (width, height), 255).save(png, "PNG")
    return base64.b64encode(zlib.compress(png.getvalue())).decode()


OBJECTS = [
    sly_object("rectangle", points=[[11, 22], [1, 2]]),
    sly_object("polygon", DOG, points=[[5, 6], [15, 7], [9, 17]]),
    sly_object("bitmap", bitmap={"data": sly_mask(7, 9), "origin": [30, 20]}),
    # turned by a quarter about its centre
    sly_object("oriented_bbox", points=[[20, 10], [40, 14]], angle=np.pi / 2),
    sly_object("rectangle", points=[[50, 30], [75, 39]]),  # leaves the image
]


def supervisely(root: Path, objects: list[dict] = OBJECTS) -> Path:
    """A project of two data sets that both have an image of the same name."""
    project = root / "프로젝트"
    write(project / "meta.json", {"classes": [{"title": CAT, "shape": "any"}], "tags": []})
    write(project / "obj_class_to_machine_color.json", {CAT: [1, 2, 3]})
    for dataset, found in (("ds 0", objects), ("ds1", [])):
        draw(project / dataset / "img" / "같은.jpg")
        size = {"height": SIZE[1], "width": SIZE[0]}
        annotation = {"description": "", "tags": [], "size": size, "objects": found}
        write(project / dataset / "ann" / "같은.jpg.json", annotation)
    return project


def test_supervisely(root, capsys):
    coco = convert(root, supervisely(root))
    found = boxes(coco)
    assert found["프로젝트/ds1/img/같은.jpg"] == []
    assert found["프로젝트/ds 0/img/같은.jpg"] == [
        (CAT, 1, 2, 10, 20),
        (DOG, 5, 6, 10, 11),
        (CAT, 30, 20, 7, 9),
        (CAT, 28, 2, 4, 20),
        (CAT, 50, 30, 25, 9),
    ]
    shown = capsys.readouterr().out
    assert "recognised as Supervisely" in shown
    assert "other shapes: polygon 1, bitmap 1, oriented_bbox 1" in shown
    assert "annotations more than a pixel outside their image" in shown


def test_keypoints_are_refused_or_counted(root, capsys):
    graph = sly_object("graph", "joints", nodes={"a": {"loc": [1, 2]}, "b": {"loc": [5, 6]}})
    project = supervisely(root, [sly_object("rectangle", points=[[1, 2], [3, 4]]), graph])
    error = refusal(capsys, root, project)
    assert "같은.jpg.json: a shape (graph) of the class" in error and "--skip-points" in error
    assert len(convert(root, project, "--skip-points")["annotations"]) == 1
    assert "left out, shapes without an area: graph 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (sly_object("rectangle", points=[]), "object 1 has no points"),
        (sly_object("rectangle", points=[[1, "x"], [2, 3]]), "should have finite numbers"),
        (sly_object("rectangle", "", points=[[1, 2], [3, 4]]), "object 1 has no label"),
        (sly_object("bitmap", bitmap={"data": "eJw=", "origin": [1, 2]}), "has no mask"),
        (sly_object("bitmap"), "object 1 should have finite numbers"),
        ("x", "object 1 has no label"),
    ],
)
def test_bad_supervisely_is_one_line(root, capsys, broken, says):
    assert says in refusal(capsys, root, supervisely(root, [broken]))


# -- Open Images -----------------------------------------------------------------------------------


def test_open_images(root, capsys):
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,"
    header += "IsGroupOf,IsDepiction,IsInside\n"
    source = root / "oi"
    draw(source / "train" / "000002b66c9c498e.jpg")
    draw(source / "validation" / "0001eeaf4aed83f9.jpg")
    rows = "000002b66c9c498e,xclick,/m/01yrx,1,0.5,0.75,0.25,0.5,0,1,0,0,0\n"
    rows += "000002b66c9c498e,xclick,/m/0k4j,1,0,1,0,1,0,1,1,0,0\n"
    rows += "000002b66c9c498e,xclick,/m/0jbk,1,0,1,0,1,0,1,0,0,0\n"
    missing = "ffffffffffffffff,xclick,/m/0k4j,1,0,1,0,1,0,1,0,0,0\n"
    write(source / "oidv6-train-annotations-bbox.csv", header + rows + missing)
    rows = "0001eeaf4aed83f9,xclick,/m/0bt9lr,1,0,0.5,0,0.5,0,0,0,0,0\n"
    write(source / "validation-annotations-bbox.csv", header + rows)
    text = io.StringIO()
    codes = {"/m/01yrx": CAT, "/m/0k4j": CAR, "/m/0bt9lr": DOG, "/m/0jbk": "Animal"}
    csv.writer(text).writerows(codes.items())
    write(source / "class-descriptions-boxable.csv", text.getvalue())
    assert "there is no ffffffffffffffff in" in refusal(capsys, root, source, "--skip-others")
    train = convert(root, source, "--skip-others", "--skip-missing")
    assert boxes(train)["oi/train/000002b66c9c498e.jpg"] == [
        (CAT, 30, 10, 15, 10),
        (CAR, 0, 0, 60, 40),
    ]
    assert [a["iscrowd"] for a in train["annotations"]] == [0, 1]
    val = boxes(read(root / "val.json"))
    assert val == {"oi/validation/0001eeaf4aed83f9.jpg": [(DOG, 0, 0, 30, 20)]}
    assert "left out, boxes of the classes to skip: Animal 1" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["coco", "via", "via csv", "supervisely"])
def test_damaged_files_are_refused_or_converted(root, capsys, via_images, kind):
    """Characters lost or doubled at random: a line or a sound json, never a traceback."""
    rng = random.Random(kind)
    source = {"coco": roboflow_coco, "supervisely": supervisely}.get(kind, via_files)(root)
    source = source / {"via": "via.json", "via csv": "via.csv"}.get(kind, "")
    files = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    for _ in range(25):
        file = rng.choice(files)
        whole = file.read_bytes()
        at, length = rng.randrange(len(whole)), rng.choice([1, 1, 3, 40])
        insert = rng.choice([b"", b"-", b"9", b"e", b",", b"[", b"{", b'"', b"\xff", b"null"])
        file.write_bytes(whole[:at] + insert + whole[at + length :])
        status = run(root, source, "--force", f"--images={root}")
        if status == 2:
            error = capsys.readouterr().err
            assert error.count("\n") == 1, error
        else:
            coco = json.loads((root / "train.json").read_text(encoding="utf-8"))
            assert all(type(f.message) is str for f in check_annotations(coco, str(root)))
        file.write_bytes(whole)


# -- YOLO, there and back --------------------------------------------------------------------------


def own_json(root: Path, split: str, num: int = 3) -> dict:
    """A COCO file of images in folders, of names that repeat, in Korean, turned, without boxes."""
    turned = Image.Exif()
    turned[0x0112] = 6
    draw(root / "a" / f"{split} 한 글.jpg")
    draw(root / "images" / "b" / f"{split} 한 글.jpg", (33, 21))
    draw(root / f"{split}_turned.jpg", (40, 60), exif=turned)  # seen as 60 x 40
    names = [f"a/{split} 한 글.jpg", f"images/b/{split} 한 글.jpg", f"{split}_turned.jpg"]
    sizes = [SIZE, (33, 21), SIZE]
    rng = np.random.default_rng(num)
    annotations = []
    for image_id in (5, 7):
        width, height = sizes[(5, 7).index(image_id)]
        for _ in range(num):
            x, y = (rng.random(2) * (width / 2, height / 2)).round(2).tolist()
            w, h = (rng.random(2) * (width / 2, height / 2)).round(2).tolist()
            category = int(rng.integers(3)) + 10
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x, y, w + 0.5, h + 0.5],
                    "area": 1,
                    "iscrowd": 0,
                }
            )
    coco = {
        "images": [
            {"id": i, "file_name": n, "width": w, "height": h}
            for i, n, (w, h) in zip((5, 7, 9), names, sizes, strict=True)
        ],
        "categories": [{"id": k, "name": n} for k, n in zip((11, 10, 12), CLASSES, strict=True)],
        "annotations": annotations,
    }
    write(root / f"{split}.json", coco)
    return coco


def test_yolo_and_back(root, capsys):
    originals = {split: own_json(root, split, num) for split, num in (("train", 4), ("val", 3))}
    yolo = root / "yolo 폴더"
    args = [root / "train.json", root / "val.json", "--to", "yolo", f"--output={yolo}"]
    assert run(root, *args) == 0
    assert "train: 3 images, 8 boxes" in capsys.readouterr().out
    data = yaml.safe_load((yolo / "data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == dict(enumerate(CLASSES))
    assert (data["train"], data["val"]) == ("images/train", "images/val")
    assert (yolo / "labels/train/train_turned.txt").read_text() == ""
    # where YOLO looks for the labels of an image: the last `images` of its path is `labels`
    for image in (yolo / "images").rglob("*.jpg"):
        before, _, after = image.as_posix().rpartition("/images/")
        assert Path(f"{before}/labels/{after}").with_suffix(".txt").is_file()
    (root / "back").mkdir()
    assert run(root, yolo, f"--output={root}/back/train.json") == 0
    for split, original in originals.items():
        back = json.loads((root / "back" / f"{split}.json").read_text(encoding="utf-8"))
        assert [c["name"] for c in back["categories"]] == CLASSES
        ours, theirs = boxes(back), boxes(original)
        assert len(ours) == len(theirs) == 3
        for name, found in theirs.items():
            at = f"yolo 폴더/images/{split}/{name.replace('images/', 'image/')}"
            assert [b[0] for b in ours[at]] == [b[0] for b in found]
            if found:
                np.testing.assert_allclose(
                    [b[1:] for b in ours[at]], [b[1:] for b in found], rtol=0, atol=2e-3
                )
        assert {(i["width"], i["height"]) for i in back["images"]} == {SIZE, (33, 21)}


def test_what_yolo_lacks_is_left_out_and_said(root, capsys):
    coco = own_json(root, "train", 1)
    first = coco["annotations"][0]
    coco["annotations"] += [
        first | {"id": 20, "iscrowd": 1, "segmentation": {"counts": [0, 2400], "size": [40, 60]}},
        first | {"id": 21, "bbox": [100, 2, 3, 4]},
        # cut at the border
        first | {"id": 22, "bbox": [50, 30, 40, 20], "segmentation": [[50, 30, 90, 30, 60, 50]]},
    ]
    coco["images"].append({"id": 99, "file_name": "lost.jpg", "width": 5, "height": 5})
    write(root / "train.json", coco)
    args = [root / "train.json", "--to=yolo", f"--output={root}/yolo"]
    assert "there is no lost.jpg in" in refusal(capsys, root, *args)
    assert run(root, *args, "--skip-missing") == 0
    shown = capsys.readouterr().out
    assert "3 images, 3 boxes; left out: crowds 1, boxes outside of the image" in shown
    assert (
        "missing images 1; of 1 masks the boxes alone" in shown and "data.yaml lacks val" in shown
    )
    lines = (root / "yolo/labels/train/a/train 한 글.txt").read_text().splitlines()
    np.testing.assert_allclose(
        [float(v) for v in lines[-1].split()[1:]], [11 / 12, 7 / 8, 1 / 6, 0.25]
    )


def test_yolo_refuses_what_would_be_mixed_up(root, capsys):
    coco = own_json(root, "train")
    args = [root / "train.json", "--to=yolo", f"--output={root}/yolo"]
    shutil.copy(root / "train_turned.jpg", root / "train_turned.png")
    coco["images"][0]["file_name"] = "train_turned.png"
    write(root / "train.json", coco)
    error = refusal(capsys, root, *args)
    assert "train_turned.png and train_turned.jpg would share train_turned.txt" in error
    (root / "yolo").mkdir()
    assert "exists; remove it" in refusal(capsys, root, *args)
    write(root / "more" / "train.json", coco)
    args = [root / "train.json", root / "more/train.json", "--to=yolo", f"--output={root}/new"]
    own_json(root, "train")
    assert "another file is called train too" in refusal(capsys, root, *args)


def test_yolo_for_poses_gives_its_boxes(root, capsys):
    draw(root / "images" / "a.jpg")
    write(root / "labels" / "a.txt", "0 .5 .5 .5 .5 .1 .2 2 .3 .4 1\n")
    data = {"kpt_shape": [2, 3], "names": CLASSES}
    write(root / "data.yaml", yaml.safe_dump(data, allow_unicode=True))
    assert boxes(convert(root, root / "labels")) == {"images/a.jpg": [(CAT, 15, 10, 30, 20)]}
    write(root / "labels" / "a.txt", "0 .5 .5 .5 .5 .1 .2 2 .3 .4 1 .3 .3 .3\n")
    assert "line 1 has 14 values" in refusal(capsys, root, root / "labels")


def test_yolo_as_cvat_writes_it(root):
    """The images beside the labels, a list of them, and obj.names."""
    export = root / "export"
    draw(export / "obj_train_data" / "한.jpg")
    write(export / "obj_train_data" / "한.txt", "1 0.5 0.5 1 1\n")
    write(export / "train.txt", "data/obj_train_data/한.jpg\n")
    write(export / "obj.data", "classes = 3\ntrain = data/train.txt\nnames = data/obj.names\n")
    write(export / "obj.names", "\n".join(CLASSES))
    assert boxes(convert(root, export)) == {"export/obj_train_data/한.jpg": [(DOG, 0, 0, 60, 40)]}
