"""Feature maps of one width for DINO's transformer, from those of any backbone."""

import math
from collections.abc import Sequence

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from timm.layers import LayerNorm2d
from torch import Tensor, nn


class ChannelMapper(Backbone):
    """Deformable DETR's neck (Zhu et al., arXiv:2010.04159): a projection of each map, no FPN."""

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int = 256,
        num_levels: int = 4,
        norm_inputs: bool = False,
    ):
        """
        Args:
            bottom_up: gives the maps.
            in_features: their names there, by rising stride.
            out_channels: of each level, a multiple of 32.
            num_levels: of the output; those that the backbone lacks get twice the stride of the
                level before.
            norm_inputs: normalize the maps first, as the authors do for Swin and ConvNeXt.
        """
        super().__init__()
        self.bottom_up = bottom_up
        self._in_features = list(in_features)
        shapes = [bottom_up.output_shape()[name] for name in in_features]
        channels, strides = ([getattr(s, key) for s in shapes] for key in ("channels", "stride"))
        self.input_norms = nn.ModuleList(
            LayerNorm2d(width, eps=1e-5) if norm_inputs else nn.Identity() for width in channels
        )
        convolutions = [nn.Conv2d(width, out_channels, 1) for width in channels]
        for number in range(num_levels - len(shapes)):
            width = out_channels if number else channels[-1]
            convolutions.append(nn.Conv2d(width, out_channels, 3, stride=2, padding=1))
            strides.append(2 * strides[-1])
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)
        self.input_proj = nn.ModuleList(
            nn.Sequential(convolution, nn.GroupNorm(32, out_channels))
            for convolution in convolutions
        )
        self._shapes = {f"p{int(math.log2(s))}": ShapeSpec(out_channels, stride=s) for s in strides}

    @property
    def size_divisibility(self) -> int:
        return self.bottom_up.size_divisibility

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps (N, C, H / stride, W / stride) by name, of images (N, 3, H, W)."""
        features = self.bottom_up(x)
        maps = [
            norm(features[name])
            for name, norm in zip(self._in_features, self.input_norms, strict=True)
        ]
        levels = [project(m) for project, m in zip(self.input_proj, maps, strict=False)]
        for project in self.input_proj[len(maps) :]:
            levels.append(project(maps[-1] if len(levels) == len(maps) else levels[-1]))
        return dict(zip(self._shapes, levels, strict=True))
