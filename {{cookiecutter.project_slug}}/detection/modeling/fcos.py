"""FCOS's head, for mixed precision."""

from detectron2.modeling.meta_arch import fcos


class FCOSHead(fcos.FCOSHead):
    """Upstream's, but its predictions are float32 always: the GIoU loss takes nothing else."""

    def forward(self, features):
        return tuple([level.float() for level in levels] for levels in super().forward(features))
