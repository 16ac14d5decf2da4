"""Masks move with their objects, as polygons and as run lengths; Mask R-CNN trains on them."""

import json
import subprocess
import sys

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as V
from configs.common import augmentations
from conftest import PROJECT_ROOT, read_metrics
from detection.config import load_config
from detection.data.copy_paste import CopyPaste
from detection.data.mapper import BoxMapper
from detection.data.mixing import MixUp, Mosaic
from detection.data.resizing import ResizeShortestEdge
from detection.utils.errors import UserError
from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.structures import BitMasks, BoxMode
from PIL import Image
from pycocotools import mask as mask_util

HEIGHT, WIDTH = 60, 90
# an L, whose mask is not its box, and a triangle
POLYGONS = [
    [[10, 10, 20, 10, 20, 40, 40, 40, 40, 50, 10, 50]],
    [[50, 10, 85, 10, 85, 50]],
]
LEAF = "configs/mask_rcnn_R_50_FPN.py"


def plant(folder, kinds: list[str]) -> dict:
    """A record whose masks are polygons or run lengths, as `kinds` says."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "image.png")
    annotations = []
    for number, (polygons, kind) in enumerate(zip(POLYGONS, kinds, strict=True)):
        points = np.reshape(polygons, (-1, 2))
        (rle,) = mask_util.frPyObjects(polygons, HEIGHT, WIDTH)
        annotations.append(
            {
                "bbox": [*points.min(0), *(points.max(0) - points.min(0))],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": number,
                "segmentation": polygons if kind == "polygons" else rle,
                "iscrowd": 0,
            }
        )
    file = str(folder / "image.png")
    return {"file_name": file, "height": HEIGHT, "width": WIDTH, "annotations": annotations}


class Crop(V.Transform):
    """The L loses its upright, and the triangle its tip."""

    def transform(self, inpt, params):
        return self._call_kernel(V.functional.crop, inpt, top=0, left=20, height=HEIGHT, width=60)


def paint(record: dict) -> dict:
    """The same record; its image shows object 0 in red and object 1 in green."""
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for number, polygons in enumerate(POLYGONS):
        mask = mask_util.decode(mask_util.frPyObjects(polygons, HEIGHT, WIDTH))[:, :, 0]
        colours[mask > 0, number] = 255
    Image.fromarray(colours).save(record["file_name"])
    return record


def seen_by_the_head(masks, boxes) -> torch.Tensor:
    return masks.crop_and_resize(boxes.tensor, 28).float()


def check_masks(output: dict, least=0.85, threshold=127, alone=True):
    """The pixels in an object's colour are those of its mask, if it is alone in its box."""
    instances = output["instances"]
    boxes, labels = instances.gt_boxes, instances.gt_classes
    assert len(boxes) == len(instances.gt_masks) > 0
    painted = BitMasks(output["image"][labels] > threshold)
    found = seen_by_the_head(instances.gt_masks, boxes)
    wanted = seen_by_the_head(painted, boxes)
    either = torch.maximum(found, wanted) if alone else found
    overlap = (found * wanted).sum((1, 2)) / either.sum((1, 2))
    assert (overlap[either.sum((1, 2)) > 0] > least).all(), overlap


@pytest.mark.parametrize("kind", ["polygons", "run lengths"])
def test_masks_are_those_of_detectron2(kind, tmp_path):
    settings = {
        "augmentations": [
            ResizeShortestEdge((120,), sample_style="choice", max_size=300),
            T.RandomFlip(prob=1.0),
        ],
        "image_format": "BGR",
    }
    record = plant(tmp_path, [kind, kind])
    ours = BoxMapper(True, masks=True, **settings)(record)["instances"]
    bitmask = {"polygons": "polygon", "run lengths": "bitmask"}[kind]
    upstream = DatasetMapper(True, use_instance_mask=True, instance_mask_format=bitmask, **settings)
    theirs = upstream(record)["instances"]
    assert type(ours.gt_masks) is type(theirs.gt_masks)
    boxes = theirs.gt_boxes
    torch.testing.assert_close(ours.gt_boxes.tensor, boxes.tensor)
    assert torch.equal(
        seen_by_the_head(ours.gt_masks, boxes), seen_by_the_head(theirs.gt_masks, boxes)
    )


@pytest.mark.parametrize("kinds", [["polygons"] * 2, ["run lengths"] * 2, ["polygons", "rle"]])
def test_masks_follow_turns_and_crops(kinds, tmp_path):
    # the L loses its upright, the triangle its tip, and then all is turned by 90 degrees
    moves = [T.CropTransform(20, 0, 60, HEIGHT), T.RotationTransform(HEIGHT, 60, 90)]
    mapper = BoxMapper(True, augmentations=moves, image_format="RGB", masks=True)
    instances = mapper(plant(tmp_path, kinds))["instances"]
    expected = []
    for polygons in POLYGONS:
        whole = mask_util.decode(mask_util.frPyObjects(polygons, HEIGHT, WIDTH))[:, :, 0]
        expected.append(np.rot90(whole[:, 20:80]).copy())
    expected = BitMasks(torch.from_numpy(np.array(expected)))
    boxes = instances.gt_boxes
    found = seen_by_the_head(instances.gt_masks, boxes)
    wanted = seen_by_the_head(expected, boxes)
    overlap = (found * wanted).sum((1, 2)) / torch.maximum(found, wanted).sum((1, 2))
    assert (overlap > 0.9).all(), overlap


@pytest.mark.parametrize("kinds", [["polygons"] * 2, ["run lengths"] * 2, ["polygons", "rle"]])
@pytest.mark.parametrize(
    "moves",
    [
        [V.RandomHorizontalFlip(1.0), V.RandomRotation((90, 90), expand=True)],
        [Crop(), V.RandomVerticalFlip(1.0)],
        [V.RandomAffine(10, (0.1, 0.1), (0.8, 1.2), 5), V.Resize((120, 100))],
        [V.RandomPerspective(0.3, 1.0), V.Pad(5)],
        [V.RandomIoUCrop(sampler_options=[0.1])],
        [V.RandomIoUCrop(), V.ClampBoundingBoxes("hard"), V.SanitizeBoundingBoxes()],
    ],
)
def test_masks_follow_transforms_of_torchvision(kinds, moves, tmp_path):
    record = paint(plant(tmp_path, kinds))
    mapper = BoxMapper(True, augmentations=[], image_format="RGB", masks=True, transforms=moves)
    for seed in range(5):
        torch.manual_seed(seed)
        check_masks(mapper(record))


@pytest.mark.parametrize("kind", ["polygons", "run lengths"])
def test_all_lists_of_the_config_move_masks(kind, tmp_path):
    record = plant(tmp_path, [kind] * 2)
    transforms = instantiate([*augmentations.turns, *augmentations.strong])
    mapper = BoxMapper(
        True, augmentations=[], image_format="RGB", masks=True, transforms=transforms
    )
    torch.manual_seed(0)
    assert {len(mapper(record)["instances"].gt_masks) for _ in range(10)} == {2}


def test_objects_that_leave_take_their_masks_along(tmp_path):
    mapper = BoxMapper(
        True, augmentations=[T.CropTransform(45, 0, 45, HEIGHT)], image_format="BGR", masks=True
    )
    instances = mapper(plant(tmp_path, ["polygons"] * 2))["instances"]
    assert instances.gt_classes.tolist() == [1] and len(instances.gt_masks) == 1
    assert mapper({**plant(tmp_path, ["rle"] * 2), "annotations": []})["instances"].has("gt_masks")


@pytest.mark.parametrize("kinds", [["polygons"] * 2, ["run lengths"] * 2, ["polygons", "rle"]])
@pytest.mark.parametrize(
    "mix", [Mosaic(p=1), MixUp(p=1, alpha=1e4), CopyPaste(p=1, max_covered=0.5)]
)
def test_masks_follow_mixing(kinds, mix, tmp_path):
    """Objects of class 0 are red and those of class 1 green, wherever their masks are."""
    record = paint(plant(tmp_path, kinds))
    mapper = BoxMapper(True, augmentations=[], image_format="RGB", masks=True, mixing=[mix])
    mapper.use_dataset([record])
    counts = []
    for seed in range(8):
        np.random.seed(seed)
        output = mapper(record)
        threshold = 50 if isinstance(mix, MixUp) else 127
        check_masks(output, 0.75, threshold, alone=isinstance(mix, Mosaic))  # they are small
        counts.append(len(output["instances"]))
    assert max(counts) > 2


# a small network that learns from random weights
SMALL = [
    "~model.backbone.bottom_up.stages.stride_in_1x1",
    "model.backbone.bottom_up.stages.depth=18",
    "model.backbone.bottom_up.stages.norm=BN",
    "model.backbone.bottom_up.stem.norm=BN",
    "model.pixel_std=[57.375,57.120,58.395]",
    "model.roi_heads.mask_head.conv_dims=[64,64]",
    "model.roi_heads.batch_size_per_image=32",
    "model.roi_heads.box_predictor.test_topk_per_image=10",
    "train.max_iter=2",
    "train.eval_period=2",
    "train.log_period=1",
    "writers.wandb=null",
]


@pytest.mark.slow
def test_training_evaluation_and_prediction(train_net, on_toy, toy, tmp_path):
    small = [*SMALL, f"train.output_dir='{tmp_path}'"]
    train_net(*small, config=LEAF)
    rows = read_metrics(tmp_path)
    assert all("loss_mask" in row for row in rows[:2])
    assert {"bbox/AP", "segm/AP"} <= set(rows[-1])

    output = tmp_path / "predictions.json"
    command = [sys.executable, "predict.py", "--config-file", LEAF, "--checkpoint", "last"]
    command += [f"{toy}/val.json", "--max-per-image", "10", "--output", str(output)]
    command += [*on_toy, *small]
    subprocess.run(command, cwd=PROJECT_ROOT, check=True)
    results = json.loads(output.read_text())
    sizes = {tuple(result["segmentation"]["size"]) for result in results}
    assert sizes == {(96, 96)}  # of the images


def test_json_without_masks_is_reported_before_training(on_toy, toy, tmp_path):
    coco = json.loads((toy / "train.json").read_text())
    del coco["annotations"][3]["segmentation"]
    (tmp_path / "train.json").write_text(json.dumps(coco))
    json_file = f"dataset.train.json_file={tmp_path}/train.json"
    cfg = load_config(str(PROJECT_ROOT / LEAF), [*on_toy, json_file])
    with pytest.raises(UserError) as error:
        instantiate(cfg.dataloader.train)
    said = f"{tmp_path}/train.json: 1 of {len(coco['annotations'])} annotations have no mask"
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
