"""The size of a model: its parameters, and arithmetic that counts every proposal."""

import pytest
from conftest import PROJECT_ROOT
from detection.classes import CLASSES
from detection.config import load_config
from detection.workshop.analysis.model_size import count, memory, speed
from detectron2.config import instantiate

CONFIG = str(PROJECT_ROOT / "configs/debug/smoke.py")


def test_every_proposal_counts_and_the_backbone_by_its_area():
    def of(proposals: int, side: int) -> tuple[float, float]:
        topk = f"model.proposal_generator.post_nms_topk=[{proposals},{proposals}]"
        return count(instantiate(load_config(CONFIG, [topk]).model), side, side)

    parameters, gflops = of(100, 128)
    model = instantiate(load_config(CONFIG).model)
    assert parameters == pytest.approx(sum(p.numel() for p in model.parameters()) / 1e6)

    # a 7×7×64 window to 128 numbers, and those to scores and corners
    a_proposal = (7 * 7 * 64 * 128 + 128 * (len(CLASSES) + 1) + 128 * 4 * len(CLASSES)) / 1e9
    assert gflops - of(60, 128)[1] == pytest.approx(40 * a_proposal)
    heads = 100 * a_proposal
    assert of(100, 256)[1] - heads == pytest.approx(4 * (gflops - heads))


def test_memory_and_speed():
    model = instantiate(load_config(CONFIG).model)
    small, large = (memory(model, side, side) for side in (128, 256))
    assert 2 < large / small < 4.5, "by the area, and the proposals beside"
    # the first layer alone keeps 64 channels at half the size, its ReLU too
    assert small > 2 * 4 * 64 * 64**2 / 1e9
    assert speed(model, 128, 128) > 0
