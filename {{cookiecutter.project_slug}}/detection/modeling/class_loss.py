"""Class weights and focal loss for the box heads of Faster, Cascade and Mask R-CNN."""

from collections.abc import Mapping, Sequence
from types import MethodType

import torch
from detectron2.layers import cat
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch.nn.functional import cross_entropy

from detection.utils.errors import UserError
from detection.utils.text import listed


def set_class_loss(
    model: torch.nn.Module,
    class_names: Sequence[str],
    weights: Sequence[float] | Mapping[str, float] | None = None,
    focal_gamma: float = 0.0,
) -> None:
    """
    Change the classification loss of a model's box heads; the defaults change nothing.

    The loss of a box that is assigned to class c, with probability p of that class, becomes
    w_c (1 - p)^gamma times its cross entropy (focal loss for a softmax; Lin et al.,
    arXiv:1708.02002). The background has the weight 1, and the mean is over all boxes, so that the
    loss keeps its scale.

    Args:
        model: changed in place.
        class_names: in the order of the model's outputs.
        weights: of each class, or {name: weight} with 1 for all others.
        focal_gamma: 0 or more.

    Raises:
        UserError: weights that do not fit the classes, or a model without such a box head.
    """
    if weights is None and focal_gamma == 0:
        return
    if focal_gamma < 0:
        raise UserError(f"train.class_loss.focal_gamma={focal_gamma:g}: give 0 or more, e.g. 2")
    factors = _factors(class_names, weights)
    if (factors == 1).all() and focal_gamma == 0:
        return
    predictors = [m for m in model.modules() if isinstance(m, FastRCNNOutputLayers)]
    if not predictors or any(getattr(p, "use_sigmoid_ce", False) for p in predictors):
        raise UserError(
            "train.class_loss is for the softmax of Faster, Cascade and Mask R-CNN; the losses of "
            "RetinaNet, FCOS and DETRs are focal already. Set weights=null and focal_gamma=0"
        )
    for predictor in predictors:
        predictor.register_buffer("class_factors", factors.clone(), persistent=False)
        predictor.focal_gamma = focal_gamma
        predictor.losses = MethodType(_losses, predictor)


def _factors(
    names: Sequence[str], weights: Sequence[float] | Mapping[str, float] | None
) -> torch.Tensor:
    """(C + 1,): the weight of each class and of the background."""
    if isinstance(weights, Mapping):
        if unknown := set(weights) - set(names):
            raise UserError(
                f"train.class_loss.weights: no class is called {unknown.pop()!r}; there are "
                f"{listed(names)}"
            )
        weights = [weights.get(name, 1.0) for name in names]
    factors = torch.ones(len(names) + 1)
    if weights is not None:
        if len(weights) != len(names):
            raise UserError(
                f"train.class_loss.weights: {len(weights)} weights for {len(names)} classes"
            )
        factors[:-1] = torch.tensor(list(weights), dtype=torch.float32)
    if not (factors > 0).all() or factors.isinf().any():
        raise UserError("train.class_loss.weights: each has to be a number above 0")
    return factors


def _losses(self, predictions, proposals) -> dict[str, torch.Tensor]:
    """`FastRCNNOutputLayers.losses` with the classification loss of `set_class_loss`."""
    losses = type(self).losses(self, predictions, proposals)
    if len(scores := predictions[0]):
        classes = cat([p.gt_classes for p in proposals])
        loss = cross_entropy(scores.float(), classes, reduction="none")
        # the cross entropy is -log p
        loss = self.class_factors[classes] * (1 - (-loss).exp()) ** self.focal_gamma * loss
        weight = self.loss_weight.get("loss_cls", 1.0)
        losses["loss_cls"] = loss.mean() * weight
    return losses
