"""predict.py as a competitor runs it, on a model that is trained for two iterations."""

import json
import logging
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT_ROOT
from detection.checkpoint.load import load_weights
from detection.classes import CLASSES
from detection.config import fold_suffix, load_config
from detection.data.image_roots import config_root
from detection.evaluation.matching import box_iou
from detection.evaluation.validation_loss import with_validation_losses
from detection.inference.sources import list_images, results_name
from detection.inference.tta import DetectorWithTTA, with_tta
from detection.utils.errors import UserError
from detection.utils.images import read_image
from detectron2.config import instantiate
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.build import trivial_batch_collator
from detectron2.structures import Boxes, Instances
from PIL import Image
from predict import main
from torch.utils.data import DataLoader
from train_net import do_test

SMOKE = str(PROJECT_ROOT / "configs/debug/smoke.py")


@pytest.fixture(scope="module")
def trained(train_net, tmp_path_factory) -> Path:
    """The output folder of a short training, with its evaluation's results at score 0.001 up."""
    folder = tmp_path_factory.mktemp("trained")
    overrides = [f"train.output_dir={folder}", "train.max_iter=2", "train.pictures.count=0"]
    train_net(*overrides, "writers.wandb=null")
    return folder


@pytest.fixture
def predict(trained, on_toy, monkeypatch, capsys, caplog):
    """Runs predict.py on the trained model by its best checkpoint; returns what it says."""
    monkeypatch.chdir(PROJECT_ROOT)
    caplog.set_level(logging.INFO, logger="detection")

    def run(*args: str) -> str:
        caplog.clear()
        command = ["--config-file", "configs/debug/smoke.py", f"train.output_dir={trained}"]
        main([*command, *args, *on_toy])  # overrides before and behind the rest
        return "\n".join([*caplog.messages, capsys.readouterr().out])

    return run


def read(path: Path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def values(results: list[dict]) -> np.ndarray:
    return np.array([[r["image_id"], r["category_id"], r["score"], *r["bbox"]] for r in results])


SHAPES = [(96, 96), (96, 50), (52, 96), (96, 90), (64, 64), (40, 96), (96, 40)]


@pytest.fixture(scope="module")
def mixed(toy, tmp_path_factory) -> Path:
    """A json of images of several shapes, some of which are padded to one size."""
    folder = tmp_path_factory.mktemp("mixed")
    coco = read(toy / "val.json")
    images = []
    for number, (width, height) in enumerate(SHAPES, start=1):
        image = {"id": number, "file_name": f"{number}.png", "width": width, "height": height}
        source = coco["images"][number % len(coco["images"])]["file_name"]
        with Image.open(toy / "images" / source) as picture:
            picture.crop((0, 0, width, height)).save(folder / image["file_name"])
        images.append(image)
    coco |= {"images": images, "annotations": []}
    for image in images:
        box = {"id": image["id"], "image_id": image["id"], "bbox": [8, 8, 24, 24], "area": 576}
        coco["annotations"].append(box | {"category_id": coco["categories"][0]["id"], "iscrowd": 0})
    (folder / "mixed.json").write_text(json.dumps(coco))
    coco["images"] = images[::2] + images[1::2]
    (folder / "shuffled.json").write_text(json.dumps(coco))
    return folder


def on_mixed(on_toy: list[str], folder: Path, name: str = "mixed") -> list[str]:
    return [
        *on_toy,
        f"dataset.val.json_file={folder}/{name}.json",
        f"dataset.val.image_root={folder}",
        f"dataset.val.name={folder.name}_{name}",
    ]


def assert_same_boxes(results: list[dict], expected: list[dict]) -> None:
    """As many, of the same class at nearly the same place, the scores to 1e-3."""
    assert len(results) == len(expected) > 0
    for box in expected:
        same = [r for r in results if abs(r["score"] - box["score"]) < 1e-3]
        same = [r for r in same if all(r[k] == box[k] for k in ("image_id", "category_id"))]
        boxes = np.array([r["bbox"] for r in same]).reshape(-1, 4)
        iou = box_iou(np.array([box["bbox"]]), boxes)
        assert iou.max(initial=0) > 0.99, box


@pytest.mark.slow
@pytest.mark.parametrize("tta", [[], ["tta.enabled=True"]], ids=["plain", "tta"])
def test_boxes_do_not_depend_on_the_batch(predict, trained, mixed, on_toy, tmp_path, tta):
    cfg = load_config(SMOKE, [*on_mixed(on_toy, mixed), f"train.output_dir={tmp_path}", *tta])
    model = instantiate(cfg.model).eval()
    load_weights(model, str(trained), "best")
    do_test(cfg, with_tta(cfg, model))
    expected = read(tmp_path / "inference" / "coco_instances_results.json")
    for name, batch_size in (("mixed", 1), ("mixed", 2), ("mixed", 7), ("shuffled", 3)):
        args = [f"{mixed}/{name}.json", "--image-root", str(mixed), "--min-score", "0.001"]
        args += ["--batch-size", str(batch_size), "--output", str(tmp_path / "out.json"), *tta]
        predict(*args)
        assert_same_boxes(read(tmp_path / "out.json"), expected)

    # the widest gap, which no rounding crosses
    scores = np.sort([box["score"] for box in expected])[100:]
    least = (scores[1:] + scores[:-1])[np.diff(scores).argmax()] / 2
    predict(*args, "--min-score", str(least))
    assert_same_boxes(read(tmp_path / "out.json"), [b for b in expected if b["score"] > least])


@pytest.mark.slow
def test_evaluation_in_batches_of_several_shapes(trained, mixed, on_toy, tmp_path):
    """A loader of one's own may batch; what is evaluated and the losses stay the same."""
    results, losses = [], []
    for batch_size, name in ((1, "mixed"), (4, "mixed"), (4, "shuffled")):
        overrides = [f"train.output_dir={tmp_path}", "train.val_loss.enabled=True"]
        cfg = load_config(SMOKE, [*on_mixed(on_toy, mixed, name), *overrides])
        cfg.dataloader.test._target_ = batched_loader
        cfg.dataloader.test.batch_size = batch_size
        model = instantiate(cfg.model).eval()
        load_weights(model, str(trained), "best")
        losses.append(
            with_validation_losses(cfg, model, partial(do_test, cfg, model))()["val_loss"]
        )
        results.append(read(tmp_path / "inference" / "coco_instances_results.json"))
    for number in (1, 2):
        assert_same_boxes(results[number], results[0])
        assert losses[number] == pytest.approx(losses[0], rel=1e-5)


def batched_loader(dataset, mapper, num_workers, batch_size):
    return DataLoader(
        MapDataset(DatasetFromList(dataset), mapper),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
    )


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("datasets/test.json", "test"),
        ("datasets/folds/0/val.json", "folds_0_val"),
        ("elsewhere/val.json", "val"),
        ("photos/", "photos.folder"),
        ("datasets/test", "test.folder"),
        ("datasets/test.v1/", "test.v1.folder"),
        ("datasets/test/*.jpg", "test_any.jpg"),
        ("photos/[ab]?.png", "abone.png"),
    ],
)
def test_results_of_each_json_have_a_file_of_their_own(monkeypatch, source, name):
    monkeypatch.chdir(PROJECT_ROOT)
    assert results_name(source) == name
    command = ["make", "-n", "predict", f"TEST={source}", "UV=uv"]
    planned = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True).stdout
    assert f"/predictions/{name}.json" in planned


@pytest.mark.parametrize("fold", ["0", "12", "holdout"])
def test_make_finds_the_run_of_a_fold(fold):
    command = ["make", "-n", "predict", f"FOLD={fold}", "CONFIG=configs/x.py", "UV=uv"]
    planned = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True).stdout
    assert f" output/x{fold_suffix(fold)}/predictions/" in planned


@pytest.mark.slow
def test_goes_on_where_it_was_cut_off(predict, toy, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(toy / "images", images)
    args = [f"{toy}/val.json", "--image-root", str(images), "--batch-size", "1"]
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    predict(*args, "--output", str(whole))

    third = images / read(toy / "val.json")["images"][2]["file_name"]
    content = third.read_bytes()
    third.write_bytes(content[: len(content) // 3])
    with pytest.raises(UserError, match=f"^{re.escape(str(third))}"):
        predict(*args, "--output", str(cut))
    assert not cut.exists()
    third.write_bytes(content)
    batches = cut.with_name("cut.json.batches")
    batches.write_text(batches.read_text() + "\0\0\0\n")  # as a power cut may leave it
    assert "after 2 batches" in predict(*args, "--output", str(cut))
    assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_other_category_ids_start_anew(predict, toy, tmp_path):
    shutil.copytree(toy / "images", tmp_path / "images")
    coco = read(toy / "val.json")
    source, output = tmp_path / "val.json", tmp_path / "out.json"
    source.write_text(json.dumps(coco))
    last = tmp_path / "images" / coco["images"][-1]["file_name"]
    content = last.read_bytes()
    last.unlink()
    args = [str(source), "--batch-size", "1", "--output", str(output)]
    with pytest.raises(UserError, match="No such file"):
        predict(*args, "--image-root", f"{tmp_path}/images")
    last.write_bytes(content)
    for category in coco["categories"]:
        category["id"] += 1000
    source.write_text(json.dumps({**coco, "annotations": []}))
    predict(*args, "--image-root", f"{tmp_path}/images")
    assert all(r["category_id"] > 1000 for r in read(output))


def test_images_of_another_root_are_not_there(toy, tmp_path):
    coco = read(toy / "val.json")
    (tmp_path / "valid").mkdir()
    for image in coco["images"]:
        shutil.copy(toy / "images" / image["file_name"], tmp_path / "valid")
    with pytest.raises(UserError, match=f"--image-root .*{re.escape(str(tmp_path / 'valid'))}"):
        list_images(f"{toy}/val.json", str(tmp_path))
    assert list_images(f"{toy}/val.json", f"{tmp_path}/valid") == (coco, f"{tmp_path}/valid")


def test_root_is_that_of_the_split(tmp_path):
    dataset = {
        "folds": f"{tmp_path}/folds",
        "train": {"json_file": f"{tmp_path}/a.json", "image_root": "/train"},
        "val": {"json_file": f"{tmp_path}/train.json", "image_root": "/val"},
        "pseudo": {"json_file": f"{tmp_path}/p.json", "image_root": "/pseudo"},
    }
    for name, root in [
        *(("a.json", "/train"), ("train.json", "/val"), ("p.json", "/pseudo")),
        *(("folds/3/val.json", "/train"), ("test.json", "/val"), ("fixed/train.json", "/train")),
        *(("train/_annotations.coco.json", "/train"), ("valid/_annotations.coco.json", "/val")),
    ]:
        assert config_root(dataset, f"{tmp_path}/{name}") == root, name


@pytest.mark.slow
def test_folder_and_pattern(predict, toy, tmp_path):
    images = tmp_path / "사진"
    (images / "deep").mkdir(parents=True)
    sources = sorted((toy / "images").glob("*val*"))[:3]
    for source, name in zip(sources, ("b.jpg", "deep/a.jpg", "c.jpg"), strict=True):
        with Image.open(source) as image:
            image.convert("RGB").save(images / name)
    (images / "notes.txt").write_text("no image")
    predict(str(images), "--output", str(tmp_path / "folder.json"), "--max-per-image", "7")
    listed = read(tmp_path / "folder.images.json")
    assert [i["file_name"] for i in listed["images"]] == ["b.jpg", "c.jpg", "deep/a.jpg"]
    assert [c["name"] for c in listed["categories"]] == CLASSES
    results = read(tmp_path / "folder.json")
    assert {r["image_id"] for r in results} == {1, 2, 3} and len(results) == 21

    predict(f"{images}/*.jpg", "--output", str(tmp_path / "glob.json"), "--max-per-image", "7")
    listed = read(tmp_path / "glob.images.json")
    assert [i["file_name"] for i in listed["images"]] == ["b.jpg", "c.jpg"]


def test_folder_takes_every_common_ending_and_names_the_rest(tmp_path, caplog):
    formats = {"a.jfif": "JPEG", "b.gif": "GIF", "c.jp2": "JPEG2000", "d.ppm": "PPM"}
    for name, kind in formats.items():
        Image.new("RGB", (30, 20)).save(tmp_path / name, kind)
    for name in ("e.HEIC", "f.heic", "g.dcm", "notes.txt", ".hidden.x"):
        (tmp_path / name).write_bytes(b"?")
    with caplog.at_level(logging.WARNING, logger="detection"):
        coco, root = list_images(str(tmp_path), None)
    assert [i["file_name"] for i in coco["images"]] == list(formats)
    assert ".heic 2, .dcm 1" in caplog.text and "txt" not in caplog.text
    for name in formats:
        assert read_image(f"{root}/{name}").shape == (20, 30, 3)


@pytest.mark.slow
def test_results_of_other_images_are_not_overwritten(predict, trained, toy, tmp_path):
    """A json and a folder of the same name, as the whole road sees them."""
    shutil.copytree(toy / "images", tmp_path / "test")
    coco = read(toy / "val.json")
    sources = [tmp_path / "test.json", tmp_path / "deep" / "test.json"]
    sources[1].parent.mkdir()
    for source, shift in zip(sources, (0, 1), strict=True):
        names = [image["file_name"] for image in coco["images"]]
        names = names[shift:] + names[:shift]
        images = [i | {"file_name": n} for i, n in zip(coco["images"], names, strict=True)]
        source.write_text(json.dumps({**coco, "images": images, "annotations": []}))
    root = ["--image-root", str(toy / "images")]
    predict(str(sources[0]), *root)
    predict(str(tmp_path / "test"))
    folder = trained / "predictions"
    assert {r["image_id"] for r in read(folder / "test.json")} == {i["id"] for i in images}
    listed = read(folder / "test.folder.images.json")["images"]
    assert {r["image_id"] for r in read(folder / "test.folder.json")} == {i["id"] for i in listed}

    before = (folder / "test.json").read_bytes()
    with pytest.raises(UserError) as error:
        predict(str(sources[1]), *root)
    assert str(folder / "test.json") in str(error.value) and "--output" in str(error.value)
    assert (folder / "test.json").read_bytes() == before
    predict(str(sources[1]), *root, "--output", str(folder / "test.json"))
    assert read(folder / "test.images.json")["images"] == images
    predict(str(sources[1]), *root)


@pytest.mark.slow
def test_equals_signs_in_files(predict, trained, toy, tmp_path):
    checkpoint = tmp_path / "epoch=3.pth"
    shutil.copy(trained / "model_best.pth", checkpoint)
    root = tmp_path / "set=a"
    shutil.copytree(toy / "images", root)
    mine = tmp_path / "mine.json"
    shutil.copy(toy / "val.json", mine)
    before = mine.read_bytes()
    options = ["--checkpoint", str(checkpoint), "--image-root", str(root)]
    predict(*options, "--output", str(tmp_path / "out=1.json"), str(mine))
    assert mine.read_bytes() == before
    assert {r["image_id"] for r in read(tmp_path / "out=1.json")} == {
        image["id"] for image in json.loads(before)["images"]
    }


@pytest.mark.slow
def test_wrong_input_is_one_line(predict, toy, tmp_path):
    cases = [
        ([f"{tmp_path}/none"], f"{tmp_path}/none: no image there"),
        ([f"{tmp_path}/none.json"], "cannot be read"),
        ([f"{toy}/val.json", "--checkpoint", "none.pth"], "none.pth: no such checkpoint"),
        ([f"{toy}/val.json", "model.roi_heads.num_classes=3"], "another model"),
        ([f"{toy}/val.json", "--output", f"{toy}/val.json"], "val.json: is what is read"),
        ([f"{toy}/val.json", "--output", f"{toy}"], "is a folder"),
        ([f"{toy}/val.json", "--output", f"{toy}/val.json/x.json"], "cannot be written"),
        ([f"{toy}/val.json", "tta.enabled=True", "tta.detector.method=wbff"], "there are wbf"),
        ([f"{toy}/val.json", "tta.enabled=True", "tta.detector.scales=[]"], "numbers over 0"),
    ]
    truth = (toy / "val.json").read_bytes()
    for args, message in cases:
        if "--output" not in args:
            args = [*args, "--output", f"{tmp_path}/out.json"]
        with pytest.raises(UserError) as error:
            predict(*args)
        assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    assert (toy / "val.json").read_bytes() == truth


@pytest.mark.slow
def test_error_on_the_command_line():
    command = [sys.executable, "predict.py", "--config-file", "configs/debug/smoke.py", "none.json"]
    process = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, encoding="utf-8")
    assert process.returncode == 2
    assert process.stderr.strip().splitlines()[-1].startswith("predict.py: none.json: ")
    assert "Traceback" not in process.stderr


class SpotDetector(torch.nn.Module):
    """Finds the bright spot of each image, with a score that falls with the image's size."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, batched_inputs):
        outputs = []
        for image in batched_inputs:
            pixels = image["image"].float().mean(0)
            self.sizes.append(tuple(pixels.shape))
            ys, xs = torch.nonzero(pixels > 128, as_tuple=True)
            corners = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
            scale = torch.tensor([image["width"], image["height"]] * 2)
            scale = scale / torch.tensor([pixels.shape[1], pixels.shape[0]] * 2)
            found = Instances((image["height"], image["width"]))
            found.pred_boxes = Boxes((corners * scale)[None])
            found.scores = torch.tensor([0.9])
            found.pred_classes = torch.tensor([1])
            outputs.append({"instances": found})
        return outputs


def test_tta_finds_the_object_where_it_is(tmp_path):
    pixels = np.zeros((80, 120, 3), dtype=np.uint8)
    pixels[10:30, 70:110] = 255
    Image.fromarray(pixels).save(tmp_path / "spot.png")
    detector = SpotDetector()
    tta = DetectorWithTTA(detector, scales=[0.5, 1, 2], vertical_flip=True)
    # the mapper has halved it
    mapped = torch.from_numpy(pixels[::2, ::2].transpose(2, 0, 1).copy())
    image = {"image": mapped, "file_name": str(tmp_path / "spot.png"), "height": 80, "width": 120}
    (output,) = tta([image])
    assert sorted(set(detector.sizes)) == [(20, 30), (40, 60), (80, 120)]
    assert len(detector.sizes) == 12, "each size as it is, and flipped in three ways"
    found = output["instances"]
    assert found.pred_boxes.tensor.numpy() == pytest.approx(np.array([[70, 10, 110, 30]]), abs=1.5)
    assert found.scores.tolist() == pytest.approx([0.9]) and found.pred_classes.tolist() == [1]


def test_tta_reads_16_bits_as_the_mapper_does(tmp_path):
    pixels = np.zeros((40, 60), dtype=np.uint16)
    pixels[:], pixels[10:30, 20:40] = 90 * 256, 200 * 256  # both over 255
    Image.fromarray(pixels).save(tmp_path / "spot.png")
    image = {"file_name": str(tmp_path / "spot.png"), "height": 40, "width": 60}
    image["image"] = torch.zeros(3, 40, 60)
    (output,) = DetectorWithTTA(SpotDetector(), scales=[2], horizontal_flip=False)([image])
    found = output["instances"].pred_boxes.tensor.numpy()
    assert found == pytest.approx(np.array([[20, 10, 40, 30]]), abs=1)


@pytest.mark.slow
def test_tta_by_one_override(predict, toy, tmp_path):
    args = [f"{toy}/val.json", "--batch-size", "2"]
    predict(*args, "--output", str(tmp_path / "plain.json"))
    predict(*args, "--output", str(tmp_path / "tta.json"), "tta.enabled=True")
    plain, tta = read(tmp_path / "plain.json"), read(tmp_path / "tta.json")
    assert {r["image_id"] for r in tta} == {r["image_id"] for r in plain}
    assert values(tta).shape != values(plain).shape or not np.allclose(values(tta), values(plain))
