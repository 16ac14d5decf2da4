"""Detectors as functions of tensors, for any number of images, so that they can be exported."""

import math

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from torch import Tensor, nn
from torchvision.ops import box_convert

from detection.inference.onnx.operators import LOWEST, pool, suppress
from detection.modeling.detr import Detr
from detection.utils.errors import UserError


class Graph(nn.Module):
    """What a detector finds, in pixels of its input; subclasses say how (`detect`)."""

    def __init__(self, model: nn.Module, min_score: float, limit: int):
        """
        Args:
            model: the detector.
            min_score: boxes below are dropped.
            limit: boxes kept per image, the best.
        """
        super().__init__()
        self.model = model
        self.min_score, self.limit = min_score, limit

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            images: uint8 (N, 3, H, W), each in the upper left corner of its canvas.
            sizes: int64 (N, 2), the height and width that each fills.

        Returns:
            Boxes (N, K, 4), corners in pixels, scores (N, K), the best first, -1 where there are no
            more, and labels, int64 (N, K). Of models with masks also those, (N, K, M, M): the
            probabilities of pixels inside of a box.
        """
        height, width = images.shape[2:]
        rows = torch.arange(height)[None, :, None] < sizes[:, 0, None, None]
        columns = torch.arange(width)[None, None] < sizes[:, 1, None, None]
        mask = rows & columns
        pixels = (images.float() - self.model.pixel_mean) / self.model.pixel_std
        boxes, scores, labels, *masks = self.detect(pixels * mask[:, None], mask, sizes)
        return boxes, scores.clamp(min=-1.0), labels, *masks

    def detect(self, pixels: Tensor, mask: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            pixels: (N, 3, H, W), normalized, 0 outside of images.
            mask: bool (N, H, W), True in the images.
            sizes: as for `forward`.

        Returns:
            As `forward`; scores are -inf where there are no more.
        """
        raise NotImplementedError

    def best(self, scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        The best boxes, scores and labels of each image.

        Args:
            scores: (N, C, M), -inf where there is no box.
            boxes: (N, M, 4), or (N, C, M, 4) where each class has its own.
        """
        count = scores.shape[2]
        scores, index = top(scores.flatten(1), self.limit)
        labels = index // count
        # not %, which the exporter cannot write for a number that depends on the image's size
        place = index if boxes.ndim == 4 else index - labels * count
        return picked(boxes.flatten(1, -2), place), scores, labels


class RCNNGraph(Graph):
    """Faster, Cascade and Mask R-CNN."""

    def detect(self, pixels, mask, sizes):
        features = self.model.backbone(pixels)
        boxes, is_box = self._propose(features, sizes)
        heads = self.model.roi_heads
        stages = [(heads.box_head, heads.box_predictor)]
        if isinstance(heads, CascadeROIHeads):
            stages = list(zip(*stages[0], strict=True))
        maps = [features[name] for name in heads.box_in_features]
        count, total = boxes.shape[1], 0
        for number, (head, predictor) in enumerate(stages):
            if number:
                boxes = clipped(boxes, sizes)
            logits, deltas = predictor(head(pooled(heads.box_pooler, maps, boxes)))
            logits = logits.unflatten(0, (-1, count))
            is_sigmoid = getattr(predictor, "use_sigmoid_ce", False)  # upstream's main
            total = total + (logits.sigmoid() if is_sigmoid else logits.softmax(-1))
            boxes = predictor.box2box_transform.apply_deltas(deltas, boxes.flatten(0, 1))
            boxes = boxes.unflatten(0, (-1, count))
        scores = (total / len(stages))[..., :-1].transpose(1, 2)  # N, C, R
        is_box = is_box & boxes.isfinite().all(-1)
        scores = torch.where(is_box[:, None] & scores.isfinite(), scores, -math.inf)
        boxes = torch.where(is_box[..., None], boxes, 0.0)
        limits = predictor.test_nms_thresh, self.min_score, self.limit
        if boxes.shape[2] == 4:
            boxes = clipped(boxes, sizes)
            scores = suppress(boxes, scores, *limits)
        else:
            boxes = boxes.unflatten(2, (-1, 4)).transpose(1, 2)  # N, C, R, 4
            boxes = clipped(boxes.flatten(1, 2), sizes).unflatten(1, (-1, count))
            kept = suppress(boxes.flatten(0, 1), scores.flatten(0, 1)[:, None], *limits)
            scores = kept.reshape(scores.shape)
        boxes, scores, labels = self.best(scores, boxes)
        if not getattr(heads, "mask_on", False):
            return boxes, scores, labels
        maps = [features[name] for name in heads.mask_in_features]
        logits = heads.mask_head.layers(pooled(heads.mask_pooler, maps, boxes))
        logits = logits.unflatten(0, (-1, boxes.shape[1]))  # N, K, C, M, M
        if logits.shape[2] > 1:
            index = labels[..., None, None, None].expand(-1, -1, 1, *logits.shape[3:])
            logits = logits.gather(2, index)
        return boxes, scores, labels, logits[:, :, 0].sigmoid()

    def _propose(self, features: dict[str, Tensor], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, R, 4), and whether each is one (N, R)."""
        rpn = self.model.proposal_generator
        maps = [features[name] for name in rpn.in_features]
        anchors = [boxes.tensor for boxes in rpn.anchor_generator(maps)]
        boxes, scores = [], []
        for logits, deltas, fixed in zip(*rpn.rpn_head(maps), anchors, strict=True):
            logits, index = top(by_anchor(logits, 1)[..., 0], rpn.pre_nms_topk[False])
            deltas = picked(by_anchor(deltas, 4), index)
            found = rpn.box2box_transform.apply_deltas(deltas.flatten(0, 1), fixed[index.flatten()])
            found = clipped(found.reshape(deltas.shape), sizes)
            is_box = found.isfinite().all(-1) & logits.isfinite()
            is_box &= ((found[..., 2:] - found[..., :2]) > rpn.min_box_size).all(-1)
            found = torch.where(is_box[..., None], found, 0.0)
            logits = torch.where(is_box, logits, -math.inf)[:, None]
            limit = rpn.post_nms_topk[False]
            scores.append(suppress(found, logits, rpn.nms_thresh, LOWEST, limit)[:, 0])
            boxes.append(found)
        best, index = top(torch.cat(scores, 1), rpn.post_nms_topk[False])
        return picked(torch.cat(boxes, 1), index), best > LOWEST


class DenseGraph(Graph):
    """RetinaNet and FCOS."""

    def detect(self, pixels, mask, sizes):
        model = self.model
        features = model.backbone(pixels)
        maps = [features[name] for name in model.head_in_features]
        anchors = [boxes.tensor for boxes in model.anchor_generator(maps)]
        boxes, scores, labels = [], [], []
        for fixed, logits, deltas, *centers in zip(anchors, *model.head(maps), strict=True):
            values = by_anchor(logits, model.num_classes).sigmoid()
            for center in centers:  # FCOS's
                values = (values * by_anchor(center, 1).sigmoid()).sqrt()
            values = torch.where(values > self.min_score, values, -math.inf)
            best, index = top(values.flatten(1), model.test_topk_candidates)
            place = index // model.num_classes
            deltas = picked(by_anchor(deltas, 4), place)
            found = model.box2box_transform.apply_deltas(
                deltas.flatten(0, 1), fixed[place.flatten()]
            )
            boxes.append(found.reshape(deltas.shape))
            scores.append(best)
            labels.append(index % model.num_classes)
        boxes, scores, labels = (torch.cat(parts, 1) for parts in (boxes, scores, labels))
        is_of_class = labels[:, None] == torch.arange(model.num_classes)[:, None]
        scores = torch.where(is_of_class, scores[:, None], -math.inf)
        scores = suppress(boxes, scores, model.test_nms_thresh, LOWEST, self.limit)
        return self.best(scores, boxes)


class DetrGraph(Graph):
    """DINO and all detectors of transformers."""

    def detect(self, pixels, mask, sizes):
        logits, boxes = self.model.predict(pixels, mask.long())
        # one more than there are classes: DETR's "no object", the last of them
        has_background = logits.shape[2] > self.model.num_classes
        scores = logits.softmax(-1)[..., :-1] if has_background else logits.sigmoid()
        scores = torch.where(scores >= self.min_score, scores, -math.inf)
        height, width = pixels.shape[2:]
        whole = torch.tensor([[width, height, width, height]])
        units = sizes[:, [1, 0, 1, 0]] if self.model.takes_mask else whole
        boxes = box_convert(boxes, "cxcywh", "xyxy") * units[:, None]
        return self.best(scores.transpose(1, 2), boxes)


def graph_of(model: nn.Module, min_score: float, limit: int) -> Graph:
    """
    The graph of a detector in evaluation mode; UserError if there is none.

    Args:
        model: the detector.
        min_score, limit: as of `Graph`.
    """
    if isinstance(model, Detr):
        return DetrGraph(model, min_score, limit)
    if isinstance(model, DenseDetector):
        return DenseGraph(model, min_score, limit)
    if isinstance(model, GeneralizedRCNN) and isinstance(model.roi_heads, StandardROIHeads):
        return RCNNGraph(model, min_score, limit)
    raise UserError(
        f"model: {type(model).__name__} cannot be exported: the exporter knows Faster, Cascade and "
        "Mask R-CNN, RetinaNet, FCOS, DINO and the detectors of transformers; use predict.py"
    )


def top(scores: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The best of (N, M), at most `limit`, and their positions."""
    return scores.topk(torch.sym_min(limit, scores.shape[1]), 1)


def picked(values: Tensor, index: Tensor) -> Tensor:
    """Rows (N, K, D) of (N, M, D) at (N, K)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def by_anchor(predicted: Tensor, width: int) -> Tensor:
    """(N, A × width, H, W) as (N, H × W × A, width)."""
    return predicted.unflatten(1, (-1, width)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def clipped(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (N, M, 4), as far as they are in images of (height, width) = `sizes`."""
    return torch.minimum(boxes.clamp(min=0), sizes[:, None, [1, 0, 1, 0]].to(boxes.dtype))


def pooled(pooler: ROIPooler, maps: list[Tensor], boxes: Tensor) -> Tensor:
    """What detectron2's pooler gives of boxes (N, R, 4)."""
    first = pooler.level_poolers[0]
    images = torch.arange(boxes.shape[0])[:, None].expand(boxes.shape[:2])
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1).flatten()
    levels = pooler.canonical_level + (areas.sqrt() / pooler.canonical_box_size + 1e-8).log2()
    levels = levels.floor().clamp(pooler.min_level, pooler.max_level) - pooler.min_level
    return pool(
        maps,
        torch.cat([images.flatten()[:, None].to(boxes.dtype), boxes.flatten(0, 1)], 1),
        levels.long(),
        [level.spatial_scale for level in pooler.level_poolers],
        first.output_size[0],
        first.sampling_ratio,
        first.aligned,
    )
