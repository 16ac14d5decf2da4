"""Object detectors of Hugging Face `transformers` as a meta-architecture of detectron2."""

import difflib
import warnings

import torch
from torch import nn

from detection.config import to_plain
from detection.modeling.detr import Detr
from detection.modeling.transformers_losses import Float32Loss, weighted
from detection.modeling.transformers_weights import own_names
from detection.utils.errors import UserError


class TransformersDetector(Detr):
    """
    Any closed-set `AutoModelForObjectDetection`.

    Models that take a mask (DETR, RF-DETR) predict boxes relative to the image; the others
    (RT-DETR and D-FINE) relative to the canvas, which squares fill.
    """

    def __init__(
        self,
        model_type: str,
        num_classes: int,
        *,
        config: dict | None = None,
        gradient_checkpointing: bool = False,
        **shared,
    ):
        """
        Args:
            model_type: the family, e.g. "rt_detr_v2", as a checkpoint's config.json names it.
            num_classes: of the data.
            config: settings of the family that differ from its defaults, as in a config.json.
            gradient_checkpointing: compute the layers twice in training, for less memory.
            shared: of all DETRs; see `Detr`.

        Raises:
            UserError: no such family, or a setting that it lacks.
        """
        super().__init__(num_classes, **shared)
        self.net = _build(model_type, num_classes, to_plain(config or {}))
        if gradient_checkpointing:
            _enable_gradient_checkpointing(self.net, model_type)
        self.net.loss_function = Float32Loss(self.net)
        # It is a part of this module alone: its parameters are named backbone.…, as those of
        # detectron2's models, and train.freeze and the optimizer's groups find them.
        base = self.net.base_model
        self.backbone = getattr(base, "backbone", nn.Identity())
        if hasattr(base, "backbone"):
            del base.backbone
            vars(base)["backbone"] = self.backbone

    def predict(self, pixels, mask):
        outputs = self._run(pixels, mask)
        return outputs.logits, outputs.pred_boxes

    def layer_losses(self, pixels, mask, labels):
        return weighted(self._run(pixels, mask, labels=labels).loss_dict, self.net.config)

    def own_names(self, loaded: dict, filename: str) -> dict:
        """Weights of the hub under this module's names; see `transformers_weights.own_names`."""
        return own_names(self, loaded, filename)

    def hub_names(self) -> dict[str, str]:
        """The names of `transformers` for those of this module's state."""
        base = self.net.base_model_prefix
        return {
            name: f"{base}.{name}" if name.startswith("backbone.") else name.removeprefix("net.")
            for name in self.state_dict()
        }

    def _run(self, pixels: torch.Tensor, mask: torch.Tensor, **labels):
        masks = {"pixel_mask": mask} if self.takes_mask else {}
        return self.net(pixel_values=pixels, **masks, **labels)


def _build(model_type: str, num_classes: int, config: dict) -> nn.Module:
    # slow to import, and no other model needs them
    from transformers import AutoConfig, AutoModelForObjectDetection
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

    families = sorted(MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES)
    if model_type not in families:
        nearest = difflib.get_close_matches(model_type, families, n=1, cutoff=0.0)[0]
        raise UserError(
            f"model.model_type={model_type}: transformers has no such detector; {nearest} is near, "
            f"and there are {', '.join(families)}"
        )
    known = AutoConfig.for_model(model_type)
    for name in config:
        if not hasattr(known, name):
            nearest = difflib.get_close_matches(name, vars(known), n=1, cutoff=0.0)[0]
            raise UserError(f"model.config.{name}: {model_type} has no such setting; {nearest}?")
    try:
        return AutoModelForObjectDetection.from_config(
            AutoConfig.for_model(model_type, num_labels=num_classes, **config)
        )
    except (TypeError, ValueError) as e:
        reason = " ".join(str(e).split())
        raise UserError(f"model.config: {model_type} cannot be built so: {reason}") from e


def _enable_gradient_checkpointing(net: nn.Module, model_type: str) -> None:
    parts = [m for m in net.modules() if getattr(m, "supports_gradient_checkpointing", False)]
    if not parts:
        raise UserError(
            f"model.gradient_checkpointing: {model_type} does not support it; set it to False"
        )
    for part in parts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a newer name, which not all versions have
            part.gradient_checkpointing_enable({"use_reentrant": False})
