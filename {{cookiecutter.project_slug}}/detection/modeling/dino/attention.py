"""Multi-scale deformable attention (Zhu et al., arXiv:2010.04159), without compiled code."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DeformableAttention(nn.Module):
    """Attention to a few points of each feature map, around a reference point of each query."""

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int):
        """
        Args:
            dim: of queries and values, a multiple of `num_heads`.
            num_heads: each looks at points of its own.
            num_levels: feature maps.
            num_points: per head and level.
        """
        super().__init__()
        self._shape = (num_heads, num_levels, num_points)
        points = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(dim, 2 * points)
        self.attention_weights = nn.Linear(dim, points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """At first the heads look into directions all around, their points 1, 2, … pixels away."""
        num_heads, num_levels, num_points = self._shape
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
        for linear in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(linear.bias)
        angles = 2 * math.pi / num_heads * torch.arange(num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions /= directions.abs().amax(-1, keepdim=True)
        steps = directions[:, None] * torch.arange(1, num_points + 1)[:, None]
        steps = steps[:, None].expand(-1, num_levels, -1, -1)  # heads, levels, points, 2
        self.sampling_offsets.bias.copy_(steps.flatten())

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        values: Tensor,
        shapes: list[tuple[int, int]],
        padding: Tensor,
    ) -> Tensor:
        """
        Args:
            queries: (N, Q, dim).
            references: (N, Q, levels, 2), points (x, y) from 0 to 1 on each map, or boxes
                (N, Q, levels, 4) as (x, y, w, h), whose size the offsets are relative to.
            values: (N, S, dim), the pixels of all maps.
            shapes: (height, width) of each map; their products sum up to S.
            padding: (N, S), True where a pixel is not an image's, which counts as 0.

        Returns:
            (N, Q, dim).
        """
        num_heads, _, num_points = self._shape
        values = self.value_proj(values).masked_fill(padding[..., None], 0.0)
        values = values.unflatten(-1, (num_heads, -1))
        # bfloat16 has too few digits for places on a map
        offsets = self.sampling_offsets(queries).float().unflatten(-1, (*self._shape, 2))
        weights = self.attention_weights(queries).float().unflatten(-1, (num_heads, -1))
        weights = weights.softmax(-1).unflatten(-1, self._shape[1:])
        anchors = references[:, :, None, :, None]
        if references.shape[-1] == 2:
            # not `new_tensor`, which would be a constant in an exported file
            units = [references.new_full((), side) for h, w in shapes for side in (w, h)]
            units = torch.stack(units).unflatten(0, (-1, 1, 2))
            places = anchors + offsets / units
        else:
            places = anchors[..., :2] + offsets / num_points * anchors[..., 2:] / 2
        return self.output_proj(sample(values, shapes, places, weights))


def sample(
    values: Tensor, shapes: list[tuple[int, int]], places: Tensor, weights: Tensor
) -> Tensor:
    """
    Weighted sums of values at places between pixels; beyond a map's edges they are 0.

    Args:
        values: (N, S, heads, dim), the pixels of all maps.
        shapes: (height, width) of each map.
        places: (N, Q, heads, levels, points, 2) as (x, y) from 0 to 1.
        weights: (N, Q, heads, levels, points).

    Returns:
        (N, Q, heads × dim).
    """
    count, _, num_heads, _ = values.shape
    grids = (2 * places - 1).transpose(1, 2).flatten(0, 1)  # N × heads, Q, levels, points, 2
    weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # N × heads, 1, Q, levels, points
    maps = values.to(grids.dtype).permute(0, 2, 3, 1).flatten(0, 1)  # N × heads, dim, S
    result = 0
    for level, pixels in enumerate(maps.split([h * w for h, w in shapes], -1)):
        sampled = F.grid_sample(
            pixels.unflatten(-1, shapes[level]), grids[:, :, level], align_corners=False
        )
        result = result + (sampled * weights[:, :, :, level]).sum(-1)
    return result.unflatten(0, (count, num_heads)).flatten(1, 2).transpose(1, 2)
