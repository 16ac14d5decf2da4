"""detection/solver/ema.py beside timm's ModelEmaV3."""

import torch
from detection.solver.ema import EMAHook
from timm.utils import ModelEmaV3


def trained(is_tied: bool) -> tuple[dict, dict]:
    """The averages of both after three steps of the same weights."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4)
    )
    if is_tied:
        model[2].weight = model[0].weight
    ours = EMAHook(model, decay=0.75, warmup=0)
    theirs = ModelEmaV3(model, decay=0.75)
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(8, 4))
        ours.after_step()
        theirs.update(model)
    return ours.model.state_dict(), theirs.module.state_dict()


def test_averages_are_timms():
    ours, theirs = trained(is_tied=False)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value)


def test_only_timms_averages_tied_weights_twice_a_step():
    """Why it is not used: the heads of RT-DETR and D-FINE are tied."""
    ours, theirs = trained(is_tied=True)
    torch.testing.assert_close(ours["2.bias"], theirs["2.bias"])
    assert torch.equal(ours["0.weight"], ours["2.weight"])
    assert not torch.allclose(ours["0.weight"], theirs["0.weight"], atol=1e-3)
