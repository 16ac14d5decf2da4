"""Detections in tiles: one of each object wherever edges cut it, in the image's own pixels."""

import itertools
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from configs.common.tiles import tiles as defaults
from conftest import PROJECT_ROOT
from detection.config import load_config
from detection.data.tiles import Tiles, Window
from detection.engine.setup import check
from detection.evaluation.validation_loss import with_validation_losses
from detection.inference.tiles import DetectorInTiles, merge
from detection.inference.tta import DetectorWithTTA
from detection.modeling.build import build_model
from detection.utils.arguments import parse_args
from detection.utils.errors import UserError
from detectron2.structures import Boxes, Instances
from PIL import Image
from planted import BACKGROUND, COLORS, coloured
from predict import main as predict
from train_net import do_test

SMOKE = str(PROJECT_ROOT / "configs/debug/smoke.py")
SIZE = 300, 220
SETTINGS = {**defaults, "enabled": True, "size": 100}


def seen(box, window: Window, edge=0.0) -> list | None:
    """The part of a box that a window shows, in pixels of the image."""
    left, top, width, height = window
    part = [*np.maximum(box[:2], (left, top)), *np.minimum(box[2:], (left + width, top + height))]
    return part if part[2] > part[0] and part[3] > part[1] else None


def merged(objects, tiles: Tiles, jitter=0.0) -> list[tuple]:
    """What a faultless detector's views become: (box, class, score), by place."""
    rng = np.random.default_rng(0)
    windows = tiles.windows(*SIZE)
    if tiles.full_image and len(windows) > 1:
        windows.append(Window(0, 0, *SIZE))
    found = []
    for number, window in enumerate(windows):
        for label, box in objects:
            if part := seen(box, window):
                part = np.clip(part + rng.uniform(-jitter, jitter, 4), 0, (*SIZE, *SIZE))
                found.append((part, 0.5 + 0.01 * number, label, number))
    boxes, scores, labels, owners = (np.array(values) for values in zip(*found, strict=True))
    found = merge(boxes, scores, labels, owners, windows, SIZE, tiles)
    return sorted((tuple(box), int(labels[m[0]]), float(scores[m].max())) for box, m in found)


def expected(objects) -> list[tuple]:
    return sorted((tuple(map(float, box)), label) for label, box in objects)


# tiles of 100 with an overlap of 20 start at 0, 66, 133, 200 and at 0, 60, 120
CUT_BY = {
    "none": (10, 10, 30, 30),
    "two, in the overlap": (70, 5, 95, 30),
    "two, beyond the overlap": (40, 10, 120, 40),
    "four, in the overlap": (70, 65, 90, 90),
    "four, beyond the overlap": (40, 30, 125, 115),
    "the image's edge": (280, 200, 300, 220),
    "a sliver in the next tile": (45, 20, 68, 40),
    "up to a tile's edge": (140, 20, 166, 50),
    "three in a row": (50, 150, 190, 170),
}


@pytest.mark.parametrize("full_image", [True, False])
@pytest.mark.parametrize("name", CUT_BY)
def test_an_object_is_one_detection_wherever_edges_cut_it(name, full_image):
    objects = [(1, CUT_BY[name])]
    for overlap in (0, 0.2, 0.5):
        tiles = Tiles(**{**SETTINGS, "overlap": overlap, "full_image": full_image})
        found = merged(objects, tiles)
        assert [f[:2] for f in found] == expected(objects), overlap


@pytest.mark.parametrize("full_image", [True, False])
def test_a_grid_of_objects_stays_what_it_is(full_image):
    """Adjacent ones are not merged, of one class or of several; classes may be in one place."""
    grid = itertools.product(range(0, 300, 20), range(0, 220, 20))
    objects = [(0, (x, y, x + 20, y + 20)) for x, y in grid]
    tiles = Tiles(**{**SETTINGS, "full_image": full_image})
    assert [f[:2] for f in merged(objects, tiles)] == expected(objects)
    objects = [(k % 2, box) for k, (_, box) in enumerate(objects)]
    assert [f[:2] for f in merged(objects, tiles)] == expected(objects)
    # beyond the overlap, side by side across the tiles' edges, one inside another
    objects = [(0, (40, 10, 120, 40)), (0, (40, 40, 120, 75)), (0, (120, 10, 210, 40))]
    objects += [(0, (60, 15, 75, 30)), (1, (40, 10, 120, 40))]
    assert [f[:2] for f in merged(objects, tiles)] == expected(objects)


@pytest.mark.parametrize("seed", range(5))
def test_random_objects_are_found_once(seed):
    """As many as there are and near their places, though each view sees them a little off."""
    rng = np.random.default_rng(seed)
    objects = []
    while len(objects) < 40:
        start = rng.uniform(0, (SIZE[0] - 8, SIZE[1] - 8))
        box = (*start, *np.minimum(start + rng.uniform(8, 90, 2), SIZE))
        apart = all(
            min(box[2], o[2]) < max(box[0], o[0]) + 1 or min(box[3], o[3]) < max(box[1], o[1]) + 1
            for _, o in objects
        )
        if apart or rng.random() < 0.01:
            objects.append((int(rng.integers(2)), box))
        elif rng.random() < 0.02:
            break
    found = merged(objects, Tiles(**SETTINGS), jitter=0.4)
    assert len(found) == len(objects)
    for (box, label, _), (expected_box, expected_label) in zip(
        found, expected(objects), strict=True
    ):
        assert label == expected_label and box == pytest.approx(expected_box, abs=3)


class ColorDetector(torch.nn.Module):
    """Finds each patch of a class's colour in RGB inputs, with its mask, as detectron2 would."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, batched_inputs):
        self.shapes.append([tuple(i["image"].shape[1:]) for i in batched_inputs])
        return [{"instances": self._detect(i)} for i in batched_inputs]

    def _detect(self, image):
        pixels = image["image"].numpy().transpose(1, 2, 0)
        size = image["height"], image["width"]
        boxes, labels, masks = [], [], []
        for label in range(len(COLORS)):
            mask = coloured(pixels, label).astype(np.uint8)
            mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
            count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask)
            for k in range(1, count):
                x, y, w, h = stats[k, :4]
                boxes.append((x, y, x + w, y + h))
                labels.append(label)
                masks.append(numbers == k)
        found = Instances(size)
        found.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4).float())
        found.scores = torch.full((len(boxes),), 0.75)
        found.pred_classes = torch.tensor(labels, dtype=torch.int64)
        found.pred_masks = torch.from_numpy(np.array(masks).reshape(-1, *size).astype(bool))
        return found


@pytest.fixture
def planted(tmp_path):
    """An image with objects, as the mapper gives it: shrunk to a quarter."""
    places = [(10, 10, 30, 30), (70, 65, 90, 90), (150, 20, 240, 50), (280, 200, 300, 220)]
    objects = list(enumerate([*places, (50, 150, 190, 170)]))
    pixels = np.full((*SIZE[::-1], 3), BACKGROUND, np.uint8)
    for label, (x1, y1, x2, y2) in objects:
        pixels[y1:y2, x1:x2] = COLORS[label]
    path = tmp_path / "planted.png"
    Image.fromarray(pixels).save(path)
    small = cv2.resize(pixels, (75, 55), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    image = {"image": torch.from_numpy(small.copy()), "file_name": str(path), "image_id": 5}
    return {**image, "width": SIZE[0], "height": SIZE[1]}, objects


def test_whole_image_boxes_and_masks_come_back(planted):
    image, objects = planted
    model = ColorDetector().eval()
    tiles = Tiles(**{**SETTINGS, "full_image": False, "batch_size": 5})
    detector = DetectorInTiles(model, tiles, [T.NoOpTransform()], "RGB")
    assert not detector.training
    (output,) = detector([image])
    found = output["instances"]
    assert found.image_size == SIZE[::-1]
    boxes = [tuple(map(int, box)) for box in found.pred_boxes]
    assert sorted(zip(found.pred_classes.tolist(), boxes, strict=True)) == objects
    assert found.scores.tolist() == pytest.approx([0.75] * 5)
    assert [len(batch) for batch in model.shapes] == [5, 5, 2], "12 tiles"
    assert {shape for batch in model.shapes for shape in batch} == {(100, 100)}
    for (x1, y1, x2, y2), mask in zip(boxes, found.pred_masks.numpy(), strict=True):
        assert mask[y1:y2, x1:x2].all() and mask.sum() == (x2 - x1) * (y2 - y1)


def test_views_are_resized_as_images_are_and_tta_sees_each(planted):
    image, objects = planted
    model = ColorDetector()
    tta = DetectorWithTTA(model, scales=[1, 2], image_format="RGB", method="nms")
    resize = [T.ResizeShortestEdge(50)]
    (output,) = DetectorInTiles(tta, Tiles(**SETTINGS), resize, "RGB")([image])
    shapes = {shape for batch in model.shapes for shape in batch}
    assert shapes == {(50, 50), (100, 100), (55, 75), (110, 150)}
    boxes = output["instances"].pred_boxes.tensor.numpy()
    for _, box in objects[:2]:
        assert np.abs(boxes - box).max(axis=1).min() <= 2


def test_an_image_no_larger_than_a_tile_goes_as_it_is():
    model = ColorDetector()
    image = {"image": torch.zeros(3, 10, 20, dtype=torch.uint8), "width": 100, "height": 50}
    (output,) = DetectorInTiles(model, Tiles(**SETTINGS), [], "RGB")([image])
    assert model.shapes == [[(10, 20)]] and len(output["instances"]) == 0


@pytest.mark.slow
def test_predict_and_evaluation_see_the_same(on_toy, tmp_path):
    """predict.py on a folder, as a user runs it, finds what an evaluation of the json finds."""
    overrides = [*on_toy, "tiles.enabled=True", "tiles.size=48", f"train.output_dir={tmp_path}"]
    cfg = load_config(SMOKE, [*overrides, "train.val_loss.enabled=True"])
    torch.manual_seed(0)
    model = build_model(cfg, pretrained=False)
    checkpoint = tmp_path / "model.pth"
    torch.save({"model": model.state_dict()}, checkpoint)
    scores = with_validation_losses(cfg, model, partial(do_test, cfg, model))()
    assert model.training, "as before"
    assert {"bbox", "val_loss"} <= scores.keys() and scores["val_loss"]["total_loss"] > 0
    evaluated = json.loads((tmp_path / "inference/coco_instances_results.json").read_text())

    coco = json.loads(Path(cfg.dataset.val.json_file).read_text())
    folder = tmp_path / "photos"
    folder.mkdir()
    for image in coco["images"]:
        shutil.copy(f"{cfg.dataset.val.image_root}/{image['file_name']}", folder)
    command = [sys.executable, "predict.py", "--config-file", SMOKE, str(folder), *overrides]
    command += ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out.json")]
    command += ["--min-score", "0.05", "--num-workers", "0"]
    process = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    images = json.loads((tmp_path / "out.images.json").read_text())["images"]
    names = {image["id"]: image["file_name"] for image in images}
    results = [
        sorted(
            [
                (names[r["image_id"]], r["category_id"], *np.round([r["score"], *r["bbox"]], 2))
                for r in found
            ]
        )
        for names, found in (
            (names, json.loads((tmp_path / "out.json").read_text())),
            ({i["id"]: Path(i["file_name"]).name for i in coco["images"]}, evaluated),
        )
    ]
    assert len(results[0]) == len(results[1]) > 40
    assert {r[0] for r in results[0]} == set(names.values())
    assert [r[:2] for r in results[0]] == [r[:2] for r in results[1]]
    values = [np.array([r[2:] for r in found], float) for found in results]
    assert values[0] == pytest.approx(values[1], abs=0.02)
    with pytest.raises(UserError, match=r"^tiles\.overlap=1: "):
        predict([*command[2:], "tiles.overlap=1"])


def test_a_training_is_refused_before_it_starts(on_toy):
    args = parse_args([])
    cfg = load_config(SMOKE, [*on_toy, "tiles.enabled=True", "tiles.size=8"])
    with pytest.raises(UserError, match=r"^tiles\.size=8: "):
        check(args, cfg)
    cfg.tiles.size = 48
    check(args, cfg)
    del cfg.dataloader.train["tiles"]  # as of a loader of one's own, which would not cut
    with pytest.raises(UserError, match=r"build_train_loader"):
        check(args, cfg)
