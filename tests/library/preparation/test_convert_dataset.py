"""tools/convert_dataset.py: other formats become the COCO json that they were made from."""

import csv
import json
import random
import shutil
import unicodedata
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import convert_dataset as tool
import cv2
import numpy as np
import pytest
from detection.checks.annotations import check_annotations
from detection.data import toy
from detection.data.coco import write_json
from detection.utils import paths
from PIL import Image

XML_BOMB = (
    "<!DOCTYPE l [<!ENTITY a 'aaaaaaaaaa'>"
    + "".join(f"<!ENTITY {n} '{f'&{m};' * 10}'>" for m, n in pairwise("abcdefghij"))
    + "]><annotation><filename>&j;</filename></annotation>"
)
YAML_BOMB = "a: &a [x]\n" + "".join(
    f"{n}: &{n} [{', '.join([f'*{m}'] * 9)}]\n" for m, n in pairwise("abcdefghi")
)
NAMES = ["can", "종이", 'a/"b", <c> & {d} 🗑', "glass"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder `datasets` with toy/train.json and its images, of the classes NAMES."""
    root = tmp_path_factory.mktemp("data") / "datasets"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "CLASSES", NAMES)
        coco = toy.make_toy_dataset(root / "toy", num_train=8, num_val=1, size=96)["train"]
    # an image without boxes, in a folder of its own, of another shape, its name in Korean
    (root / "toy" / "images" / "빈 곳").mkdir()
    jpeg = cv2.imencode(".jpg", np.zeros((40, 60, 3), np.uint8))[1]
    jpeg.tofile(root / "toy" / "images" / "빈 곳" / "비어 있음.jpg")
    coco["images"].append({"id": 9, "file_name": "빈 곳/비어 있음.jpg", "width": 60, "height": 40})
    write_json(coco, f"{root}/toy/train.json")
    return root


@pytest.fixture
def root(data, tmp_path, monkeypatch) -> Path:
    """A copy of `data`, and its classes."""
    monkeypatch.setattr(tool, "CLASSES", NAMES)
    return shutil.copytree(data, tmp_path / "datasets")


def truth(root: Path) -> dict:
    """What all formats are written from; files as seen from datasets/."""
    coco = json.loads((root / "toy" / "train.json").read_text(encoding="utf-8"))
    for image in coco["images"]:
        image["file_name"] = f"toy/images/{image['file_name']}"
    return coco


def boxes_of(coco: dict) -> dict[str, list]:
    """{file name: [(class name, bbox)]}, sorted."""
    names = {c["id"]: c["name"] for c in coco["categories"]}
    files = {i["id"]: (i["file_name"], i["width"], i["height"]) for i in coco["images"]}
    boxes = {file: [] for file in files.values()}
    for a in coco["annotations"]:
        boxes[files[a["image_id"]]].append((names[a["category_id"]], a["bbox"]))
    return {file: sorted(found) for file, found in sorted(boxes.items())}


def convert(root: Path, source: Path, *args: str) -> dict:
    """Runs the tool as a user would; the json that it writes."""
    assert run(root, source, *args) == 0
    return json.loads((root / "out.json").read_text(encoding="utf-8"))


def run(root: Path, source: Path, *args: str) -> int:
    args = [str(source), f"--image-root={root}", f"--output={root}/out.json", *args]
    if not any(arg.startswith("--images") for arg in args):
        args.append(f"--images={root}/toy/images")
    return tool.main(args)


def assert_same(root: Path, coco: dict, tolerance: float = 0) -> None:
    expected, found = boxes_of(truth(root)), boxes_of(coco)
    found = {file: boxes for file, boxes in found.items() if "_val_" not in file[0]}
    assert found.keys() == expected.keys()
    for file, boxes in expected.items():
        assert [name for name, _ in found[file]] == [name for name, _ in boxes], file
        if boxes:
            ours, theirs = ([box for _, box in b] for b in (found[file], boxes))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)
    assert coco["categories"] == [{"id": k, "name": name} for k, name in enumerate(NAMES, 1)]
    for section in ("images", "annotations"):
        assert [r["id"] for r in coco[section]] == list(range(1, len(coco[section]) + 1))
    assert not any(f.is_error for f in check_annotations(coco, str(root)))
    text = (root / "out.json").read_text(encoding="utf-8")
    assert "종이" in text and str(root) not in text


def refusal(capsys, root: Path, source: Path, *args: str) -> str:
    """The one line with which the tool refuses; nothing is written."""
    before = sorted(root.rglob("*"))
    status = run(root, source, *args)
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1, error
    assert sorted(root.rglob("*")) == before
    return error


# -- writers of the formats ------------------------------------------------------------------------


def images_of(coco: dict):
    """(image, path below toy/images, [(class name, x1, y1, x2, y2)])"""
    for file, boxes in boxes_of(coco).items():
        image = next(i for i in coco["images"] if i["file_name"] == file[0])
        corners = [(n, x, y, x + w, y + h) for n, (x, y, w, h) in boxes]
        yield image, Path(file[0]).relative_to("toy/images"), corners


def write_voc(root: Path, first_pixel=0, with_size=True) -> Path:
    for image, path, boxes in images_of(truth(root)):
        node = ET.Element("annotation")
        ET.SubElement(node, "filename").text = path.name
        size = ET.SubElement(node, "size")
        ET.SubElement(size, "width").text = str(image["width"] * with_size)
        ET.SubElement(size, "height").text = str(image["height"] * with_size)
        for name, x1, y1, x2, y2 in boxes:
            item = ET.SubElement(node, "object")
            ET.SubElement(item, "name").text = name
            corners = (x1 + first_pixel, y1 + first_pixel, x2, y2)
            box = ET.SubElement(item, "bndbox")
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                ET.SubElement(box, key).text = str(value)
        target = root / "xml" / path.with_suffix(".xml")
        target.parent.mkdir(parents=True, exist_ok=True)
        ET.ElementTree(node).write(target, encoding="utf-8")
    return root / "xml"


def write_yolo(root: Path, names="data.yaml", polygons=False) -> Path:
    order = [NAMES[k] for k in (2, 0, 3, 1)] if names else NAMES
    folder = root / "toy" / "labels"
    for image, path, boxes in images_of(truth(root)):
        lines = []
        for name, x1, y1, x2, y2 in boxes:
            w, h = image["width"], image["height"]
            values = [(x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h]
            if polygons:
                xm = (x1 + x2) / 2
                values = [xm / w, y1 / h, x2 / w, y2 / h, x1 / w, y2 / h]
            lines.append(" ".join([str(order.index(name)), *(f"{v:.6f}" for v in values)]))
        target = folder / path.with_suffix(".txt")
        target.parent.mkdir(parents=True, exist_ok=True)
        if lines:  # YOLO's way of saying that there is nothing: no file
            target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if names == "data.yaml":
        text = json.dumps({"nc": 4, "names": order}, ensure_ascii=False)  # which is yaml
        (root / "toy" / names).write_text(text, encoding="utf-8")
    elif names:
        (folder / names).write_text("\n".join(order) + "\n", encoding="utf-8")
    return folder


def write_csv(root: Path, layout: str) -> Path:
    """In the columns of several competitions."""
    header = {
        "corners": "filename,width,height,class,xmin,ymin,xmax,ymax",
        "global_wheat": "image_id,width,height,bbox,label",
        "open_images": "ImageID,Source,LabelName,XMin,XMax,YMin,YMax,IsGroupOf",
        "vinbigdata": "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max",
        "rsna": "patientId,x,y,width,height,class",
        "own": "Bild,Art,links,oben,B,H",
    }[layout].split(",")
    path = root / f"{layout}.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as f:
        writer = csv.DictWriter(f, header, restval="")
        writer.writeheader()
        for image, file, boxes in images_of(truth(root)):
            w, h = image["width"], image["height"]
            stem, file = file.stem, file.as_posix()
            empty = ("none", *[""] * 4)
            for name, x1, y1, x2, y2 in boxes or [empty]:
                is_box = (name, x1) != empty[:2]
                wide, tall = (x2 - x1, y2 - y1) if is_box else ("", "")
                box = f"[{x1}, {y1}, {wide}, {tall}]" if is_box else ""
                corners = [x1 / w, y1 / h, x2 / w, y2 / h] if is_box else empty[1:]
                nan = [x1, y1, x2, y2] if is_box else ["NaN"] * 4
                row = {
                    "corners": [file, w, h, name, x1, y1, x2, y2],
                    "global_wheat": [stem, w, h, box, name],
                    "open_images": [
                        *(stem, "x", name, corners[0], corners[2], corners[1], corners[3], "0")
                    ],
                    "vinbigdata": [stem, name, 5, "R1", *nan],
                    "rsna": [stem, x1, y1, wide, tall, name],
                    "own": [stem, name, x1, y1, wide, tall],
                }[layout]
                writer.writerow(dict(zip(header, row, strict=True)))
    return path


def write_labelme(root: Path) -> Path:
    """A rectangle from its lower right corner, a polygon, a circle or a path from Windows."""
    for image, path, boxes in images_of(truth(root)):
        shapes = []
        for number, (label, x1, y1, x2, y2) in enumerate(boxes):
            rectangle = {"shape_type": "rectangle", "points": [[x2, y2], [x1, y1]]}
            xm = (x1 + x2) / 2
            polygon = {"shape_type": "polygon", "points": [[xm, y1], [x2, y2], [x1, y2]]}
            shapes.append({"label": label, **(polygon if number % 2 else rectangle)})
        data = {"imagePath": f"..\\pictures\\{path.name}", "imageData": None, "shapes": shapes}
        data |= {"imageWidth": image["width"], "imageHeight": image["height"]}
        target = root / "labelme" / path.with_suffix(".json")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return root / "labelme"


def write_label_studio(root: Path) -> Path:
    tasks = []
    for number, (image, path, boxes) in enumerate(images_of(truth(root))):
        w, h, regions = image["width"], image["height"], []
        for k, (label, x1, y1, x2, y2) in enumerate(boxes):
            x1, y1, x2, y2 = x1 / w * 100, y1 / h * 100, x2 / w * 100, y2 / h * 100
            place = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
            points = {"points": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]}
            size = {"original_width": w, "original_height": h}
            region = {
                "rectanglelabels": {**place, "rectanglelabels": [label]},
                "polygonlabels": {**points, "polygonlabels": [label]},
            }
            for kind in list(region)[k % 2 :][:1]:
                regions.append({"id": f"r{k}", "type": kind, "value": region[kind], **size})
            if k == 2:  # the label in a record of its own
                regions[-1] |= {"type": "rectangle", "value": place}
                labels = {**place, "labels": [label]}
                regions.append({"id": "r2", "type": "labels", "value": labels, **size})
        regions.append({"type": "choices", "value": {"choices": ["day"]}, "from_name": "when"})
        url = (f"/data/upload/1/0a1b2c3d-{path.name}", f"/data/local-files/?d=x/{path.name}")
        annotations = [{"was_cancelled": True, "result": []}, {"result": regions}]
        data = {"image": url[number % 2], "site": "toy"}
        tasks.append({"id": number, "data": data, "annotations": annotations})
    path = root / "project-1.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    return path


def write_cvat(root: Path) -> Path:
    node = ET.Element("annotations")
    ET.SubElement(ET.SubElement(node, "meta"), "task").text = "toy"
    for image, path, boxes in images_of(truth(root)):
        size = {side: str(image[side]) for side in ("width", "height")}
        item = ET.SubElement(node, "image", id="0", name=path.as_posix(), **size)
        ET.SubElement(item, "tag", label="night")
        for number, (label, x1, y1, x2, y2) in enumerate(boxes):
            if number % 2:
                points = f"{x1},{y2};{x2},{y1};{x2},{y2}"
                ET.SubElement(item, "polygon", label=label, points=points)
            else:
                corners = {"xtl": str(x1), "ytl": str(y1), "xbr": str(x2), "ybr": str(y2)}
                ET.SubElement(item, "box", label=label, occluded="0", **corners)
    ET.ElementTree(node).write(root / "annotations.xml", encoding="utf-8")
    return root / "annotations.xml"


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("first_pixel", [0, 1])
def test_voc(root, first_pixel):
    coco = convert(root, write_voc(root, first_pixel), "--first-pixel", str(first_pixel))
    assert_same(root, coco)


def test_voc_without_sizes_takes_those_of_the_images(root, capsys):
    assert_same(root, convert(root, write_voc(root, with_size=False)))
    assert "images that the annotations do not mention: 1 (toy_val_" in capsys.readouterr().out


def test_voc_numbered_from_1_is_suspected(root, capsys):
    convert(root, write_voc(root, first_pixel=1))
    assert "convert with --first-pixel 1" in capsys.readouterr().out


SIDE = 96  # of the toy images
# boxes at all borders of an image and two inside, as pixels from 0 with the end left out
AT_BORDERS = [(0, 0, 20, 20), (0, 70, 30, SIDE), (76, 0, SIDE, 30), (60, 60, SIDE, SIDE)]
AT_BORDERS += [(30, 40, 50, 60), (33, 41, 52, 63)]


def write_corners(root: Path, corners: list[tuple], database: str = "") -> Path:
    """A VOC file with these corners of the first toy image."""
    image = truth(root)["images"][0]
    name = Path(image["file_name"]).name
    objects = "".join(
        f"<object><name>can</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in corners
    )
    source = f"<source><database>{database}</database></source>" if database else ""
    folder = root / "xml"
    folder.mkdir()
    text = f"<annotation><filename>{name}</filename>{source}{objects}</annotation>"
    (folder / "a.xml").write_text(text, encoding="utf-8")
    return folder


def from_1(box):
    x1, y1, x2, y2 = box
    return x1 + 1, y1 + 1, x2, y2


def one_for_zero(box):
    """As LabelImg, which writes 1 for 0."""
    return tuple(max(v, 1) for v in box)


def one_for_zero_and_last(box):
    """As a tool that has numbers from 0 for the last pixels too, and writes 1 for 0."""
    x1, y1, x2, y2 = box
    return max(x1, 1), max(y1, 1), x2 - 1, y2 - 1


@pytest.mark.parametrize(
    ("write", "database", "wanted"),
    [
        (from_1, "", "convert"),
        (from_1, "The VOC2007 Database", "convert"),
        (one_for_zero, "Unknown", "leave"),
        (one_for_zero_and_last, "", "leave"),
        (one_for_zero_and_last, "Unknown", "leave"),
        # of which the corners are those of `from_1`, but for the boxes inside
        (one_for_zero, "", "LabelImg"),
        (lambda box: box, "", None),
        (lambda box: tuple(v + 1.5 for v in box), "", None),
    ],
)
def test_numbers_from_1_and_1_for_0_are_distinguished(root, capsys, write, database, wanted):
    source = write_corners(root, list(map(write, AT_BORDERS)), database)
    convert(root, source)
    shown = capsys.readouterr().out
    says = [line for line in shown.splitlines() if "--first-pixel" in line]
    assert len(says) == (wanted is not None)
    if wanted:
        assert wanted in says[0]
        assert ("convert with --first-pixel 1" in says[0]) == (wanted != "leave")
    convert(root, source, "--first-pixel", "1", "--force")
    # the other way round it is said too, where it is certain
    shifts = "--first-pixel" in capsys.readouterr().out
    assert shifts == (database == "Unknown" or (wanted is None and write(AT_BORDERS[0])[0] == 0))


@pytest.mark.parametrize("names", ["data.yaml", "classes.txt", None])
@pytest.mark.parametrize("polygons", [False, True])
def test_yolo(root, names, polygons):
    coco = convert(root, write_yolo(root, names, polygons))
    assert_same(root, coco, tolerance=96 * 1.1e-6 + 0.001)


def test_yolo_finds_the_images_beside_the_labels(root):
    folder = write_yolo(root)
    assert tool.main([str(folder), f"--image-root={root}", f"--output={root}/out.json"]) == 0
    coco = json.loads((root / "out.json").read_text(encoding="utf-8"))
    assert_same(root, coco, tolerance=96 * 1.1e-6 + 0.001)


@pytest.mark.parametrize(
    "layout", ["corners", "global_wheat", "open_images", "vinbigdata", "rsna", "own"]
)
def test_csv(root, layout):
    columns = ["image=Bild", "class=Art", "x=links", "y=oben", "w=B", "h=H"]
    args = ["--columns", *columns] if layout == "own" else []
    assert_same(root, convert(root, write_csv(root, layout), *args), tolerance=1e-3)


@pytest.mark.parametrize("write", [write_labelme, write_label_studio, write_cvat])
def test_exports_of_labelling_tools(root, write):
    assert_same(root, convert(root, write(root)), tolerance=1e-3)


def one_shape(root: Path, kind: str, shape: dict) -> list[float]:
    """The box that a tool's shape in an image of 60 × 40 pixels becomes."""
    name = "비어 있음.jpg"
    if kind == "labelme":
        source = root / "one"
        source.mkdir()
        text = json.dumps({"imagePath": name, "shapes": [{"label": "can", **shape}]})
        (source / "1.json").write_text(text)
    elif kind == "label_studio":
        source = root / "one.json"
        region = {"type": "rectanglelabels", "original_width": 60, "original_height": 40}
        region["value"] = {"rectanglelabels": ["can"], **shape}
        task = {"data": {"image": name}, "annotations": [{"result": [region]}]}
        source.write_text(json.dumps([task]))
    else:
        source = root / "one.xml"
        node = ET.Element("annotations")
        image = ET.SubElement(node, "image", name=name, width="60", height="40")
        ET.SubElement(image, shape.pop("tag"), label="can", **shape)
        ET.ElementTree(node).write(source, encoding="utf-8")
    (annotation,) = convert(root, source)["annotations"]
    return annotation["bbox"]


@pytest.mark.parametrize(
    ("kind", "shape", "box"),
    [
        ("labelme", {"shape_type": "circle", "points": [[20, 20], [23, 24]]}, [15, 15, 10, 10]),
        ("labelme", {"points": [[1, 2], [5, 9], [3, 1]]}, [1, 1, 4, 8]),
        # turned by a quarter about its upper left corner, or its centre
        (
            "label_studio",
            {"x": 50, "y": 50, "width": 10, "height": 20, "rotation": 90},
            [22, 20, 8, 6],
        ),
        (
            "label_studio",
            {"x": 50, "y": 50, "radiusX": 10, "radiusY": 5, "rotation": 0},
            [24, 18, 12, 4],
        ),
        (
            "cvat",
            {"tag": "box", "xtl": "10", "ytl": "10", "xbr": "30", "ybr": "14", "rotation": "90"},
            [18, 2, 4, 20],
        ),
        (
            "cvat",
            {"tag": "ellipse", "cx": "20", "cy": "20", "rx": "5", "ry": "9"},
            [15, 11, 10, 18],
        ),
        (
            "cvat",
            {"tag": "mask", "rle": "1", "left": "3", "top": "4", "width": "5", "height": "6"},
            [3, 4, 5, 6],
        ),
    ],
)
def test_other_shapes(root, kind, shape, box):
    np.testing.assert_allclose(one_shape(root, kind, shape), box, atol=1e-3)


def test_classes_can_be_skipped(root, capsys, monkeypatch):
    source = write_voc(root)
    monkeypatch.setattr(tool, "CLASSES", NAMES[:2])
    coco = convert(root, source, "--skip", NAMES[2], "--skip", NAMES[3])
    expected = boxes_of(truth(root))
    for file, boxes in boxes_of(coco).items():
        assert boxes == [box for box in expected[file] if box[0] in NAMES[:2]]
    assert len(coco["images"]) == 9  # an image whose boxes are skipped stays, as one without
    boxes = [name for boxes in expected.values() for name, _ in boxes]
    assert f"glass {boxes.count('glass')}" in capsys.readouterr().out
    assert "--skip Glass" in refusal(capsys, root, source, "--force", "--skip", "Glass")


def test_shape_without_a_box_is_refused_or_skipped(root, capsys):
    source = write_labelme(root)
    path = source / "toy_train_00001.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["shapes"].append({"label": "tip of it", "shape_type": "point", "points": [[1, 2]]})
    path.write_text(json.dumps(data), encoding="utf-8")
    assert "--skip 'tip of it'" in refusal(capsys, root, source)
    assert_same(root, convert(root, source, "--skip", "tip of it"), tolerance=1e-3)


def test_every_common_ending_of_images_is_found(root, capsys):
    images = root / "toy" / "images"
    endings = ["jfif", "gif", "jp2", "ppm", "pgm", "JPE", "tif"]
    formats = {"jfif": "JPEG", "JPE": "JPEG", "jp2": "JPEG2000", "tif": "TIFF"}
    rows = ["filename,class,xmin,ymin,xmax,ymax"]
    for ending in endings:
        image = Image.new("L" if ending == "pgm" else "RGB", (30, 20))
        image.save(images / f"other.{ending}", formats.get(ending))
        rows.append(f"other.{ending},can,1,2,10,11")
    (images / "photo.HEIC").write_bytes(b"what only a telephone reads")
    (root / "a.csv").write_text("\n".join(rows))
    coco = convert(root, root / "a.csv")
    assert [i["file_name"] for i in coco["images"]] == [f"toy/images/other.{e}" for e in endings]
    assert {(i["width"], i["height"]) for i in coco["images"]} == {(30, 20)}
    assert ".heic 1" in capsys.readouterr().out


def test_csv_with_codes_for_classes(root):
    path = write_csv(root, "open_images")
    text = path.read_text(encoding="utf-8")
    with (root / "names.csv").open("w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([f"/m/0{k}", name] for k, name in enumerate(NAMES))
    for k, name in enumerate(NAMES):
        for written in (name, f'"{name}"', '"' + name.replace('"', '""') + '"'):
            text = text.replace(f"x,{written},", f"x,/m/0{k},")
    assert "/m/02" in text
    path.write_text(text, encoding="utf-8")
    assert_same(root, convert(root, path, "--names", str(root / "names.csv")), tolerance=1e-3)


def test_images_are_where_the_config_has_them(root, monkeypatch):
    monkeypatch.setattr(paths, "DATASETS", str(root))  # which IMAGE_ROOT is, unless changed
    output = root / "out.json"
    source, images = write_voc(root), f"--images={root}/toy/images"
    assert tool.main([str(source), images, f"--output={output}"]) == 0
    assert_same(root, json.loads(output.read_text(encoding="utf-8")))


def test_csv_of_one_class_needs_no_column(root, monkeypatch):
    monkeypatch.setattr(tool, "CLASSES", ["wheat"])
    (root / "wheat.csv").write_text('image_id,bbox\ntoy_train_00001,"[1.0, 2.5, 30.0, 40.0]"\n')
    coco = convert(root, root / "wheat.csv")
    assert [a["bbox"] for a in coco["annotations"]] == [[1, 2.5, 30, 40]]
    assert coco["categories"] == [{"id": 1, "name": "wheat"}]


def test_groups_of_open_images_are_crowds(root):
    text = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n"
    text += "toy_train_00001,can,0,0.5,0,1,1\ntoy_train_00001,can,0.5,1,0,1,0\n"
    (root / "a.csv").write_text(text, encoding="utf-8")
    annotation, other = convert(root, root / "a.csv")["annotations"]
    assert annotation["iscrowd"] == 1 and annotation["bbox"] == [0, 0, 48, 96]
    assert other["iscrowd"] == 0


# -- images ----------------------------------------------------------------------------------------


def test_size_is_that_of_the_image_as_it_is_shown(root, capsys):
    """A camera held upright writes a wide image and a note to turn it; detectron2 turns it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 50)).save(root / "toy/images/turned.jpg", exif=exif)
    (root / "a.csv").write_text(
        "filename,width,height,class,xmin,ymin,xmax,ymax\nturned.jpg,80,50,can,0,0,1,1.5\n"
    )
    (image,) = convert(root, root / "a.csv")["images"]
    assert (image["width"], image["height"]) == (50, 80)
    assert "of another size than the annotations say, trusted: 1 (turned.jpg)" in (
        capsys.readouterr().out
    )


def test_missing_images_are_reported(root, capsys):
    source = write_voc(root)
    (root / "toy/images/toy_train_00002.jpg").unlink()
    output = root / "out.json"
    args = [str(source), f"--image-root={root}", f"--images={root}/toy/images"]
    assert tool.main([*args, f"--output={output}"]) == 1  # the check of the result says so too
    shown = capsys.readouterr().out
    assert "kept with the size that the annotations say" in shown and "error" in shown
    assert len(json.loads(output.read_text(encoding="utf-8"))["images"]) == 9
    coco = convert(root, source, "--skip-missing", "--force")
    assert len(coco["images"]) == 8
    assert "left out, images that are not in" in capsys.readouterr().out

    yolo = write_yolo(root)
    error = refusal(capsys, root, yolo, "--force")
    assert "toy_train_00002.txt: there is no toy_train_00002 in" in error


def test_unlisted_images_can_be_added(root):
    coco = convert(root, write_voc(root), "--add-unlisted")
    assert "toy/images/toy_val_00001.jpg" in {i["file_name"] for i in coco["images"]}
    assert_same(root, coco)


def test_names_from_a_mac_are_found(root):
    """Zipped there, Korean file names come with their letters taken apart."""
    source = write_csv(root, "corners")
    text = source.read_text(encoding="utf-8")
    images = root / "toy" / "images"
    (images / "빈 곳" / "비어 있음.jpg").rename(images / unicodedata.normalize("NFD", "한.jpg"))
    source.write_text(text.replace("빈 곳/비어 있음.jpg", "한.jpg"), encoding="utf-8")
    coco = convert(root, source)
    assert len(coco["images"]) == 9
    assert not any(finding.is_error for finding in check_annotations(coco, str(root)))


def test_images_may_lie_behind_links(root, tmp_path):
    source = write_voc(root)
    expected = truth(root)
    (root / "toy").rename(tmp_path / "elsewhere")
    (root / "toy").symlink_to(tmp_path / "elsewhere")
    assert_same(root, convert(root, source))
    coco = convert(root, source, f"--images={root}")
    assert {i["file_name"] for i in coco["images"]} == {i["file_name"] for i in expected["images"]}


def test_yaml_names_are_text_whatever_they_look_like(root, monkeypatch):
    names = ["no", "1e3", "2024-01-01", "null"]
    monkeypatch.setattr(tool, "CLASSES", names)
    folder = root / "l"
    folder.mkdir()
    (folder / "toy_train_00001.txt").write_text("".join(f"{k} .5 .5 .1 .1\n" for k in range(4)))
    (folder / "data.yaml").write_text(f"names: [{', '.join(names)}]\n")
    coco = convert(root, folder)
    assert [a["category_id"] for a in coco["annotations"]] == [1, 2, 3, 4]


def test_same_name_in_two_folders(root, capsys):
    source = write_csv(root, "global_wheat")
    shutil.copy(root / "toy/images/toy_train_00001.jpg", root / "toy/images/빈 곳")
    error = refusal(capsys, root, source)
    assert "toy_train_00001: may be toy_train_00001.jpg or 빈 곳/toy_train_00001.jpg" in error


# -- mistakes --------------------------------------------------------------------------------------


def test_unknown_names_are_listed(root, capsys, monkeypatch):
    source = write_voc(root)
    monkeypatch.setattr(tool, "CLASSES", NAMES[1:3])
    error = refusal(capsys, root, source)
    assert "names that are not in detection/classes.py: " in error
    assert "'can' (" in error and "'glass' (" in error and "종이" not in error


def test_other_output_is_kept(root, capsys):
    source = write_voc(root)
    (root / "out.json").write_text("mine")
    assert "holds something else; --force" in refusal(capsys, root, source)
    assert (root / "out.json").read_text() == "mine"
    first = convert(root, source, "--force")
    assert convert(root, source) == first  # the same once more is no other


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "", "has no rows"),
        ("a.csv", "image_id\n1.jpg\n", "--columns x1=… y1=… x2=… y2=… names corners"),
        ("a.csv", "a,b\n1,2\n", "--columns image=… names it, one of a, b"),
        ("a.csv", "image_id,bbox\n1,2\n", "--columns class=… names it"),
        ("a.csv", "image_id,bbox,label\n1\n", "row 2 has 1 of 3 values"),
        ("a.csv", "image_id,bbox,label\n1,[1 2 3],can\n", "row 2 has a box of 3 numbers"),
        ("a.csv", "image_id,bbox,label\n1,[1 2 x 3],can\n", "row 2 should have finite numbers"),
        ("a.csv", "image_id,bbox,label\n1,1 2 3 inf,can\n", "row 2 should have finite numbers"),
        ("a.csv", "image_id,bbox,label\nnowhere,1 2 3 4,can\n", "there is no nowhere in"),
        ("a.csv", b"\xc1\xbe\xc0\xcc,bbox\n", "is not in UTF-8"),
        ("l/toy_train_00001.txt", "0 .5 .5 .1\n", "line 1 has 4 values"),
        ("l/toy_train_00001.txt", "0 .5 .5 .1 .1\n9 .5 .5 .1 .1\n", "line 2 has the class 9"),
        ("l/toy_train_00001.txt", "0 .5 .5 .1 nan\n", "line 1 should have finite numbers"),
        ("l/1.xml", "<annotation>", "is not valid xml"),
        ("l/1.xml", "<html></html>", "is not Pascal VOC xml"),
        ("l/1.xml", "<annotation><object/></annotation>", "object 1 has no <name>"),
        ("l/1.json", "{}", "choose COCO"),
        ("a.json", "[1]", "choose COCO"),
        ("a.json", "[", "is not valid json"),
        ("a.json", "[" * 100_000, "is not valid json"),
        ("a.json", '{"images": [], "categories": [], "annotations": []}', "make check"),
        ("l/_annotations.coco.json", '{"images": [], "categories": []}', "is not a COCO file"),
        ("a.json", '[{"image_id": 1, "category_id": 1, "bbox": [], "score": 1}]', "predictions"),
        ("l/a.csv", "image_id,bbox,label", "holds no annotations of images"),
        ("a.txt", "0 .5 .5 .1 .1", "convert the folder "),
        ("l/a.zip", "", "unpack"),
        ("l/1.json", '{"shapes": [{"points": [[1, 2]]}]}', "shape 1 has no label"),
        ("l/1.json", '{"shapes": [{"label": "can", "points": []}]}', "shape 1 has no points"),
        ("l/1.json", '{"shapes": [{"label": "can", "points": [[1, 1e999]]}]}', "finite numbers"),
        ("a.json", '[{"data": {}, "annotations": []}]', "task 1 has no image"),
        (
            "a.json",
            '[{"data": {"image": "a.png"}, "annotations": [{"result": []}, {"result": []}]}]',
            "is annotated 2 times",
        ),
        ("a.xml", "<annotations><track/></annotations>", "where CVAT exports"),
        ("a.xml", "<annotations><image><box/></image></annotations>", "has no name"),
        ("l/1.xml", XML_BOMB, "is not valid xml"),
        ("a.csv", f"image_id,bbox,label\n{'x' * 10**7},1 2 3 4,can\n", "no rows"),
        ("a.csv", f"image_id,bbox,label\n1,{'9' * 5000} 2 3 4,can\n", "finite numbers"),
        ("a.csv", "image_id,bbox,label\n1,1e999 2 3 4,can\n", "finite numbers"),
        ("l/toy_train_00001.txt", f"0 .5 .5 .1 {'9' * 10**6}\n", "finite numbers"),
        ("l/toy_train_00001.txt", f"{'9' * 10**6} .5 .5 .1 .1\n", "line 1 has the class"),
        (
            "l/toy_train_00001.xml",
            f"<annotation><object><name>{'x' * 10**6}</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
            "<xmax>2</xmax><ymax>2</ymax></bndbox></object></annotation>",
            "not in detection/classes.py",
        ),
        ("a.json", "9" * 5000, "is not valid json"),
        ("l/1.json", '{"shapes": [{"label": "can", "points": [[1, NaN]]}]}', "finite numbers"),
        ("a.xml", "<annotation/>", "convert the folder "),
    ],
)
def test_what_cannot_be_read_is_one_line(root, capsys, name, content, says):
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = path if path.parent == root else path.parent
    line = refusal(capsys, root, source)
    assert says in line and len(line) < 1500


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.yaml", f"{YAML_BOMB}names: *i\n"),
        ("data.yaml", f"{YAML_BOMB}names: [can, *i]\n"),
        ("data.yaml", "names: &a [*a]\n"),
        ("data.yaml", f"names: {'[' * 10_000}"),
        ("data.yaml", f"names: [{'x' * 10**7}]\n"),
        ("data.yaml", "names: can\n"),
        ("names.csv", f"0,{'x' * 200_000}\n"),
    ],
)
def test_names_that_explode_end_in_a_short_line(root, capsys, name, content):
    source = write_yolo(root, names=None)
    (root / "toy" / name).write_text(content)
    line = refusal(capsys, root, source, f"--names={root}/toy/{name}")
    assert f"toy/{name}" in line and len(line) < 1500


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--columns", "colour=a"], "--columns knows no 'colour'"),
        (["--columns", "image=colour"], "has no column 'colour'; it has filename, width"),
        (["--images=nowhere"], "nowhere: no such folder"),
        (["--images=/"], "--image-root must contain it"),
        (["--names=nowhere.txt"], "nowhere.txt: cannot be read"),
    ],
)
def test_bad_arguments_are_one_line(root, capsys, args, says):
    assert says in refusal(capsys, root, write_csv(root, "corners"), *args)


def test_damaged_files_are_refused_or_converted(root, capsys):
    """Characters lost or doubled at random: a line or a sound json, never a traceback."""
    rng = random.Random(0)
    sources = [write_voc(root), write_yolo(root), write_csv(root, "corners")]
    sources += [write_labelme(root), write_label_studio(root), write_cvat(root)]
    for trial in range(180):
        source = sources[trial % len(sources)]
        files = [source] if source.is_file() else sorted(source.rglob("toy*.*"))
        file = rng.choice(files)
        whole = file.read_bytes()
        at, length = rng.randrange(len(whole)), rng.choice([1, 1, 3, 40])
        insert = rng.choice([b"", b"-", b"9", b"e", b",", b"\x00", b"<", b"\n", b'"', b"\xff"])
        file.write_bytes(whole[:at] + insert + whole[at + length :])
        args = [str(source), f"--image-root={root}", f"--images={root}/toy/images"]
        status = tool.main([*args, f"--output={root}/out.json", "--force"])
        if status in (0, 1):
            coco = json.loads((root / "out.json").read_text(encoding="utf-8"))
            assert all(type(f.message) is str for f in check_annotations(coco, str(root)))
        else:
            error = capsys.readouterr().err
            assert status == 2 and error.count("\n") == 1, error
        file.write_bytes(whole)
