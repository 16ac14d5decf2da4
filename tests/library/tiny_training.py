"""A real detectron2 training of one parameter, for tests of hooks and writers."""

from collections.abc import Sequence

import torch
from detectron2.engine import SimpleTrainer


class TinyModel(torch.nn.Module):
    """Its losses are its input and half of it, whatever its weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, value: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss_a": value + 0 * self.weight, "loss_b": value / 2 + 0 * self.weight}


def tiny_trainer(losses: Sequence[float], hooks: Sequence = ()) -> SimpleTrainer:
    """Its `loss_a` at its k-th step is `losses[k]`."""
    model = TinyModel()
    # a resumed schedule looks for the initial rate
    optimizer = torch.optim.SGD([{"params": model.parameters(), "initial_lr": 0.1}], lr=0.1)
    trainer = SimpleTrainer(model, [torch.tensor(float(v)) for v in losses], optimizer)
    trainer.register_hooks(list(hooks))
    return trainer
