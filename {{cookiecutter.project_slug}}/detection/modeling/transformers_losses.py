"""The losses of `transformers`' detectors: in float32, weighted, named as other frameworks do."""

import re
import sys
from functools import partial

import torch
from torch import nn

from detection.modeling.detr import is_distributed_training, mean_boxes

# what transformers calls a loss, and what it is called here
_KINDS = {
    "loss_ce": "loss_cls",
    "loss_vfl": "loss_cls",
    "loss_focal": "loss_cls",
    "loss_bce": "loss_cls",
    "loss_bbox": "loss_bbox",
    "loss_giou": "loss_iou",
    "loss_fgl": "loss_fgl",
    "loss_ddf": "loss_ddf",
}
# the coefficients of families that return their losses unweighted: DETR's and LW-DETR's
_COEFFICIENTS = {
    "loss_ce": "class_loss_coefficient",
    "loss_bbox": "bbox_loss_coefficient",
    "loss_giou": "giou_loss_coefficient",
}
# which divide their losses by the boxes of one process; their authors take the mean over all
_COUNTING_OWN_BOXES = ("rt_detr", "rt_detr_v2", "d_fine")
_NAME = re.compile(r"(?P<kind>loss_[a-z]+?)(?P<part>_aux|_dn|_enc|_pre)?(_(?P<layer>\d+|pre))?\Z")


class Float32Loss:
    """
    A model's own loss, computed in float32 under mixed precision, as costs and GIoU need.

    Raises:
        FloatingPointError: the predictions are not finite.
    """

    def __init__(self, net: nn.Module):
        """
        Args:
            net: the model.
        """
        self._loss = net.loss_function
        if net.config.model_type == "d_fine":
            self._loss = partial(d_fine_loss, decoder=net.base_model.decoder)
        self._counts_own_boxes = net.config.model_type in _COUNTING_OWN_BOXES
        _reduce_in_training_alone()

    def __call__(self, logits: torch.Tensor, labels: list[dict], device, *args, **kwargs):
        with torch.autocast(torch.device(device).type, enabled=False):
            args = [_in_float32(value) for value in args]
            kwargs = {name: _in_float32(value) for name, value in kwargs.items()}
            try:
                loss = self._loss(_in_float32(logits), labels, device, *args, **kwargs)
            except ValueError as e:
                if logits.isfinite().all():
                    raise
                raise FloatingPointError("the predictions are not finite") from e
        if self._counts_own_boxes and is_distributed_training():
            factor = _own_boxes_to_mean(labels, device)
            own = {name: value for name, value in loss[1].items() if "_ddf" not in name}
            loss[1].update({name: factor * value for name, value in own.items()})
        return loss


def weighted(losses: dict[str, torch.Tensor], config) -> dict[str, torch.Tensor]:
    """
    The losses as `Detr.layer_losses` returns them.

    Args:
        losses: `loss_dict` of a model's output.
        config: the model's.
    """
    is_unweighted = hasattr(config, "bbox_loss_coefficient")
    matches = {name: _NAME.fullmatch(name) for name in losses}
    matches = {name: match for name, match in matches.items() if match and match["kind"] in _KINDS}
    last = {part: _last_layer(matches.values(), part) for part in ("_aux", "_dn")}
    parts = {}
    for name, match in matches.items():
        kind, part, layer = match["kind"], match["part"], match["layer"]
        new = _KINDS[kind]
        if part == "_enc" or (part == "_aux" and layer == str(last["_aux"])):
            new = f"enc_{new}"  # RT-DETR's come last among the auxiliary ones
        elif part == "_dn":
            new = f"dn_{new}" if layer == str(last["_dn"]) else f"d{layer}.dn_{new}"
        elif layer or part:
            new = f"d{layer or 'pre'}.{new}"
        weight = getattr(config, _COEFFICIENTS[kind], 1) if is_unweighted else 1
        parts[new] = weight * losses[name]
    return parts


def d_fine_loss(
    logits: torch.Tensor,
    labels: list[dict],
    device,
    pred_boxes: torch.Tensor,
    config,
    outputs_class: torch.Tensor,
    outputs_coord: torch.Tensor,
    *,
    enc_topk_logits: torch.Tensor,
    enc_topk_bboxes: torch.Tensor,
    denoising_meta_values: dict | None,
    predicted_corners: torch.Tensor,
    initial_reference_points: torch.Tensor,
    decoder: nn.Module | None = None,
    **_,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], None]:
    """
    D-FINE's loss (Peng et al., arXiv:2410.13842), as `transformers` calls it.

    The decoder of L layers predicts L + 1 times classes and boxes, at first before the corners'
    distributions refine them, and L times distributions. `transformers` 5 pairs the k-th of both,
    so that each layer's classes and boxes are trained with the distributions of the next one, and
    the last distributions not at all. Here each layer has its own, as in the authors' code: L - 1
    auxiliary ones are taught by the last one, and the first prediction has no distributions.

    Args:
        outputs_class, outputs_coord: (N, L + 1, queries, classes) and (…, 4).
        predicted_corners, initial_reference_points: (N, L, queries, 4 × bins) and (…, 4).
        decoder: gives the curvature and the bound of the bins, which are part of the weights;
            None: the configuration does.
    """
    from transformers.loss.loss_d_fine import DFineLoss

    boxes = outputs_coord.clamp(0, 1)
    tensors = [outputs_class, boxes, predicted_corners, initial_reference_points]
    denoising = None
    if denoising_meta_values is not None:
        split = denoising_meta_values["dn_num_split"]
        halves = [torch.split(tensor, split, dim=2) for tensor in tensors]
        denoising, tensors = ([half[k] for half in halves] for k in (0, 1))
    *earlier, last = _layers(*tensors)
    encoder = {"logits": enc_topk_logits, "pred_boxes": enc_topk_bboxes.clamp(0, 1)}
    first, *earlier = earlier
    outputs = {**last, "auxiliary_outputs": [*earlier, first, encoder]}
    if denoising is not None:
        first, *layers = _layers(*denoising)
        outputs["dn_auxiliary_outputs"] = [first, *layers]
        outputs["denoising_meta_values"] = denoising_meta_values
    criterion = DFineLoss(config).to(device)
    if decoder is not None:
        criterion.reg_scale, criterion.up = decoder.reg_scale, decoder.up
    losses = criterion(outputs, labels)
    return sum(losses.values()), losses, None


def _layers(
    logits: torch.Tensor, boxes: torch.Tensor, corners: torch.Tensor, references: torch.Tensor
) -> list[dict[str, torch.Tensor]]:
    """The first prediction, and those of all layers with their distributions."""
    layers = [{"logits": logits[:, 0], "pred_boxes": boxes[:, 0]}]
    for k in range(corners.shape[1]):
        layers.append(
            {
                "logits": logits[:, k + 1],
                "pred_boxes": boxes[:, k + 1],
                "pred_corners": corners[:, k],
                "ref_points": references[:, k],
                "teacher_corners": corners[:, -1],
                "teacher_logits": logits[:, -1],
            }
        )
    return layers


def _last_layer(matches, part: str) -> int:
    layers = [int(m["layer"]) for m in matches if m["part"] == part and m["layer"]]
    return max(layers, default=-1)


def _reduce_in_training_alone() -> None:
    """
    Let RF-DETR's and LW-DETR's losses count boxes over all processes only where there are as many
    batches on each, in training: validation losses would wait for each other for ever.
    """
    for name in ("loss_lw_detr", "loss_rf_detr"):
        module = sys.modules.get(f"transformers.loss.{name}")
        if module is not None:
            module._is_torch_distributed_initialized = is_distributed_training


def _own_boxes_to_mean(labels: list[dict], device) -> float:
    """The boxes by which this process divides its losses, over those by which all should."""
    own = sum(len(label["boxes"]) for label in labels)
    return max(own, 1) / mean_boxes(labels, device)


def _in_float32(value):
    is_low = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.float() if is_low else value
