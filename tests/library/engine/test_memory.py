"""train.accumulate=auto tries the largest batch first, on real images through the real loader."""

import re
import subprocess
import sys
import textwrap

import pytest
import torch
from conftest import PROJECT_ROOT
from detection.config import load_config
from detection.data.largest import largest_batch
from detection.data.loader import build_train_loader
from detection.data.mapper import BoxMapper
from detection.data.resizing import ResizeShortestEdge, ResizeSquare
from detection.engine.trainer import Trainer
from detectron2.utils.events import get_event_storage
from omegaconf import OmegaConf
from planted import plant

SHORT, LONG = (32, 96), 128


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[dict]:
    """Squares, one wide and one tall image; the one with the most objects is a square."""
    folder = tmp_path_factory.mktemp("planted")
    sizes = [*[(64, 64)] * 5, (120, 60), (40, 80)]
    return [plant(folder, k, size, count=3 if k == 2 else 1) for k, size in enumerate(sizes)]


def make_loader(records, resizing=None, **settings):
    resizing = resizing or ResizeShortestEdge(SHORT, LONG, "choice")
    mapper = BoxMapper(is_train=True, augmentations=[resizing], image_format="BGR")
    return build_train_loader(records, mapper, total_batch_size=4, seed=1, **settings)


class Limited(torch.nn.Module):
    """As many pixels as `most` fit; BatchNorm, random numbers and scalars, as detectors have."""

    def __init__(self, most: float):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.multi_scale = [1, 2]
        self.loss_normalizer = 100.0
        self.most, self.seen = most, []

    def forward(self, batch):
        height, width = torch.tensor([x["image"].shape[1:] for x in batch]).amax(0).tolist()
        scale = self.multi_scale[torch.randint(len(self.multi_scale), ()).item()]
        self.seen.append((len(batch), height, width, scale))
        get_event_storage().put_scalar("images", len(batch))
        if len(batch) * height * width > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        pixels = torch.zeros(len(batch), 3, height, width)
        for canvas, image in zip(pixels, batch, strict=True):
            canvas[:, : image["image"].shape[1], : image["image"].shape[2]] = image["image"] / 255
        found = self.norm(self.conv(pixels)) * torch.rand(())
        self.loss_normalizer *= 0.9
        return {"loss": found.square().mean() / self.loss_normalizer}


def trained(records, accumulate, most: float) -> tuple[Trainer, Limited]:
    loader = make_loader(records)
    torch.manual_seed(0)
    model = Limited(most)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    is_auto = accumulate == "auto"
    batch = largest_batch(loader) if is_auto else None
    torch.manual_seed(1)
    trainer = Trainer(model, loader, optimizer, accumulate=accumulate, rehearsed=batch)
    trainer.train(0, 2)
    return trainer, model


def test_largest_batch_has_the_padded_size_and_the_most_boxes(records):
    batch = largest_batch(make_loader(records, aspect_ratio_grouping=False))
    # squares of 96, 128 × 64 and 64 × 128: padded together
    assert [tuple(image["image"].shape) for image in batch] == 4 * [(3, 128, 128)]
    assert {len(image["instances"]) for image in batch} == {3}
    batch = largest_batch(make_loader(records))  # wide ones apart
    assert tuple(batch[0]["image"].shape) == (3, 128, 96)
    letterbox = ResizeSquare([32, 80], letterbox=True)
    batch = largest_batch(make_loader(records, letterbox))
    assert tuple(batch[0]["image"].shape) == (3, 80, 80)
    assert letterbox.short_edge_length == [32, 80]
    tiles = OmegaConf.to_container(load_config("configs/debug/smoke.py").tiles)
    tiles.update(enabled=True, size=48, full_image=False)
    batch = largest_batch(make_loader(records, tiles=tiles))
    assert tuple(batch[0]["image"].shape)[1:] == (115, 96)  # of 40 × 48 pixels
    assert largest_batch([["any"]]) is None


def test_it_is_tried_before_training_and_leaves_no_trace(records, caplog):
    caplog.set_level("INFO")
    trainer, model = trained(records, "auto", most=2 * 128 * 96)
    largest = [seen for seen in model.seen if seen[1:3] == (128, 96)]
    assert model.seen[:3] == [(4, 128, 96, 2), (2, 128, 96, 2), (2, 128, 96, 2)] == largest[:3]
    assert trainer.accumulate == 2
    assert "auto: 2, by the largest batch, 4 images of 96×128 pixels" in caplog.text
    _, alike = trained(records, 2, most=1e9)
    assert model.seen[3:] == alike.seen
    for name, value in alike.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert model.loss_normalizer == alike.loss_normalizer and model.multi_scale == [1, 2]


def test_a_resumed_run_keeps_the_number(records):
    trainer, _ = trained(records, "auto", most=2 * 128 * 96)
    loader = make_loader(records, start_iter=2)
    model = Limited(most=2 * 128 * 96)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    batch = largest_batch(loader)
    resumed = Trainer(model, loader, optimizer, accumulate="auto", rehearsed=batch)
    resumed.load_state_dict(trainer.state_dict())
    resumed.train(2, 3)
    assert [seen[0] for seen in model.seen] == [2, 2]


def test_training_begins_where_there_is_no_room_to_spare(records, caplog):
    """The largest image alone does not fit, but such a batch may never come."""
    trainer, _ = trained(records, "auto", most=96 * 96)
    assert trainer.accumulate == 4 and trainer.iter == 2
    assert "may not fit" in caplog.text


def test_memory_that_really_runs_out(records, tmp_path):
    """A limit of the address space; what an optimizer would keep is left free."""
    code = f"""
        import logging, resource, sys
        import torch
        sys.path[:0] = {[str(PROJECT_ROOT), *sys.path]!r}
        from detection.engine.trainer import Trainer
        logging.basicConfig(level="INFO", format="%(message)s")

        class Detector(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.ones(1))
            def forward(self, batch):
                pixels = torch.stack([x["image"] for x in batch]).float()
                return {{"loss": (pixels * self.weight).mean()}}

        def images(side):
            return [{{"image": torch.zeros(3, side, side, dtype=torch.uint8)}}] * 4

        model = Detector()
        trainer = Trainer(model, [images(64)] * 2, torch.optim.SGD(model.parameters(), 0.1),
                          accumulate="auto", rehearsed=images(2048))  # 50 MB a float image
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        limit = used + 260 * 2**20  # four images and their product take 400 MB
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        trainer.train(0, 2)
        print("parts", trainer.accumulate)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"parts (2|4)$", run.stdout.strip()), run.stdout + run.stderr
