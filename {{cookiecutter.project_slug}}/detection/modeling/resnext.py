"""ResNeXt's stages, which detectron2 builds from yacs configs alone."""

import torch
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnext_stages(
    depth: int = 101, num_groups: int = 32, width_per_group: int = 8, norm: str = "FrozenBN"
) -> list[list[torch.nn.Module]]:
    """
    The stages of ResNeXt (Xie et al., arXiv:1611.05431), for detectron2's `ResNet`.

    Args:
        depth: 50, 101 or 152.
        num_groups: of the 3×3 convolutions.
        width_per_group: their channels in the first stage; each stage doubles them.
        norm: detectron2's name of a normalization.
    """
    stages, in_channels = [], 64
    for stage, num_blocks in enumerate(BLOCKS[depth]):
        out_channels = 256 * 2**stage
        stages.append(
            ResNet.make_stage(
                BottleneckBlock,
                num_blocks,
                in_channels=in_channels,
                bottleneck_channels=num_groups * width_per_group * 2**stage,
                out_channels=out_channels,
                stride_per_block=[1 if stage == 0 else 2] + [1] * (num_blocks - 1),
                num_groups=num_groups,
                norm=norm,
                stride_in_1x1=False,
            )
        )
        in_channels = out_channels
    return stages
