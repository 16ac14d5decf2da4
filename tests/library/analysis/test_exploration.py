"""tools/explore_dataset.py: every number on the page is right, and it opens offline."""

import base64
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import explore_dataset as tool
import numpy as np
import pytest
from detection.config import load_config
from detection.utils.paths import DATASETS, PROJECT_ROOT
from detection.workshop.analysis.anchors import best_iou
from page_reader import Page

WIDTH, HEIGHT = 128, 96
EVIL = '<b>&"<img src=http://example.invalid/x.png>'
NAMES = {0: "종이/박스", 5: EVIL, 9: "{{ glass }}"}
SMOKE = ["--config-file", str(PROJECT_ROOT / "configs/debug/smoke.py")]
# image ids
HUGE, THIN, CUT, BLACK, DOUBLE, BLURRED, GONE, BROKEN = 10, 12, 15, 20, 25, 28, 30, 35


def make_data(folder: Path, num_images: int, seed: int) -> dict:
    """A COCO dict of noisy images in `folder`, each with some boxes of 5 to 8 pixels a side."""
    rng = np.random.default_rng(seed)
    coco = {
        "categories": [{"id": i, "name": name} for i, name in NAMES.items()],
        "images": [],
        "annotations": [],
    }
    for image_id in range(1, num_images + 1):
        name = f"{seed}_{image_id}.jpg"
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), pixels)
        coco["images"].append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for place in range(int(rng.integers(1, 5))):  # side by side, so that none overlap
            add_box(coco, image_id, int(rng.choice(list(NAMES), p=[0.7, 0.2, 0.1])), [
                *(30.0 * place + 2, float(rng.integers(0, 80))),
                *rng.integers(5, 9, 2).astype(float).tolist(),
            ])  # fmt: skip
    return coco


def add_box(coco: dict, image_id: int, category_id: int, bbox: list, **more) -> None:
    annotation = {"id": len(coco["annotations"]), "image_id": image_id, "bbox": bbox, **more}
    coco["annotations"].append({**annotation, "category_id": category_id})


def save(coco: dict, path: Path) -> str:
    path.write_text(json.dumps(coco, ensure_ascii=False), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """train.json and val.json, of whose training images nine are odd, and their images."""
    folder = tmp_path_factory.mktemp("그림")
    train, val = make_data(folder, 60, seed=1), make_data(folder, 20, seed=2)
    add_box(train, HUGE, 0, [0.0, 0.0, 126.0, 90.0])  # 20 times the usual side and more
    cv2.imwrite(str(folder / f"1_{BLACK}.jpg"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    for shift in (0.0, 0.2):
        add_box(train, DOUBLE, 0, [60.0 + shift, 85.0, 7.0, 7.0])
    add_box(train, CUT, 0, [0.0, 82.0, 0.5, 8.0])
    add_box(train, THIN, 0, [60.0, 86.0, 0.5, 8.0])
    blurred = cv2.imread(str(folder / f"1_{BLURRED}.jpg"))
    cv2.imwrite(str(folder / f"1_{BLURRED}.jpg"), cv2.GaussianBlur(blurred, (0, 0), 4) * 2)
    (folder / f"1_{GONE}.jpg").unlink()
    (folder / f"1_{BROKEN}.jpg").write_bytes(b"\xff\xd8\xff no picture")
    add_box(train, 1, 0, [5.0, 5.0, 0.0, 8.0])  # no area
    add_box(train, 2, 0, [0.0, 0.0, 128.0, 96.0], iscrowd=1)
    add_box(train, 3, 5, [float("nan"), 0.0, 9.0, 9.0])
    add_box(train, 3, 77, [1.0, 1.0, 9.0, 9.0])  # no such category
    save(train, folder / "train.json")
    save(val, folder / "val.json")
    return folder


def explore(output: Path, *arguments: str) -> Page:
    assert tool.main([*map(str, arguments), "--output", str(output)]) == 0
    return Page(output, "oddest")


@pytest.fixture(scope="module")
def page(data) -> Page:
    files = [str(data / "train.json"), str(data / "val.json"), "--image-root", str(data)]
    return explore(data / "page.html", *files, "--count", "12", *SMOKE)


def usable(path: Path) -> list[dict]:
    """The annotations that training could use or leave out for their missing area alone."""
    annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
    return [
        a
        for a in annotations
        if not a.get("iscrowd") and a["category_id"] in NAMES and a["bbox"][0] == a["bbox"][0]
    ]


def brute_force_iou(width: float, height: float, sizes: list[float]) -> float:
    """The best IoU with anchors of these sizes and detectron2's ratios, corner by corner."""
    best = 0.0
    for size in sizes:
        for ratio in (0.5, 1.0, 2.0):
            w = (size * size / ratio) ** 0.5
            h = ratio * w
            overlap = min(w, width) * min(h, height)
            best = max(best, overlap / (w * h + width * height - overlap))
    return best


def test_class_counts_are_those_of_the_files(data, page):
    rows = page.rows("classes")
    assert set(rows) == set(NAMES.values())
    for column, split in ((0, "train"), (4, "val")):
        boxes = usable(data / f"{split}.json")
        for id_, name in NAMES.items():
            own = [a for a in boxes if a["category_id"] == id_]
            images = {a["image_id"] for a in own}
            total_images = {"train": 60, "val": 20}[split]
            assert rows[name][column : column + 4] == [
                f"{len(own)}",
                f"{100 * len(own) / len(boxes):.1f}%",
                f"{len(images)}",
                f"{100 * len(images) / total_images:.1f}%",
            ]
    counts = [int(row[0]) for row in rows.values()]
    assert counts == sorted(counts, reverse=True)


def test_the_head_and_the_notes_count_what_is_there(data, page):
    train, val = usable(data / "train.json"), usable(data / "val.json")
    assert f"train boxes{len(train)}" in page.text and f"val boxes{len(val)}" in page.text
    for told in (
        f"Boxes without area: 1 ({100 / len(train):.1f}%) of train.",
        f"Crowd regions, which training leaves out: 1 ({100 / (len(train) + 1):.1f}%) of train.",
        "Annotations that cannot be used (make check says why): 2 ",
        f"Images of train and val: all are {WIDTH} × {HEIGHT} px.",
    ):
        assert told in page.text, told
    rarest, count = Counter(NAMES[a["category_id"]] for a in train).most_common()[-1]
    assert f"{rarest} is the rarest class of train: {count} boxes" in page.text


def test_classes_together_are_counted(data, page):
    shown = {}
    for a in usable(data / "train.json"):
        shown.setdefault(NAMES[a["category_id"]], set()).add(a["image_id"])
    rows = page.rows("together")
    for a, cells in rows.items():
        for b, cell in zip(rows, cells, strict=True):
            both = len(shown[a] & shown[b])
            percent = 100 * both / len(shown[a])
            expected = f"{both}" if a == b else f"{percent:.0f}" if both else "·"
            assert cell == expected, (a, b)


def test_anchors_are_judged_as_by_brute_force(data, page):
    scale = 128 / HEIGHT  # smoke.py's test resize makes the shorter side 128
    rows = page.rows("sizes")
    for id_, name in NAMES.items():
        ious = [
            brute_force_iou(a["bbox"][2] * scale, a["bbox"][3] * scale, [16, 32, 64])
            for a in usable(data / "train.json")
            if a["category_id"] == id_ and a["bbox"][2] > 0
        ]
        unfit = [sum(iou < threshold for iou in ious) for threshold in (0.7, 0.5)]
        assert [rows[name][k] for k in (1, 3, 4)] == [*map(str, unfit), str(len(ious))]
    assert "no anchorwith IoU 0.7" in page.text and "no anchorwith IoU 0.5" in page.text


def test_best_iou_of_any_shape():
    rng = np.random.default_rng(0)
    shapes, sizes = rng.uniform(1, 300, (50, 2)), [20, 90, 300]
    anchors = np.array([(s / r**0.5, s * r**0.5) for s in sizes for r in (0.5, 1, 2)])
    expected = [brute_force_iou(w, h, sizes) for w, h in shapes]
    assert best_iou(shapes, anchors) == pytest.approx(expected)


def test_suggested_anchors_do_what_the_page_says(data, page):
    promised = re.search(r"would leave out ([\d.]+%) of them, and", page.text)[1]
    overrides = re.findall(r"<pre>(.*?)</pre>", page.html, re.S)[-1].split()
    files = [str(data / "train.json"), "--image-root", str(data), "--count", "0", "--sample", "0"]
    better = explore(data / "better.html", *files, *SMOKE, *overrides)
    shares = [re.search(r"([\d.]+)% of the boxes \(", p.text)[1] for p in (page, better)]
    assert f"{shares[1]}%" == promised
    assert float(shares[1]) < float(shares[0])


def test_the_oddest_come_first_with_their_reasons(page):
    assert len(page.cards) == 12
    reasons = {
        HUGE: "times larger than usual",
        BLACK: "one colour all over",
        THIN: "종이/박스 unusually tall",
        DOUBLE: "two 종이/박스 boxes cover each other",
        BLURRED: "blurred",
        GONE: "image missing or broken",
        BROKEN: "image missing or broken",
        1: "box without area",
    }
    first = page.cards[: len(reasons)]
    for image_id, reason in reasons.items():
        card = [card for card in first if f" 1_{image_id}.jpg " in card]
        assert card and reason in card[0], (image_id, first)
    # one that the border cuts is not odd
    assert not [card for card in page.cards if f" 1_{CUT}.jpg " in card and "unusually" in card]
    # where nothing is odd, ordinary images follow, without reasons
    assert page.cards[-1].strip().endswith(("box", "boxes"))


def test_the_page_loads_nothing_and_escapes_names(page):
    tags = Counter(tag for tag, _ in page.tags)
    assert not tags["img"] and not tags["script"]
    links = [
        value
        for tag, attrs in page.tags
        for key, value in attrs.items()
        if key in ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
    ]
    assert len(links) > 10
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "url(" not in page.html and "@import" not in page.html
    assert EVIL in page.text and EVIL not in page.html
    assert "{{ glass }}" in page.text
    policy = [a["content"] for t, a in page.tags if a.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_every_drawing_has_a_text(page):
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(drawings) > 15
    for attrs in drawings:
        told = attrs.get("role") == "img" and attrs.get("aria-label", "").strip()
        assert told or attrs.get("aria-hidden") == "true", attrs
    assert any(f"1_{HUGE}.jpg with" in attrs.get("aria-label", "") for attrs in drawings)


def test_examples_of_each_class_show_its_boxes(data, page):
    part = page.html.partition('id="examples"')[2].partition('id="oddest"')[0]
    boxes = usable(data / "train.json")
    for id_, strip in zip(NAMES, part.split('class="strip"')[1:], strict=True):
        own = [a for a in boxes if a["category_id"] == id_ and a["bbox"][2] > 0]
        assert strip.count("<svg") == strip.count("<rect") == min(len(own), 12) > 5


def test_pictures_show_the_images(data, page):
    part = page.html.partition('id="oddest"')[2]
    assert part.count("<image ") == 10  # of 12 one is missing and one broken
    black = re.search(rf'aria-label="1_{BLACK}.jpg.*?href="(.*?)"', page.html)[1]
    pixels = np.frombuffer(base64.b64decode(black.partition(",")[2]), np.uint8)
    assert cv2.imdecode(pixels, cv2.IMREAD_COLOR).max() < 10
    assert len(page.html) < 10e6


def test_the_same_data_make_the_same_page(data, page):
    files = [str(data / "train.json"), str(data / "val.json"), "--image-root", str(data)]
    again = explore(data / "again.html", *files, "--count", "12", *SMOKE)
    assert again.html == page.html
    assert not list(data.glob("*.partial"))


def test_without_images_statistics_and_boxes_remain(data, tmp_path, capsys):
    page = explore(tmp_path / "page.html", data / "train.json", "--image-root", tmp_path, *SMOKE)
    assert "60 of 60 images are missing or broken" in page.text
    assert "The first: 1_1.jpg (No such file or directory)" in capsys.readouterr().out
    assert page.rows("classes") and len(page.cards) == 48
    assert any(t == "rect" and a.get("class") == "odd" for t, a in page.tags)
    assert not any(t == "image" for t, _ in page.tags)


def test_the_config_says_where_the_data_lie(data, tmp_path):
    page = explore(
        tmp_path / "page.html",
        *SMOKE,
        f"dataset.train.json_file='{data}/val.json'",
        f"dataset.train.image_root='{data}'",
        f"dataset.val.json_file={tmp_path}/none.json",
    )
    assert f"train boxes{len(usable(data / 'val.json'))}" in page.text
    assert f"No val: {tmp_path}/none.json" in page.text
    assert page.cards and " 2_" in page.cards[0]


def test_a_root_for_each_file(data, tmp_path, capsys):
    files = [data / "train.json", data / "val.json"]
    roots = ["--image-root", f"train={tmp_path}", "--image-root", f"{files[1]}={data}"]
    page = explore(tmp_path / "page.html", *files, *roots, *SMOKE)
    assert "60 of 80 images are missing or broken" in page.text


def test_a_model_without_anchors_has_none_to_judge(data, tmp_path):
    config = tmp_path / "fcos.py"
    config.write_text(
        "from detectron2 import model_zoo\n"
        'model = model_zoo.get_config("common/models/fcos.py").model\n'
    )
    page = explore(
        tmp_path / "page.html", data / "val.json", "--image-root", data, "--config-file", config
    )
    assert "This model has no anchors" in page.text
    assert "sizes" not in page.tables and "<h3>Sides of boxes" in page.html


def test_retinanet_has_its_own_anchors_and_threshold(data, tmp_path):
    config = str(PROJECT_ROOT / "configs/retinanet_R_50_FPN.py")
    files = [data / "val.json", "--image-root", data, "--count", "0"]
    page = explore(tmp_path / "page.html", *files, "--config-file", config)
    sizes = [x * 2 ** (k / 3) for x in (32, 64, 128, 256, 512) for k in range(3)]
    scale = 1024 / HEIGHT  # up to 1,365 px wide, which its limit of 1,333 makes a little less
    scale = min(scale, 1333 / WIDTH)
    unfit = sum(
        brute_force_iou(a["bbox"][2] * scale, a["bbox"][3] * scale, sizes) < 0.5
        for a in usable(data / "val.json")
    )
    assert sum(int(row[1]) for row in page.rows("sizes").values()) == unfit
    assert "with IoU 0.7" not in page.text


def test_every_example_of_the_help_names_what_there_is(tmp_path):
    coco = blank([(64, 64)] * 30)
    train = save(coco, tmp_path / "train.json")
    split = [sys.executable, "tools/split_dataset.py", train, "--image-root", str(tmp_path)]
    subprocess.run(split, cwd=PROJECT_ROOT, check=True, capture_output=True)
    examples = re.findall(r"python tools/explore_dataset.py (\S+=\S+)", tool.__doc__)
    assert examples
    for example in examples:
        config = str(PROJECT_ROOT / "configs/faster_rcnn_R_50_FPN.py")
        cfg = load_config(config, [example, f"dataset.folds={tmp_path}/folds"])
        json_file = Path(cfg.dataset.train.json_file)
        if not json_file.is_absolute():
            json_file = tmp_path / json_file.relative_to(DATASETS)
        assert json_file.is_file()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("{", "is not valid json"),
        ({"annotations": []}, "has no annotations to explore"),
        ({"annotations": [{"image_id": [], "category_id": {}, "bbox": 3}]}, "has no annotations"),
        ({"images": [{"id": 1, "file_name": "a", "width": 0, "height": 9}]}, "images[0].width: "),
        ({"categories": [{"id": "1", "name": "a"}]}, "categories[0].id: "),
    ],
)
def test_bad_files_are_one_line(tmp_path, capsys, content, says):
    path = tmp_path / "train.json"
    if isinstance(content, dict):
        image = {"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}
        whole = {"images": [image], "categories": [{"id": 1, "name": "a"}], "annotations": []}
        save({**whole, **content}, path)
    elif content:
        path.write_text(content)
    output = tmp_path / "page.html"
    assert tool.main([str(path), "--output", str(output), *SMOKE]) == 2
    error = capsys.readouterr().err
    assert f": {path}: " in error and says in error and error.count("\n") == 1
    assert not output.exists()


def test_a_val_without_annotations_is_left_out(data, tmp_path, capsys):
    test = json.loads((data / "val.json").read_text(encoding="utf-8"))
    del test["annotations"]
    path = save(test, tmp_path / "test.json")
    page = explore(
        tmp_path / "page.html", data / "val.json", path, "--image-root", data, "--count", 1, *SMOKE
    )
    assert f"Left out, as it has no annotations: {path}." in capsys.readouterr().out
    assert set(page.rows("classes")) == set(NAMES.values())


def test_one_box_of_one_class_is_a_page_too(tmp_path):
    coco = {
        "images": [{"id": 3, "file_name": "a.png", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 1, "bbox": [0, 0, 32, 32]}],
    }
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), 200, np.uint8))
    page = explore(
        tmp_path / "page.html", save(coco, tmp_path / "t.json"), "--image-root", tmp_path, *SMOKE
    )
    assert page.rows("classes") == {"a": ["1", "100%", "1", "100%", "32"]}
    assert page.rows("sizes")["a"][:3] == ["0%", "0", "0%"]  # 64 px in the model, as an anchor
    assert "There is one class." in page.text


def test_classes_that_a_split_lacks_are_named(data, tmp_path):
    val = json.loads((data / "val.json").read_text(encoding="utf-8"))
    val["annotations"] = [a for a in val["annotations"] if a["category_id"] == 9]
    val["categories"].append({"id": 12, "name": "new"})
    page = explore(
        *(tmp_path / "page.html", data / "train.json", save(val, tmp_path / "val.json")),
        *("--image-root", data, "--count", 0, *SMOKE),
    )
    assert "Not in train at all: new." in page.text
    assert f"Not in val at all: 종이/박스, {EVIL}, new." in page.text
    assert page.rows("classes")["new"][0] == "0"


def blank(sizes: list[tuple[int, int]]) -> dict:
    """A COCO dict of images of these widths and heights, with a box each, without files."""
    coco = {"categories": [{"id": 1, "name": "a"}], "images": [], "annotations": []}
    for number, (width, height) in enumerate(sizes):
        image = {"id": number, "file_name": f"{number}.png", "width": width, "height": height}
        coco["images"].append(image)
        add_box(coco, number, 1, [8.0, 8.0, 40.0, 40.0])
    return coco


def explore_without_images(coco: dict, folder: Path, *arguments) -> Page:
    path = save(coco, folder / "train.json")
    where = ("--image-root", folder, "--sample", 0)
    return explore(folder / "page.html", path, *where, *SMOKE, *arguments)


def test_a_size_that_many_images_share_is_not_odd(tmp_path):
    coco = blank([*[(1920, 1080)] * 955, *[(960, 540)] * 44, (90, 900)])
    page = explore_without_images(coco, tmp_path)
    assert not [card for card in page.cards if "960 × 540" in card]
    assert "is 90 × 900 px" in page.cards[0]


def test_a_number_of_boxes_that_many_images_have_is_not_odd(tmp_path):
    coco = blank([(100, 100)] * 200)
    for image in range(12):
        for number in range(20 if image == 5 else 5):
            add_box(coco, image, 1, [float(number), 60.0, 12.0, 30.0])
    page = explore_without_images(coco, tmp_path)
    assert [card for card in page.cards if "boxes, usually" in card] == [page.cards[0]]
    assert "21 boxes, usually 1" in page.cards[0]
    assert "have 1 box or fewer" in page.text


def test_no_kind_of_oddity_fills_the_page(tmp_path):
    coco = blank([(200, 200)] * 300)
    for image in range(60):
        add_box(coco, image, 1, [150.0, 100.0, 140.0, 40.0])  # far out of the image
    for shift in (0.0, 1.0):
        add_box(coco, 299, 1, [100.0 + shift, 100.0, 40.0, 40.0])
    page = explore_without_images(coco, tmp_path)
    outside = [card for card in page.cards if "out of the image" in card]
    assert len(page.cards) == 48 and len(outside) == 8
    assert any("cover each other" in card for card in page.cards)
    assert "61 of 300 images are unusual in any of this, 52 of them like others here" in page.text


def test_small_boxes_are_counted_by_their_area(tmp_path):
    coco = blank([(300, 300)])  # 40 × 40 without an area
    for side, more in (
        (100.0, {"area": 500.5}),  # of a mask
        (20.0, {}),
        (32.0, {}),  # the limit itself, which COCO counts
        (20.0, {"area": None}),
        (20.0, {"area": 2000}),
        (100.0, {"area": 10_000}),
    ):
        add_box(coco, 0, 1, [0.0, 0.0, side, side], **more)
    page = explore_without_images(coco, tmp_path)
    assert re.search(r"count as small[^:]*: (\d+) \(57\.1%\)", page.text)[1] == "4"


def test_anchors_are_fitted_at_an_iou_of_half_too(tmp_path):
    rng = np.random.default_rng(0)
    sides, ratios = np.exp(rng.normal(np.log(60), 1.1, 3000)), np.exp(rng.normal(0, 0.4, 3000))
    coco = blank([(1333, 1024)] * 3000)  # which the test resize leaves as it is
    for a, side, ratio in zip(coco["annotations"], sides, ratios, strict=True):
        a["bbox"] = [0.0, 0.0, side / ratio**0.5, side * ratio**0.5]
    config = PROJECT_ROOT / "configs/faster_rcnn_R_50_FPN.py"
    page = explore_without_images(coco, tmp_path, "--count", 0, "--config-file", config)
    overrides = re.search(r"<pre>(.*?)</pre>", page.html, re.S)[1]
    assert "sizes=[[16],[32],[64],[128],[256]]" in overrides

    def unfit(sizes: list[int], threshold: float) -> str:
        boxes = [a["bbox"][2:] for a in coco["annotations"]]
        return f"{np.mean([brute_force_iou(*b, sizes) < threshold for b in boxes]):.1%}"

    small, large = [16, 32, 64, 128, 256], [32, 64, 128, 256, 512]
    assert f"leave out {unfit(small, 0.7)} of them" in page.text
    assert f"and {unfit(small, 0.5)} rather than {unfit(large, 0.5)} at IoU 0.5" in page.text
