"""Batches follow from the seed and their number alone; rare classes and negatives as asked for."""

import itertools
import json
import subprocess
import sys
from collections import Counter

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from configs.common import augmentations
from conftest import PROJECT_ROOT
from detection.config import load_config
from detection.data.copy_paste import CopyPaste
from detection.data.loader import ResumableBatchSampler, build_train_loader
from detection.data.mapper import BoxMapper
from detection.data.mixing import MixUp, Mosaic
from detection.data.resizing import ResizeShortestEdge
from detection.engine.setup import set_max_iter
from detection.utils.errors import UserError
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from planted import plant
from torchvision.transforms.v2 import RandomZoomOut


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("planted")
    sizes = [(96, 64), (64, 96), (90, 70)]
    return [plant(folder, number, sizes[number % 3]) for number in range(10)]


def strong_mapper() -> BoxMapper:
    return BoxMapper(
        is_train=True,
        mixing=[Mosaic(p=0.5), MixUp(p=0.5), CopyPaste(p=0.5)],
        transforms=instantiate([*augmentations.turns, *augmentations.strong]),
        augmentations=[
            T.RandomCrop("relative_range", (0.5, 0.5)),
            ResizeShortestEdge((32, 64), sample_style="range"),
            T.RandomFlip(),
        ],
        image_format="BGR",
        keep_emptied=False,
    )


def batches(records, count, mapper=None, max_iter=None, **settings) -> list:
    """Everything in the first batches that a model could tell apart."""
    settings = {"total_batch_size": 3, "seed": 7, **settings}
    loader = build_train_loader(records, mapper or strong_mapper(), **settings)
    if max_iter:
        loader.dataset.set_max_iter(max_iter)
    return [
        [
            (
                sample["file_name"],
                sample["image"].shape,
                sample["image"].numpy().tobytes(),
                sample["instances"].gt_boxes.tensor.tolist(),
                sample["instances"].gt_classes.tolist(),
                sample.get("is_late", False),
            )
            for sample in batch
        ]
        for batch in itertools.islice(loader, count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("repeat_threshold", [None, 0.9])
def test_batches_do_not_depend_on_workers_or_on_where_a_run_began(records, repeat_threshold):
    settings = {"repeat_threshold": repeat_threshold}
    whole = batches(records, 12, **settings)
    assert len({sample[2] for batch in whole for sample in batch}) == 36, "no two alike"
    assert batches(records, 12, num_workers=2, **settings) == whole
    assert batches(records, 5, start_iter=7, **settings) == whole[7:]
    assert batches(records, 5, start_iter=7, num_workers=2, **settings) == whole[7:]
    assert batches(records, 1, seed=8, **settings) != whole[:1]


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "augmentation",
    [{"mixing": [Mosaic(p=1)]}, {"transforms": [RandomZoomOut(p=1)]}],
    ids=["mixing", "transforms"],
)
def test_augmentation_ends_before_the_training(records, num_workers, augmentation):
    def mapper(**given) -> BoxMapper:
        settings = {"augmentations": [T.RandomFlip()], "image_format": "BGR"}
        return BoxMapper(True, augment_until=0.5, **settings, **given)

    settings = {"max_iter": 8, "num_workers": num_workers, "aspect_ratio_grouping": False}
    augmented = batches(records, 8, mapper(**augmentation), **settings)
    plain = batches(records, 8, mapper(), **settings)
    same = [
        [a[:-1] == b[:-1] for a, b in zip(*two, strict=True)]
        for two in zip(augmented, plain, strict=True)
    ]
    assert same == 4 * [3 * [False]] + 4 * [3 * [True]]
    assert [{sample[-1] for sample in batch} for batch in augmented] == 4 * [{False}] + 4 * [{True}]
    resumed = batches(records, 5, mapper(**augmentation), start_iter=3, **settings)
    assert resumed == augmented[3:]


def test_the_end_of_augmentation_counts_the_iterations_of_the_config(on_toy):
    leaf = str(PROJECT_ROOT / "configs/faster_rcnn_R_50_FPN_augmented.py")
    last, mixer = ["dataloader.train.start_iter=9", "train.max_iter=10"], "dataloader.train.mapper"
    images = []
    for mixing in ([f"{mixer}.mixing.0.p=1"], [f"{mixer}.mixing=[]"]):
        cfg = load_config(leaf, [*on_toy, *last, *mixing])
        loader = instantiate(cfg.dataloader.train)
        set_max_iter(cfg, loader)
        images.append([sample["image"].numpy().tobytes() for sample in next(iter(loader))])
    assert images[0] == images[1]
    assert images[0] != [
        sample["image"].numpy().tobytes()
        for sample in next(iter(instantiate(load_config(leaf, [*on_toy, *last]).dataloader.train)))
    ]


def test_workers_report_a_bad_image_in_one_line(records, tmp_path):
    broken = {**records[0], "file_name": str(tmp_path / "nothing.png")}
    for num_workers in (0, 1):
        with pytest.raises(UserError) as error:
            batches([broken], 1, total_batch_size=1, num_workers=num_workers)
        assert str(error.value).startswith(broken["file_name"])
        assert "\n" not in str(error.value)


def taken(epochs: int, repeats, size: int, **settings) -> Counter:
    """How often each image comes while every one of them is passed `epochs` times on average."""
    sampler = ResumableBatchSampler(size, 1, seed=3, repeats=repeats, **settings)
    total = round(epochs * sum(repeats))
    return Counter(index for ((_, index),) in itertools.islice(sampler, total))


def test_images_are_repeated_as_often_as_asked():
    repeats = [1.0, 1.25, 2.0, 3.5]
    counts = taken(400, repeats, 4)
    assert [counts[k] / 400 for k in range(4)] == pytest.approx(repeats, rel=0.05)
    # in every epoch, not only on average: once or twice, never none
    sampler = ResumableBatchSampler(2, 1, seed=0, repeats=[1.0, 1.5])
    epochs = [index for ((_, index),) in itertools.islice(sampler, 300)]
    gaps = np.diff([k for k, index in enumerate(epochs) if index == 0])
    assert set(gaps.tolist()) <= {1, 2, 3, 4, 5}


def test_rare_classes_come_more_often(records):
    rare, common = (
        {**records[k], "annotations": [{**records[k]["annotations"][0], "category_id": label}]}
        for k, label in ((0, 4), (1, 1))
    )
    dataset = [{**rare, "image_id": 0}, *({**common, "image_id": k} for k in range(1, 100))]
    # 1% of the images against 16%: √16 = 4 times as often
    for threshold, expected in ((None, 1), (0.16, 4), (0.005, 1)):
        loader = build_train_loader(
            dataset, lambda r: r, total_batch_size=1, seed=1, repeat_threshold=threshold
        )
        epochs = itertools.islice(loader, 5 * (99 + expected))
        seen = Counter(batch[0]["image_id"] == 0 for batch in epochs)
        assert seen == {True: 5 * expected, False: 5 * 99}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster_rcnn_R_50_FPN", "retinanet_R_50_FPN"])
def test_negatives_train(name, on_toy, toy, tmp_path):
    """A batch with an image without boxes, and one of nothing else, have finite losses."""
    coco = json.loads((toy / "train.json").read_text(encoding="utf-8"))
    bare = {image["id"] for image in coco["images"][2:]}
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] not in bare]
    (tmp_path / "train.json").write_text(json.dumps(coco), encoding="utf-8")
    overrides = [
        *on_toy,
        f"dataset.train.json_file={tmp_path}/train.json",
        "dataloader.train.repeat_threshold=0.5",
    ]
    config_file = str(PROJECT_ROOT / "configs" / f"{name}.py")
    cfg = load_config(config_file, overrides)
    assert len(instantiate(cfg.dataloader.train.dataset)) == 2
    cfg = load_config(config_file, [*overrides, "dataloader.train.dataset.filter_empty=False"])
    dataset = instantiate(cfg.dataloader.train.dataset)
    assert len(dataset) == 8
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    kinds = set()
    for batch in itertools.islice(instantiate(cfg.dataloader.train), 20):
        counts = tuple(sorted(min(1, len(sample["instances"])) for sample in batch))
        if counts not in kinds:
            kinds.add(counts)
            with EventStorage():
                losses = model(batch)
            loss = sum(losses.values())
            assert torch.isfinite(loss)
            loss.backward()
    assert {(0, 0), (0, 1)} <= kinds


AFTER_OPENCV_HAS_USED_THREADS = """
import cv2, numpy, sys
cv2.setNumThreads(4)
cv2.GaussianBlur(numpy.zeros((2000, 2000, 3), numpy.uint8), (9, 9), 3)
from detectron2.config import instantiate
from detection.config import load_config
cfg = load_config("configs/debug/smoke.py", sys.argv[1:])
print(len(next(iter(instantiate(cfg.dataloader.train)))))
"""


@pytest.mark.slow
def test_workers_start_after_opencv_has_used_threads(on_toy):
    command = [sys.executable, "-c", AFTER_OPENCV_HAS_USED_THREADS, *on_toy]
    process = subprocess.run(
        [*command, "dataloader.train.num_workers=2"],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert process.stdout.splitlines()[-1] == "2"
