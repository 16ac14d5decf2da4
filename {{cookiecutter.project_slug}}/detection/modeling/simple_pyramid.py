"""The feature pyramid of a plain ViT, which has one map alone."""

from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from timm.layers import LayerNorm2d
from torch import Tensor, nn


class SimplePyramid(Backbone):
    """ViTDet's pyramid (Li et al., arXiv:2203.16527): p2 to p6 of a map of stride 16."""

    def __init__(self, bottom_up: Backbone, in_feature: str = "res4", out_channels: int = 256):
        """
        Args:
            bottom_up: gives the map.
            in_feature: its name there.
            out_channels: of each level.
        """
        super().__init__()
        self.bottom_up = bottom_up
        self._in_feature = in_feature
        width = bottom_up.output_shape()[in_feature].channels
        half, quarter = width // 2, width // 4
        twice = nn.ConvTranspose2d(width, half, 2, stride=2)
        four_times = [
            nn.ConvTranspose2d(width, half, 2, stride=2),
            LayerNorm2d(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2),
        ]
        self.p2 = nn.Sequential(*four_times, *_level(quarter, out_channels))
        self.p3 = nn.Sequential(twice, *_level(half, out_channels))
        self.p4 = nn.Sequential(*_level(width, out_channels))
        self.p5 = nn.Sequential(nn.MaxPool2d(2), *_level(width, out_channels))
        self.p6 = LastLevelMaxPool()
        self._shapes = {f"p{k}": ShapeSpec(out_channels, stride=2**k) for k in range(2, 7)}

    @property
    def size_divisibility(self) -> int:
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps (N, C, H / stride, W / stride) by name, of images (N, 3, H, W)."""
        features = self.bottom_up(x)[self._in_feature]
        maps = {name: getattr(self, name)(features) for name in ("p2", "p3", "p4", "p5")}
        (maps["p6"],) = self.p6(maps["p5"])
        return maps


def _level(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        Conv2d(in_channels, out_channels, 1, bias=False, norm=LayerNorm2d(out_channels)),
        Conv2d(
            out_channels, out_channels, 3, padding=1, bias=False, norm=LayerNorm2d(out_channels)
        ),
    ]
