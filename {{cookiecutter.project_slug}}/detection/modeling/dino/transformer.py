"""DINO's encoder, its choice of queries, and its decoder."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detection.modeling.dino.attention import DeformableAttention
from detection.modeling.dino.denoising import NoisedQueries
from detection.modeling.dino.layers import MLP, DecoderLayer, EncoderLayer
from detection.modeling.dino.positions import image_part, pixel_centers, pixel_sines, sines

_Layer = tuple[Tensor, Tensor]  # logits (N, Q, classes) and boxes (N, Q, 4) as (x, y, w, h)


class Predictions(NamedTuple):
    """What each layer predicts, boxes relative to the image."""

    layers: list[_Layer]
    proposed: _Layer  # from the encoder's pixels
    denoised: list[_Layer]  # from the noised queries
    noised: NoisedQueries | None


class DeformableTransformer(nn.Module):
    """
    Deformable DETR's transformer (Zhu et al., arXiv:2010.04159) with mixed query selection: boxes
    of the best pixels, and learned contents; and boxes that look forward twice.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        num_levels: int = 4,
        num_points: int = 4,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        num_queries: int = 900,
        gradient_checkpointing: bool = False,
    ):
        """
        Args:
            num_classes: of the data.
            dim: of queries and pixels, a multiple of 4 and of `num_heads`.
            num_heads: of all attentions.
            feedforward_dim: of the layers' hidden one.
            num_levels: feature maps.
            num_points: that a head looks at, on each map.
            encoder_layers, decoder_layers: their numbers.
            num_queries: boxes per image, at most.
            gradient_checkpointing: compute the layers twice in training, for less memory.
        """
        super().__init__()
        attention = dict(dim=dim, num_heads=num_heads, num_levels=num_levels, num_points=num_points)
        self.level_embed = nn.Parameter(torch.empty(num_levels, dim))
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(
            EncoderLayer(feedforward_dim, **attention) for _ in range(encoder_layers)
        )
        self.enc_output = nn.Linear(dim, dim)
        self.enc_output_norm = nn.LayerNorm(dim)
        self.tgt_embed = nn.Embedding(num_queries, dim)
        self.decoder = Decoder(decoder_layers, feedforward_dim, **attention)
        self._reset_parameters()
        self.enc_out_class_embed, self.enc_out_bbox_embed = _heads(num_classes, dim)
        self.decoder.class_embed, self.decoder.bbox_embed = _heads(num_classes, dim)
        self._num_queries = num_queries
        self._gradient_checkpointing = gradient_checkpointing

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
        nn.init.normal_(self.level_embed)
        nn.init.normal_(self.tgt_embed.weight)

    def forward(
        self, maps: list[Tensor], padding: list[Tensor], noised: NoisedQueries | None = None
    ) -> Predictions:
        """
        Args:
            maps: (N, dim, height, width) of each level.
            padding: (N, height, width) of each, True where a pixel is not an image's.
            noised: queries that are decoded too.
        """
        shapes = [tuple(m.shape[2:]) for m in maps]
        # the part of each map that is an image's: (N, levels, 2) as (x, y)
        parts = torch.stack([image_part(p) for p in padding], 1)
        position = torch.cat(
            [pixel_sines(p, maps[0].shape[1]) + self.level_embed[k] for k, p in enumerate(padding)],
            1,
        )
        points = torch.cat([pixel_centers(p) for p in padding], 1)
        pixels = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        padding = torch.cat([p.flatten(1) for p in padding], 1)
        for layer in self.encoder.layers:
            references = points[:, :, None] * parts[:, None]
            pixels = self._run(layer, pixels, position, references, shapes, padding)

        proposed = self._propose(pixels, points, shapes, padding)
        boxes = proposed[1].detach()
        content = self.tgt_embed.weight[: boxes.shape[1]].expand(boxes.shape[0], -1, -1)
        hidden, first = None, 0
        if noised is not None:
            first = noised.content.shape[1]
            content = torch.cat([noised.content, content], 1)
            boxes = torch.cat([noised.boxes, boxes], 1)
            group = F.pad(noised.group, (0, content.shape[1] - first), value=-1)
            # groups see themselves and the queries that are matched, which see only themselves
            hidden = (group != group[:, None]) & (group >= 0)
        layers = self.decoder(content, boxes, pixels, shapes, padding, parts, hidden, self._run)
        return Predictions(
            [(logits[:, first:], boxes[:, first:]) for logits, boxes in layers],
            proposed,
            [(logits[:, :first], boxes[:, :first]) for logits, boxes in layers],
            noised,
        )

    def _propose(
        self, pixels: Tensor, points: Tensor, shapes: list[tuple[int, int]], padding: Tensor
    ) -> _Layer:
        """The classes and boxes of the pixels that look most like objects."""
        sizes = [torch.full((h * w, 2), 0.05 * 2**k) for k, (h, w) in enumerate(shapes)]
        sizes = torch.cat(sizes).to(points).expand_as(points)
        anchors = torch.cat([points, sizes], -1)
        is_used = ((anchors > 0.01) & (anchors < 0.99)).all(-1) & ~padding
        pixels = self.enc_output_norm(self.enc_output(pixels.masked_fill(~is_used[..., None], 0.0)))
        logits = self.enc_out_class_embed(pixels)
        scores = logits.amax(-1).float().masked_fill(~is_used, -math.inf)
        # small images have fewer pixels
        best = scores.topk(min(self._num_queries, scores.shape[1]), 1).indices[..., None]
        logits, pixels, anchors = (
            values.gather(1, best.expand(-1, -1, values.shape[-1]))
            for values in (logits, pixels, anchors)
        )
        return logits, _moved(anchors, self.enc_out_bbox_embed(pixels))

    def _run(self, layer: nn.Module, *args) -> Tensor:
        if self._gradient_checkpointing and self.training:
            return checkpoint(layer, *args, use_reentrant=False)
        return layer(*args)


class Decoder(nn.Module):
    """Refines the boxes of queries, layer by layer; all layers share the heads."""

    def __init__(self, num_layers: int, feedforward_dim: int, dim: int, **attention):
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(feedforward_dim, dim, **attention) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.ref_point_head = MLP(2 * dim, dim, dim, num_layers=2)

    def forward(self, queries, boxes, pixels, shapes, padding, parts, hidden, run) -> list[_Layer]:
        """Logits and boxes of each layer."""
        width = queries.shape[-1] // 2
        layers = []
        start = boxes
        for layer in self.layers:
            # relative to the image, not to its canvas: padding changes nothing
            position = self.ref_point_head(
                sines(boxes[..., [1, 0, 2, 3]], width, temperature=10000).flatten(-2)
            )
            references = boxes[:, :, None] * parts.repeat(1, 1, 2)[:, None]
            queries = run(layer, queries, position, references, pixels, shapes, padding, hidden)
            normed = self.norm(queries)
            # a layer's boxes train the layer before too, which moved the ones that it starts from
            layers.append((self.class_embed(normed), _moved(start, self.bbox_embed(normed))))
            start = _moved(boxes, self.bbox_embed(queries))
            boxes = start.detach()
        return layers


def _heads(num_classes: int, dim: int) -> tuple[nn.Module, nn.Module]:
    """Classes that are rare at first, and boxes that stay as they are."""
    classes, boxes = nn.Linear(dim, num_classes), MLP(dim, dim, 4, num_layers=3)
    nn.init.constant_(classes.bias, -math.log(99))
    nn.init.zeros_(boxes.layers[-1].weight)
    nn.init.zeros_(boxes.layers[-1].bias)
    return classes, boxes


def _moved(boxes: Tensor, by: Tensor) -> Tensor:
    """Boxes from 0 to 1, moved on the scale of logits."""
    return (boxes.logit(eps=1e-3) + by.float()).sigmoid()
