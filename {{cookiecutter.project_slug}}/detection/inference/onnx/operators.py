"""Two steps of detectors that PyTorch does in loops, as operators that ONNX has."""

import math

import torch
from torch import Tensor
from torchvision.ops import nms, roi_align

LOWEST = -3e38  # of the numbers that may be scores; ONNX compares with it


@torch.library.custom_op("detection::suppress", mutates_args=())
def suppress(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, limit: int
) -> Tensor:
    """
    Non-maximum suppression in each row of scores.

    Args:
        boxes: (N, M, 4), corners.
        scores: (N, C, M), of each box in each class.
        iou_threshold: a box that overlaps a better one of its class by more is dropped.
        score_threshold: boxes with this score or less are dropped.
        limit: boxes kept per row, the best.

    Returns:
        The scores; -inf where a box is dropped.
    """
    result = torch.full_like(scores, -math.inf)
    for image, rows in enumerate(scores):
        for row, values in enumerate(rows):
            index = (values > score_threshold).nonzero()[:, 0]
            index = index[nms(boxes[image, index], values[index], iou_threshold)[:limit]]
            result[image, row, index] = values[index]
    return result


@suppress.register_fake
def _(boxes, scores, iou_threshold, score_threshold, limit):
    return torch.empty_like(scores)


@torch.library.custom_op("detection::pool", mutates_args=())
def pool(
    maps: list[Tensor],
    boxes: Tensor,
    levels: Tensor,
    scales: list[float],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """
    RoIAlign, each box on a feature map of its own.

    Args:
        maps: (N, C, H, W) each.
        boxes: (R, 5), the number of the image and the corners.
        levels: (R,), the position in `maps`.
        scales: of the maps, relative to the image.
        size, sampling_ratio, aligned: as of torchvision's `roi_align`.

    Returns:
        (R, C, size, size).
    """
    result = maps[0].new_zeros(len(boxes), maps[0].shape[1], size, size)
    for level, (features, scale) in enumerate(zip(maps, scales, strict=True)):
        chosen = levels == level
        result[chosen] = roi_align(features, boxes[chosen], size, scale, sampling_ratio, aligned)
    return result


@pool.register_fake
def _(maps, boxes, levels, scales, size, sampling_ratio, aligned):
    return maps[0].new_empty(boxes.shape[0], maps[0].shape[1], size, size)


def translations() -> dict:
    """What `torch.onnx.export` has to write for the operators above."""
    from onnxscript import BOOL, INT32, INT64
    from onnxscript import opset18 as op

    def onnx_suppress(boxes, scores, iou_threshold, score_threshold, limit):
        chosen = op.NonMaxSuppression(  # (S, 3): image, class, box
            boxes,
            scores,
            op.Constant(value_ints=[limit]),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[score_threshold]),
        )
        dropped = op.Expand(op.Constant(value_float=-math.inf), op.Shape(scores))
        return op.ScatterND(dropped, chosen, op.GatherND(scores, chosen))

    def onnx_pool(maps, boxes, levels, scales, size, sampling_ratio, aligned):
        places = op.Cast(op.Slice(boxes, [0], [1], [1]), to=INT64.dtype)
        images, corners = op.Squeeze(places, [1]), op.Slice(boxes, [1], [5], [1])
        mode = "half_pixel" if aligned else "output_half_pixel"
        parts, owners = [], []
        for level, (features, scale) in enumerate(zip(maps, scales, strict=True)):
            is_of_level = op.Equal(levels, op.Constant(value_int=level))
            chosen = op.Squeeze(op.NonZero(is_of_level), [0])
            owners.append(chosen)
            parts.append(
                op.RoiAlign(
                    features,
                    op.Gather(corners, chosen),
                    op.Gather(images, chosen),
                    coordinate_transformation_mode=mode,
                    output_height=size,
                    output_width=size,
                    sampling_ratio=max(0, sampling_ratio),
                    spatial_scale=scale,
                )
            )
        owners = op.Concat(*owners, axis=0)
        count = op.Squeeze(op.Shape(owners), [0])
        numbers = op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1))
        back = op.ScatterElements(numbers, owners, numbers, axis=0)
        return op.Gather(op.Concat(*parts, axis=0), back)

    def onnx_all(values):
        return op.Cast(op.ReduceMin(op.Cast(values, to=INT32.dtype), keepdims=0), to=BOOL.dtype)

    ops = torch.ops
    return {
        ops.detection.suppress.default: onnx_suppress,
        ops.detection.pool.default: onnx_pool,
        ops.aten._is_all_true.default: onnx_all,  # in checks of transformers
    }
