"""Measures a model: parameters, arithmetic, memory and speed."""

import time
import warnings

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.analysis import FlopCountAnalysis
from detectron2.utils.events import EventStorage


@torch.no_grad()
def without_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Set all weights to 0, so that boxes are the anchors, and only shapes matter."""
    for parameter in model.parameters():
        if parameter.requires_grad:  # the others may be constants
            parameter.zero_()
    return model


@torch.no_grad()
def count(model: torch.nn.Module, height: int, width: int) -> tuple[float, float]:
    """Millions of parameters, and GFLOPs for one image of that many pixels."""
    without_weights(model).eval()
    thresholds = {m: m.nms_thresh for m in model.modules() if hasattr(m, "nms_thresh")}
    for module in thresholds:
        module.nms_thresh = 1.0  # no box suppresses another
    flops = FlopCountAnalysis(model, [_image(model, height, width)])
    flops.uncalled_modules_warnings(False).unsupported_ops_warnings(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing
        gflops = flops.total() / 1e9
    for module, threshold in thresholds.items():
        module.nms_thresh = threshold
    return sum(p.numel() for p in model.parameters()) / 1e6, gflops


def memory(model: torch.nn.Module, height: int, width: int) -> float:
    """
    GB that the backward pass of one training image needs, beside the parameters; in float32.

    A model that resizes its training batches is given its largest size.
    """
    if getattr(model, "multi_scale", None):
        model.multi_scale = [max(model.multi_scale)]
    image = _image(model, height, width)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, width / 4, height / 4]]))
    instances.gt_classes = torch.zeros(1, dtype=torch.long)
    instances.gt_masks = BitMasks(torch.ones(1, height, width))
    image["instances"] = instances
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    kept = {}  # {address: bytes}; autograd holds the tensors, so addresses are unique

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # with its history it would hold the node that holds it

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with EventStorage(), hooks:
        losses = without_weights(model).train()([image])
    assert losses
    return sum(size for address, size in kept.items() if address not in own) / 1e9


@torch.no_grad()
def speed(model: torch.nn.Module, height: int, width: int) -> float:
    """Images per second in batches of one, with few boxes found; the median of five."""
    without_weights(model).eval()
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 1.0
    times = []
    for _ in range(6):
        start = time.perf_counter()
        model([_image(model, height, width)])
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1 / sorted(times[1:])[2]  # the first one warms up


def _image(model: torch.nn.Module, height: int, width: int) -> dict:
    # some backbones take squares only, and would crop larger images
    side = getattr(model.backbone, "padding_constraints", {}).get("square_size") or max(
        height, width
    )
    return {"image": torch.zeros(3, min(height, side), min(width, side))}
