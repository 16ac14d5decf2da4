"""Object detectors of Hugging Face `transformers` as a meta-architecture of detectron2."""

import difflib
import warnings
from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import nn

from detection.config import to_plain
from detection.modeling.transformers_losses import Float32Loss, by_kind, store_layers, weighted
from detection.modeling.transformers_weights import own_names
from detection.utils.errors import UserError


class TransformersDetector(nn.Module):
    """
    Any closed-set `AutoModelForObjectDetection`, with detectron2's inputs and outputs.

    The images of a batch are put into the upper left corners of one canvas. Models that take a
    mask (DETR, RF-DETR) predict boxes relative to the image; the others (RT-DETR and D-FINE)
    relative to the canvas, which squares fill.
    """

    reduces_losses = True  # over all processes, within the forward pass

    def __init__(
        self,
        model_type: str,
        num_classes: int,
        *,
        config: dict | None = None,
        input_format: str = "RGB",
        pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        pixel_std: Sequence[float] = (255.0, 255.0, 255.0),
        size_divisibility: int = 32,
        takes_mask: bool = False,
        multi_scale: Sequence[int] = (),
        gradient_checkpointing: bool = False,
        log_layers: bool = False,
        test_score_thresh: float = 0.001,
        max_detections_per_image: int = 100,
    ):
        """
        Args:
            model_type: the family, e.g. "rt_detr_v2", as a checkpoint's config.json names it.
            num_classes: of the data.
            config: settings of the family that differ from its defaults, as in a config.json.
            input_format: BGR or RGB, the order of the input's channels.
            pixel_mean, pixel_std: of values 0 to 255, in that order.
            size_divisibility: the canvas's sides are multiples of it.
            takes_mask: whether the model is given a mask of the images' pixels on the canvas.
            multi_scale: the longer side of a training batch's canvas becomes one of these, at
                random; empty: it stays as the mapper makes it.
            gradient_checkpointing: compute the layers twice in training, for less memory.
            log_layers: log the losses of each decoder layer, not only their sum.
            test_score_thresh: boxes with a lower score are left out.
            max_detections_per_image: only the best ones are kept.

        Raises:
            UserError: no such family, or a setting that it lacks.
        """
        super().__init__()
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
        self.num_classes = num_classes
        self.input_format = input_format
        self.size_divisibility = size_divisibility
        self.takes_mask = takes_mask
        self.multi_scale = list(multi_scale)
        self.log_layers = log_layers
        self.test_score_thresh = test_score_thresh
        self.max_detections_per_image = max_detections_per_image
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """
        Args:
            batched_inputs: detectron2's, with `image` (3, H, W) and in training `instances`.

        Returns:
            In training the losses, already weighted, by name. Otherwise [{"instances": Instances}],
            boxes as (x1, y1, x2, y2) in pixels of `height` and `width` of each input.
        """
        pixels, mask, sizes = self._canvas([x["image"] for x in batched_inputs])
        if not self.training:
            return self._instances(self._run(pixels, mask), sizes, batched_inputs)
        labels = [
            {
                "class_labels": x["instances"].gt_classes.to(self.device),
                "boxes": _relative(x["instances"].gt_boxes.tensor.to(self.device), size),
            }
            for x, size in zip(batched_inputs, sizes, strict=True)
        ]
        outputs = self._run(*self._rescaled(pixels, mask), labels=labels)
        parts = weighted(outputs.loss_dict, self.net.config)
        if self.log_layers:
            store_layers(parts)
        losses = by_kind(parts)
        if comm.get_world_size() > 1:
            losses["loss_cls"] = losses["loss_cls"] + 0 * self._one_of_each_parameter()
        return losses

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

    def _canvas(
        self, images: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]]:
        """Normalized images on one canvas, their mask, and what boxes are relative to: (h, w)."""
        step = self.size_divisibility
        height, width = (-(-max(i.shape[side] for i in images) // step) * step for side in (1, 2))
        pixels = self.pixel_mean.new_zeros(len(images), 3, height, width)
        mask = torch.zeros(len(images), height, width, dtype=torch.long, device=self.device)
        sizes = []
        for number, image in enumerate(images):
            h, w = image.shape[1:]
            pixels[number, :, :h, :w] = (image.to(self.device) - self.pixel_mean) / self.pixel_std
            mask[number, :h, :w] = 1
            sizes.append((h, w) if self.takes_mask else (height, width))
        return pixels, mask, sizes

    def _rescaled(
        self, pixels: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The canvas at one of the sizes of `multi_scale`; relative boxes stay as they are."""
        if not self.multi_scale:
            return pixels, mask
        side = self.multi_scale[torch.randint(len(self.multi_scale), ()).item()]
        factor, step = side / max(pixels.shape[2:]), self.size_divisibility
        size = [max(1, round(factor * old / step)) * step for old in pixels.shape[2:]]
        if size == list(pixels.shape[2:]):
            return pixels, mask
        pixels = nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        return pixels, nn.functional.interpolate(mask[:, None].float(), size)[:, 0].long()

    def _one_of_each_parameter(self) -> torch.Tensor:
        """
        A sum that all trained parameters are part of.

        Several processes wait for the gradients of all of them, and a batch without boxes has no
        use for the denoising queries.
        """
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.stack([p[(0,) * p.ndim].float() for p in trained]).sum()

    def _instances(
        self, outputs, sizes: list[tuple[int, int]], batched_inputs: list[dict]
    ) -> list[dict]:
        logits, boxes = outputs.logits.float(), outputs.pred_boxes.float()
        # one more than there are classes: DETR's "no object", the last of them
        has_background = logits.shape[2] > self.num_classes
        scores = logits.softmax(-1)[..., :-1] if has_background else logits.sigmoid()
        count = min(self.max_detections_per_image, scores[0].numel())
        results = []
        for image, (h, w), score, box in zip(batched_inputs, sizes, scores, boxes, strict=True):
            best, index = score.flatten().topk(count)
            kept = best >= self.test_score_thresh
            best, index = best[kept], index[kept]
            height, width = image["image"].shape[1:]
            original = image.get("height", height), image.get("width", width)
            found = Instances(original)
            found.pred_boxes = Boxes(_corners(box[index // self.num_classes], (h, w)))
            found.pred_boxes.scale(original[1] / width, original[0] / height)
            found.pred_boxes.clip(original)
            found.scores = best
            found.pred_classes = index % self.num_classes
            results.append({"instances": found[found.pred_boxes.nonempty()]})
        return results


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


def _relative(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(x1, y1, x2, y2) in pixels as (x, y, w, h) in parts of an image, x and y of the center."""
    h, w = size
    x1, y1, x2, y2 = (boxes / boxes.new_tensor([w, h, w, h])).unbind(-1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], -1)


def _corners(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The reverse of `_relative`."""
    h, w = size
    x, y, width, height = boxes.unbind(-1)
    corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)
    return corners * boxes.new_tensor([w, h, w, h])
