"""detection/solver/schedule.py: the shapes, whatever the length of the run."""

import math

import pytest
import torch
from detection.solver.schedule import cosine, multistep
from detectron2.solver import LRMultiplier


def learning_rates(multiplier, max_iter: int) -> list[float]:
    """The learning rate of every iteration, for a base of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = LRMultiplier(optimizer, multiplier, max_iter)
    rates = []
    for _ in range(max_iter):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_multistep():
    rates = learning_rates(multistep([2 / 3, 8 / 9], gamma=0.1, warmup=1 / 9), 900)
    assert rates[0] == pytest.approx(0.001)
    assert rates[50] == pytest.approx(0.5, abs=0.01)
    assert rates[100:600] == [1.0] * 500
    assert rates[600:800] == pytest.approx([0.1] * 200)
    assert rates[800:] == pytest.approx([0.01] * 100)


def test_cosine():
    rates = learning_rates(cosine(end=0.1, warmup=0.1), 1000)
    assert rates[0] == pytest.approx(0.001)
    assert rates[:100] == sorted(rates[:100])
    for k in (100, 500, 999):
        assert rates[k] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * k / 1000)) / 2)
    assert max(rates) == rates[100]
    assert learning_rates(cosine(), 1000)[-1] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("max_iter", [1, 2, 3, 10])
def test_short_runs_are_not_warm_up_alone(max_iter):
    for multiplier in (multistep([0.9]), cosine()):
        rates = learning_rates(multiplier, max_iter)
        assert all(0 < rate <= 1 for rate in rates)
        assert max_iter == 1 or max(rates) > 0.3


@pytest.mark.parametrize("max_iter", [1, 100])
def test_no_warm_up(max_iter):
    rates = learning_rates(multistep([0.5], warmup=0), max_iter)
    assert rates[0] == 1
    assert rates[-1] == (1 if max_iter == 1 else pytest.approx(0.1))


def test_no_milestones():
    assert learning_rates(multistep([], warmup=0.2), 10)[2:] == [1.0] * 8


@pytest.mark.parametrize(
    "milestones", [[0.5, 0.5], [0.8, 0.6], [0.0], [1.0], [0.5, 1.5], [-0.1], [600, 800], [math.nan]]
)
def test_milestones_ascend_between_0_and_1(milestones):
    with pytest.raises(ValueError, match="milestones must ascend between 0 and 1, not "):
        multistep(milestones)


@pytest.mark.parametrize("warmup", [-0.1, 1, 500, math.nan])
def test_warm_up_is_a_fraction(warmup):
    with pytest.raises(ValueError, match="warmup must be a fraction of the training"):
        cosine(warmup=warmup)
