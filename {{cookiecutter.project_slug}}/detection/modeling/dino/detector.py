"""DINO as a meta-architecture of detectron2."""

import torch.nn.functional as F
from detectron2.modeling import Backbone

from detection.modeling.detr import Detr
from detection.modeling.dino.criterion import Criterion
from detection.modeling.dino.denoising import ContrastiveDenoising
from detection.modeling.dino.transformer import DeformableTransformer
from detection.modeling.dino.weights import own_names


class DINO(Detr):
    """DETR with improved denoising anchor boxes (Zhang et al., arXiv:2203.03605)."""

    def __init__(
        self,
        backbone: Backbone,
        transformer: DeformableTransformer,
        denoising: ContrastiveDenoising,
        criterion: Criterion,
        num_classes: int,
        **shared,
    ):
        """
        Args:
            backbone: gives the transformer's feature maps, by rising stride.
            transformer: predicts classes and boxes from them.
            denoising: makes further queries in training.
            criterion: the losses.
            num_classes: of the data.
            shared: of all DETRs; see `Detr`.
        """
        super().__init__(num_classes, takes_mask=True, **shared)
        self.backbone = backbone
        self.transformer = transformer
        self.denoising = denoising
        self.criterion = criterion

    def predict(self, pixels, mask):
        return self.transformer(*self._levels(pixels, mask)).layers[-1]

    def layer_losses(self, pixels, mask, labels):
        maps, padding = self._levels(pixels, mask)
        return self.criterion(self.transformer(maps, padding, self.denoising(labels)), labels)

    def own_names(self, loaded: dict, filename: str) -> dict:
        """The authors' weights under this module's names; see `weights.own_names`."""
        return own_names(self, loaded, filename)

    def _levels(self, pixels, mask):
        """The feature maps, and what is padding on each."""
        maps = list(self.backbone(pixels).values())
        mask = mask[:, None].float()
        return maps, [F.interpolate(mask, m.shape[2:])[:, 0] == 0 for m in maps]
