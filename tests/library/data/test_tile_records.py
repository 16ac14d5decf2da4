"""Tiles to train on: each pixel is in one, boxes are clipped as by crops, resuming is exact."""

import itertools

import detectron2.data.transforms as T
import numpy as np
import pytest
import torchvision.transforms.v2 as V
from configs.common.augmentations import mixing
from configs.common.tiles import tiles as defaults
from conftest import PROJECT_ROOT
from detection.config import load_config
from detection.data.loader import build_train_loader
from detection.data.mapper import BoxMapper
from detection.data.samples import Sample, as_bitmaps
from detection.data.tiles import Tiles, tile_records
from detection.data.transforms import Pipeline
from detection.utils.errors import UserError
from detectron2.config import instantiate
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util

SETTINGS = {**defaults, "enabled": True, "size": 64}


@pytest.mark.parametrize("overlap", [0, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("size", [(64, 64), (65, 64), (200, 131), (100, 30), (20, 20)])
def test_windows_cover_every_pixel(size, overlap):
    windows = Tiles(**{**SETTINGS, "overlap": overlap}).windows(*size)
    for axis, length in enumerate(size):
        side = min(64, length)
        assert {window[2 + axis] for window in windows} == {side}
        starts = sorted({window[axis] for window in windows})
        assert starts[0] == 0 and starts[-1] + side == length
        shared = [a + side - b for a, b in itertools.pairwise(starts)]
        assert all(int(overlap * 64) <= pixels < 64 for pixels in shared)
        assert (len(starts) == 1) == (length <= 64)
    assert len(windows) == len(set(windows))
    assert len(windows) == np.prod([len({w[axis] for w in windows}) for axis in (0, 1)])


def record(folder, boxes, size=(200, 131), crowds=(), masks=None) -> dict:
    """A data set dict with an image of noise and boxes (x, y, w, h)."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    path = folder / "image.png"
    Image.fromarray(pixels).save(path)
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": k % 3, "iscrowd": crowd}
        for crowd, group in ((0, boxes), (1, crowds))
        for k, box in enumerate(group)
    ]
    for annotation, mask in zip(annotations, masks or (), strict=False):
        annotation["segmentation"] = mask
    width, height = size
    return {
        "file_name": str(path),
        "image_id": 7,
        "width": width,
        "height": height,
        "annotations": annotations,
    }


def mapper(**settings) -> BoxMapper:
    settings = {"augmentations": [T.NoOpTransform()], "min_visibility": 0, **settings}
    return BoxMapper(is_train=True, image_format="RGB", **settings)


def test_tiles_show_what_crops_show(tmp_path):
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, (150, 100), (6, 2))
    boxes = np.hstack([corners, rng.uniform(3, (20, 20), (6, 2))])
    whole = record(tmp_path, boxes.tolist())
    tiles = Tiles(**{**SETTINGS, "full_image": False, "min_visibility": 0.4})
    filled = tile_records([whole], tiles)[0]
    windows = tiles.windows(200, 131)
    assert len(windows) > len(filled) > 4
    pixels = np.asarray(Image.open(whole["file_name"]))
    sample = Sample(pixels, np.hstack([corners, corners + boxes[:, 2:]]), np.arange(6) % 3)
    seen = set()
    for left, top, width, height in windows:
        # torchvision's crop, through the code of `dataloader.train.mapper.transforms`
        crop = Crop(left, top, width, height)
        expected = Pipeline([crop], min_area=0, min_visibility=0.4)(sample)
        of_window = [r for r in filled if r["tile"] == (left, top)]
        assert len(of_window) == (len(expected.boxes) > 0)
        for tile in of_window:
            output = mapper()(tile)
            assert (output["image"].numpy().transpose(1, 2, 0) == expected.image).all()
            found = output["instances"]
            assert found.gt_boxes.tensor.numpy() == pytest.approx(expected.boxes, abs=1e-4)
            assert found.gt_classes.tolist() == expected.labels.tolist()
            seen |= {tuple(a["bbox"]) for a in tile["annotations"]}
    assert len(seen) == 6


class Crop(V.Transform):
    def __init__(self, left, top, width, height):
        super().__init__()
        self.window = top, left, height, width

    def transform(self, inpt, params):
        return self._call_kernel(V.functional.crop, inpt, *self.window)


def test_masks_move_with_their_tile(tmp_path):
    polygon = [50, 20, 90, 20, 90, 60, 50, 60]
    bitmap = np.zeros((131, 200), np.uint8)
    bitmap[70:110, 60:120] = 1
    encoded = mask_util.encode(np.asfortranarray(bitmap))
    for masks in ([[polygon], [[5, 5, 20, 5, 20, 15]]], [[polygon], encoded]):
        boxes = [
            [50, 20, 40, 40],
            [5, 5, 15, 10] if isinstance(masks[1], list) else [60, 70, 60, 40],
        ]
        whole = record(tmp_path, boxes, masks=masks)
        whole_masks = mapper(masks=True)(whole)["instances"].gt_masks
        drawn = as_bitmaps(
            [
                [np.reshape(polygon, (-1, 2))],
                bitmap if masks[1] is encoded else [np.reshape(masks[1][0], (-1, 2))],
            ],
            131,
            200,
        )
        assert len(whole_masks) == 2
        for tile in tile_records([whole], Tiles(**SETTINGS))[0][1:]:
            found = mapper(masks=True)(tile)["instances"]
            (left, top), objects = tile["tile"], tile["annotations"]
            for k, annotation in enumerate(objects):
                expected = drawn[boxes.index(annotation["bbox"]), top : top + 64, left : left + 64]
                mask = found.gt_masks[k]
                got = (
                    mask.tensor[0].numpy()
                    if hasattr(mask, "tensor")
                    else as_bitmaps([[p.reshape(-1, 2) for p in mask.polygons[0]]], 64, 64)[0]
                )
                assert (got == expected).mean() > 0.99, "all but rounding at its edge"


def test_tiles_without_objects_are_empty(tmp_path):
    """Not even a part of an object or a crowd region is in them."""
    boxes, crowds = [[20, 20, 30, 30], [60, 90, 20, 20]], [[150, 0, 40, 20]]
    whole = record(tmp_path, boxes, crowds=crowds)
    filled, empty = tile_records([whole], Tiles(**SETTINGS))
    assert filled[0] == whole and "tile" in filled[1] and empty
    for tile in empty:
        (left, top), width, height = tile["tile"], tile["width"], tile["height"]
        for x, y, w, h in boxes + crowds:
            assert x + w <= left or y + h <= top or left + width <= x or top + height <= y
        assert len(mapper()(tile)["instances"]) == 0
    assert not any(a["iscrowd"] for tile in filled[1:] for a in tile["annotations"])
    assert not tile_records([whole], Tiles(**{**SETTINGS, "empty_rate": 0}))[1]
    small = record(tmp_path, boxes[:1], size=(60, 64))
    assert tile_records([small], Tiles(**SETTINGS)) == ([small], [])
    large = record(tmp_path, [[0, 0, 200, 131]])
    assert tile_records([large], Tiles(**{**SETTINGS, "size": 32})) == ([large], [])
    with pytest.raises(UserError, match=r"tiles\.size=32: .*tiles\.min_visibility.*full_image"):
        tile_records([large], Tiles(**{**SETTINGS, "size": 32, "full_image": False}))


@pytest.fixture
def images(tmp_path) -> list[dict]:
    records = []
    for number, box in enumerate([[20, 20, 30, 30], [60, 90, 20, 20], [150, 5, 9, 9]]):
        (tmp_path / str(number)).mkdir()
        records.append({**record(tmp_path / str(number), [box]), "image_id": number})
        records[-1]["annotations"][0]["category_id"] = number
    return records


def drawn(images, batches, start_iter=0, num_workers=0, **settings) -> list[list[tuple]]:
    """What tells the model inputs of the first batches from each other."""
    made = mapper(mixing=instantiate(mixing))
    loader = build_train_loader(
        images,
        made,
        total_batch_size=2,
        seed=3,
        start_iter=start_iter,
        num_workers=num_workers,
        tiles={**SETTINGS, "empty_rate": 0.5, **settings},
    )
    return [
        [
            (s["image_id"], s.get("tile"), s["image"].numpy().tobytes(), len(s["instances"]))
            for s in batch
        ]
        for batch in itertools.islice(loader, batches)
    ]


def test_a_resumed_loader_continues_with_the_same_tiles(images):
    whole = drawn(images, 40)
    assert drawn(images, 4, start_iter=36) == whole[36:]
    assert drawn(images, 4, start_iter=36, num_workers=1) == whole[36:]


def test_each_epoch_draws_other_empty_tiles(images):
    filled, empty = tile_records(images, Tiles(**SETTINGS))
    settings = {"mapper": mapper(), "total_batch_size": 1, "seed": 0, "repeat_threshold": 0.9}
    tiles = {**SETTINGS, "empty_rate": 0.25}
    loader = build_train_loader(images, aspect_ratio_grouping=False, tiles=tiles, **settings)
    sampler = loader.batch_sampler
    repeated = sampler.epoch_size - len(empty) / 4
    assert repeated > len(filled), "rare classes of tiles with objects are repeated"
    order = [index for ((_, index),) in itertools.islice(sampler, int(8 * sampler.epoch_size))]
    epochs = np.array_split(order, 8)
    drawn_empty = [{k for k in epoch if k >= len(filled)} for epoch in epochs]
    assert len(set().union(*drawn_empty)) > max(map(len, drawn_empty)) > 0
    assert sum(map(len, drawn_empty)) == pytest.approx(8 * len(empty) / 4, rel=0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("overlap", 1), ("overlap", -0.1), ("size", 8), ("size", 640.5), ("empty_rate", 2)],
        *[("min_visibility", 1.5), ("iou_threshold", 1), ("max_per_image", 0), ("batch_size", 0)],
    ],
)
def test_a_setting_out_of_range_is_one_line(name, value):
    with pytest.raises(UserError) as error:
        Tiles.of({**SETTINGS, name: value})
    assert str(error.value).startswith(f"tiles.{name}={value}: ") and "\n" not in str(error.value)
    assert Tiles.of({**SETTINGS, name: value, "enabled": False}) is None


@pytest.mark.parametrize("config", ["faster_rcnn_R_50_FPN", "d_fine_M", "debug/overfit"])
def test_one_override_cuts_the_training_images(config, on_toy):
    overrides = [*on_toy, "tiles.enabled=True", "tiles.size=48", "tiles.full_image=False"]
    resize = "dataloader.train.mapper.augmentations.0.short_edge_length"
    overrides.append(f"{resize}=48" if config == "d_fine_M" else f"{resize}=[48]")
    cfg = load_config(str(PROJECT_ROOT / f"configs/{config}.py"), overrides)
    loader = instantiate(cfg.dataloader.train)
    batch = next(iter(loader))
    assert all(sample["image"].shape == (3, 48, 48) and "tile" in sample for sample in batch)
    assert loader.batch_sampler.epoch_size > 8
