"""Boxes stay on their objects through every augmentation; images come out as from detectron2."""

import sys

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as V
from conftest import PROJECT_ROOT
from detection.config import load_config
from detection.data.copy_paste import CopyPaste
from detection.data.mapper import BoxMapper
from detection.data.mixing import MixUp, Mosaic
from detection.data.resizing import ResizeShortestEdge
from detection.data.samples import Sample
from detection.data.transforms import BoxSafeCrop, ColorJitter
from detection.utils.errors import UserError
from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode
from planted import COLORS, coloured, plant
from torchvision.tv_tensors import Image

SIZES = [(96, 64), (64, 96), (80, 80), (128, 40)]


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[dict]:
    """Images of several shapes, each with three rectangles."""
    folder = tmp_path_factory.mktemp("planted")
    return [plant(folder, number, SIZES[number % len(SIZES)]) for number in range(12)]


def mapper(records=(), **settings) -> BoxMapper:
    settings = {"augmentations": [], "image_format": "BGR", **settings}
    mapper = BoxMapper(is_train=True, **settings)
    mapper.use_dataset(records)
    return mapper


def seed_all(seed: int):
    """Seed both generators, as the loader does for each image."""
    np.random.seed(seed)
    torch.manual_seed(seed)


def rgb(output: dict) -> np.ndarray:
    """The image of a model input in BGR: (H, W, 3) RGB."""
    return output["image"].numpy().transpose(1, 2, 0)[:, :, ::-1]


def check_boxes(output: dict, slack: float):
    """Boxes lie in the image, have an area, are full of their colour, and hold all of it."""
    image = rgb(output)
    height, width = image.shape[:2]
    assert output["instances"].image_size == (height, width)
    boxes = output["instances"].gt_boxes.tensor.numpy()
    labels = output["instances"].gt_classes.numpy()
    assert len(boxes) == len(labels)
    assert (boxes >= 0).all() and (boxes <= (width, height, width, height)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    for label in range(len(COLORS)):
        colour = coloured(image, label)
        outside = colour.copy()
        for box in boxes[labels == label]:
            x1, y1 = np.ceil(box[:2] + slack).astype(int)
            x2, y2 = np.maximum(np.floor(box[2:] - slack), 0).astype(int)
            assert colour[y1:y2, x1:x2].all(), (box, label)
            x1, y1 = np.maximum(np.floor(box[:2] - slack), 0).astype(int)
            x2, y2 = np.ceil(box[2:] + slack).astype(int)
            outside[y1:y2, x1:x2] = False
        assert outside.sum() <= 40, label  # what is left of objects whose boxes were dropped


RESIZE = ResizeShortestEdge((40, 60, 90), max_size=200, sample_style="choice")
FLIP = T.RandomFlip(horizontal=True)
EXACT = 1e-4  # but for sines and cosines


@pytest.mark.parametrize(
    ("settings", "slack"),
    [
        ({}, 0),
        ({"augmentations": [FLIP]}, 0),
        ({"augmentations": [T.RandomFlip(horizontal=False, vertical=True), FLIP]}, 0),
        ({"augmentations": [RESIZE, FLIP]}, 1.5),
        ({"augmentations": [T.RandomCrop("relative_range", (0.4, 0.4)), RESIZE]}, 2),
        ({"augmentations": [T.ResizeScale(0.5, 1.6, 96, 96), T.FixedSizeCrop((96, 96))]}, 2),
        ({"augmentations": [T.RandomBrightness(0.9, 1.1), T.RandomContrast(0.9, 1.1)]}, 0),
        ({"transforms": [V.RandomHorizontalFlip(), V.RandomVerticalFlip()]}, 0),
        ({"transforms": [V.RandomRotation((90, 90), expand=True), BoxSafeCrop()]}, EXACT),
        ({"transforms": [V.RandomRotation((180, 180))]}, EXACT),
        ({"transforms": [V.ScaleJitter((96, 96), (0.6, 1.6))], "augmentations": [FLIP]}, 1.5),
        ({"transforms": [V.RandomCrop((32, 36))], "min_visibility": 0.0}, 0),
        ({"transforms": [V.RandomCrop((20, 60)), BoxSafeCrop()], "min_visibility": 0.0}, 0),
        ({"transforms": [V.RandomZoomOut(fill=40)]}, 0),
        ({"transforms": [ColorJitter(0.05, 0.05, 0.05, 0.01)]}, 0),
    ],
)
def test_boxes_stay_on_their_objects(records, settings, slack):
    augment = mapper(records, **{"min_visibility": 0.01, **settings})
    shapes, counts = set(), []
    for seed in range(40):
        seed_all(seed)
        output = augment(records[seed % len(records)])
        check_boxes(output, slack)
        shapes.add(tuple(output["image"].shape))
        counts.append(len(output["instances"]))
    assert max(counts) == 3


@pytest.mark.parametrize("scale", [(0.4, 1.0), (1.0, 2.5), (0.1, 0.3)])
def test_mosaic_keeps_boxes_on_their_objects(records, scale):
    augment = mapper(
        records, mixing=[Mosaic(p=1, scale=scale)], augmentations=[FLIP], min_visibility=0
    )
    counts = []
    for seed in range(60):
        seed_all(seed)
        record = records[seed % len(records)]
        output = augment(record)
        assert output["image"].shape == (3, record["height"], record["width"])
        check_boxes(output, slack=1.5)
        counts.append(len(output["instances"]))
    assert max(counts) > 4, "of several images"


def test_mixup_keeps_the_boxes_of_both(records):
    augment = mapper(records, mixing=[MixUp(p=1, scale=(1, 1), alpha=2000)])
    for seed in range(20):
        seed_all(seed)
        record = records[seed % len(records)]
        output, alone = augment(record), mapper()(record)
        boxes = output["instances"].gt_boxes.tensor
        assert torch.equal(boxes[:3], alone["instances"].gt_boxes.tensor)
        assert 4 <= len(boxes) <= 6
        # under each box of the other image lies its colour, with half of what was there
        image = rgb(output).astype(int)
        for (x1, y1, x2, y2), label in zip(
            boxes[3:].round().int().tolist(),
            output["instances"].gt_classes[3:].tolist(),
            strict=True,
        ):
            if min(x2 - x1, y2 - y1) > 6:
                inside = np.s_[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
                other = 2 * image[inside] - rgb(alone)[inside]
                assert coloured(other, label, tolerance=40).mean() > 0.9


@pytest.mark.parametrize("border", [0, 0.2])
def test_copy_paste_keeps_boxes_on_their_objects(records, border):
    augment = mapper(records, mixing=[CopyPaste(p=1, count=(2, 2), border=border)])
    alone, counts = mapper(), []
    for seed in range(30):
        seed_all(seed)
        record = records[seed % len(records)]
        output, before = augment(record), alone(record)
        boxes = output["instances"].gt_boxes.tensor
        assert torch.equal(boxes[:3], before["instances"].gt_boxes.tensor)
        assert output["image"].shape == before["image"].shape
        for (x1, y1, x2, y2), label in zip(
            boxes[3:].tolist(), output["instances"].gt_classes[3:].tolist(), strict=True
        ):
            inside = rgb(output)[round(y1) + 2 : round(y2) - 2, round(x1) + 2 : round(x2) - 2]
            assert coloured(inside, label).all()
        counts.append(len(boxes))
    assert set(counts) >= {4, 5}


def test_a_pasted_box_fades_into_the_image():
    source = Sample(
        np.full((60, 60, 3), 200, np.uint8), np.array([[20.0, 20, 40, 40]]), np.zeros(1)
    )
    paste = CopyPaste(p=1, count=(1, 1), scale=(1, 1), border=0.25)
    paste.use_dataset([{"annotations": [{"category_id": 0}]}])
    target = Sample(np.zeros((60, 60, 3), np.uint8), np.zeros((0, 4)), np.zeros(0))
    result = paste(target, lambda _: source, 1, 0.1)
    ((x1, y1, x2, y2),) = result.boxes.astype(int).tolist()
    middle = result.image[(y1 + y2) // 2, :, 0]
    assert (x2 - x1, y2 - y1) == (20, 20) and (result.image[y1:y2, x1:x2] == 200).all()
    assert middle[x1 - 5 : x1].tolist() == [20, 60, 100, 140, 180]
    assert middle[x1 - 6] == middle[x2 + 5] == 0


def test_other_objects_in_a_pasted_box_come_along():
    boxes = np.array([[10.0, 10, 50, 50], [40, 40, 60, 60], [48, 0, 60, 60], [20, 20, 30, 30]])
    source = Sample(np.zeros((60, 60, 3), np.uint8), boxes, np.arange(4))
    paste = CopyPaste(p=1, count=(1, 1), scale=(1, 1), border=0)
    paste.use_dataset([{"annotations": [{"category_id": 0}]}])
    target = Sample(np.zeros((60, 60, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, dtype=int))
    result = paste(target, lambda _: source, 1, 0.2)
    assert result.labels.tolist() == [0, 1, 3]  # of the third, a tenth would be visible
    corner = result.boxes[0, :2] - 10
    expected = [[10, 10, 50, 50], [40, 40, 50, 50], [20, 20, 30, 30]]
    np.testing.assert_allclose(result.boxes - np.tile(corner, 2), expected)


@pytest.mark.parametrize(("balance", "share"), [(0, 0.1), (1, 0.5), (2, 0.9)])
def test_copy_paste_draws_rare_classes(balance, share):
    paste = CopyPaste(p=1, count=(1, 1), balance=balance, max_covered=1)
    paste.use_dataset([{"annotations": [{"category_id": int(k == 0)}]} for k in range(10)])
    target = Sample(np.zeros((9, 9, 3), np.uint8), np.zeros((0, 4)), np.zeros(0))

    def draw(index):
        return target._replace(boxes=np.array([[1.0, 1, 5, 5]]), labels=np.array([int(index == 0)]))

    np.random.seed(0)
    drawn = [paste(target, draw, 0, 0).labels[0] for _ in range(300)]
    assert np.mean(drawn) == pytest.approx(share, abs=0.08)


def test_same_output_as_detectron2(records):
    sizes = ((40, 50, 64, 80, 96, 130), 150, "choice")
    theirs = DatasetMapper(
        is_train=True,
        augmentations=[T.ResizeShortestEdge(*sizes), T.RandomFlip(horizontal=True)],
        image_format="BGR",
    )
    ours = mapper(augmentations=[ResizeShortestEdge(*sizes), FLIP])
    different = total = 0
    for seed in range(40):
        record = records[seed % len(records)]
        first, *others = record["annotations"]
        annotations = [
            first,
            *others,
            {**first, "iscrowd": 1},
            {**first, "bbox": [5, 5, 0, 9]},
            {**first, "bbox": [500, 5, 9, 9]},
            {**first, "bbox": [20, 5, 30, 19], "bbox_mode": BoxMode.XYXY_ABS},
        ]
        # fractions, as detectron2 rounds down boxes of whole numbers
        record = {
            **record,
            "annotations": [
                {**a, "bbox": [v + 0.25 * (v > 0) for v in a["bbox"]]} for a in annotations
            ],
        }
        seed_all(seed)
        expected = theirs(record)
        seed_all(seed)
        output = ours(record)
        assert output.keys() == expected.keys()
        assert output["image"].is_contiguous() and output["image"].dtype == torch.uint8
        difference = (output["image"].int() - expected["image"].int()).abs()
        assert difference.max() <= 2
        different, total = different + (difference > 0).sum().item(), total + difference.numel()
        for name in ("gt_boxes", "gt_classes"):
            a, b = (getattr(o["instances"], name) for o in (output, expected))
            a, b = (getattr(v, "tensor", v) for v in (a, b))
            assert torch.equal(a, b) and a.dtype == b.dtype
        assert len(output["instances"]) == 4
    assert different / total < 0.01


def test_record_stays_as_it_is(records):
    before = repr(records[0])
    mapper(records, mixing=[Mosaic(p=1)], augmentations=[RESIZE, FLIP])(records[0])
    assert repr(records[0]) == before


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_every_augmentation_sees_rgb_and_the_model_its_format(records, image_format):
    seen = []

    class Look(T.Augmentation):
        def get_transform(self, image):
            seen.append(image[0, 0].tolist())
            return T.NoOpTransform()

    class Red(V.Transform):
        def transform(self, inpt, params):
            if not isinstance(inpt, Image):
                return inpt
            seen.append(inpt[:, 0, 0].tolist())
            red = torch.tensor([200, 20, 0], dtype=torch.uint8).reshape(3, 1, 1)
            return Image(red.expand(inpt.shape))

    augment = mapper(transforms=[Red()], augmentations=[Look()], image_format=image_format)
    pixel = augment(records[0])["image"][:, 0, 0].tolist()
    assert seen == [[40, 40, 40], [200, 20, 0]]
    assert pixel == ([0, 20, 200] if image_format == "BGR" else [200, 20, 0])
    with pytest.raises(UserError, match="must be BGR or RGB"):
        mapper(image_format="L")


def test_predictions_need_no_boxes(records):
    test = BoxMapper(is_train=False, augmentations=[RESIZE], image_format="BGR")
    assert "instances" not in test(records[0]) and "annotations" not in test(records[0])


class LeftEdge(V.Transform):
    """Crop all but the 20 columns on the left."""

    def transform(self, inpt, params):
        return self._call_kernel(V.functional.crop, inpt, top=0, left=0, height=64, width=20)


@pytest.mark.parametrize(
    "crop",
    [
        {"augmentations": [T.CropTransform(0, 0, 20, 64, 96, 64)]},
        {"transforms": [LeftEdge()]},
        {"transforms": [V.RandomHorizontalFlip(1.0), V.RandomHorizontalFlip(1.0), LeftEdge()]},
    ],
)
def test_boxes_too_small_or_hidden_are_dropped(records, crop):
    x1, _, width, height = records[0]["annotations"][0]["bbox"]
    visible = (20 - x1) / width
    assert 0 < visible < 1
    assert len(mapper(**crop)(records[0])["instances"]) == 1
    for limits in ({"min_visibility": visible + 0.01}, {"min_area": (20 - x1) * height + 1}):
        assert len(mapper(**crop, **limits)(records[0])["instances"]) == 0
    for limits in ({"min_visibility": visible - 0.01}, {"min_area": (20 - x1) * height - 1}):
        assert len(mapper(**crop, **limits)(records[0])["instances"]) == 1


def test_images_without_boxes(records):
    empty = {**records[0], "annotations": []}
    cut = [T.CropTransform(0, 0, 3, 3)]  # where no object is
    for keep in (True, False):
        # what had no boxes is an example of nothing, whatever becomes of the emptied ones
        for mixing in ([], [Mosaic(p=1), MixUp(p=1)]):
            output = mapper([empty], mixing=mixing, keep_emptied=keep)(empty)
            assert output["instances"].gt_boxes.tensor.shape == (0, 4)
            assert output["instances"].gt_classes.dtype == torch.int64
        transforms = [V.RandomHorizontalFlip(p=1), BoxSafeCrop(), V.RandomIoUCrop()]
        output = mapper(transforms=transforms, keep_emptied=keep)(empty)
        assert len(output["instances"]) == 0
    assert len(mapper(augmentations=cut)(records[0])["instances"]) == 0
    assert mapper(augmentations=cut, keep_emptied=False)(records[0]) is None


def test_size_other_than_in_the_json(records):
    with pytest.raises(UserError, match=r"0.png: has 96×64 pixels, but the json says 64×96"):
        mapper()({**records[0], "width": 64, "height": 96})


@pytest.mark.parametrize("mix", [Mosaic(p=1), CopyPaste(p=1)])
def test_mixing_without_a_data_set(records, mix):
    alone = BoxMapper(is_train=True, augmentations=[], image_format="BGR", mixing=[mix])
    with pytest.raises(UserError, match="build_train_loader"):
        alone(records[0])


def test_all_lists_of_the_config_keep_boxes_in_the_image(records):
    from configs.common import augmentations

    lists = (augmentations.strong, augmentations.turns, augmentations.photometric)
    for transforms in lists:
        augment = mapper(
            records,
            mixing=instantiate([*augmentations.mixing, *augmentations.copy_paste]),
            transforms=instantiate(transforms),
            augmentations=[RESIZE, FLIP],
        )
        for seed in range(15):
            seed_all(seed)
            output = augment(records[seed % len(records)])
            height, width = output["image"].shape[1:]
            boxes = output["instances"].gt_boxes.tensor
            assert len(boxes) and (boxes >= 0).all()
            assert (boxes <= torch.tensor([width, height, width, height])).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_jitter_is_that_of_torchvision(name):
    image = torch.from_numpy(np.random.default_rng(0).integers(60, 180, (3, 20, 30), np.uint8))
    for seed in range(10):
        outputs = []
        for jitter in (ColorJitter, V.ColorJitter):
            torch.manual_seed(seed)
            outputs.append(jitter(**{name: 0.3})(Image(image)).int())
        assert (outputs[0] - outputs[1]).abs().max() <= 1
        assert (outputs[0] - image).abs().max() > 1 or seed


def test_hue_turns_red_to_green():
    red = Image(torch.tensor([200, 0, 0], dtype=torch.uint8).reshape(3, 1, 1))
    assert ColorJitter(hue=(1 / 3, 1 / 3))(red).flatten().tolist() == [0, 200, 0]


@pytest.mark.parametrize("transform", [V.ToDtype(torch.float32), V.Grayscale()])
def test_other_images_than_the_model_expects(records, transform):
    with pytest.raises(UserError, match=r"dataloader\.train\.mapper\.transforms"):
        mapper(transforms=[transform])(records[0])


def test_albumentations_is_not_needed(records, monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)  # which raises where it is imported
    from configs.common import augmentations

    augment = mapper(
        records,
        mixing=instantiate(augmentations.mixing),
        transforms=instantiate(augmentations.strong),
    )
    assert len(augment(records[0])["instances"])
    with pytest.raises(UserError, match="uv add albumentations"):
        mapper(albumentations=[object()])
    leaf = str(PROJECT_ROOT / "configs/faster_rcnn_R_50_FPN_augmented.py")
    load_config(leaf)
    flip = "dataloader.train.mapper.albumentations=[{_target_: albumentations.VerticalFlip}]"
    with pytest.raises(UserError, match="uv add albumentations"):
        load_config(leaf, [flip])
