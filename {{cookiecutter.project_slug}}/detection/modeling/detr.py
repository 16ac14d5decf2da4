"""What all DETRs share: images on one canvas, boxes relative to it, losses by name, predictions."""

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torchvision.ops import box_convert


class Detr(nn.Module):
    """
    A detector that predicts a set of boxes, with detectron2's inputs and outputs.

    The images of a batch are put into the upper left corners of one canvas. A subclass says what
    it predicts on it (`predict`) and what it loses (`layer_losses`).
    """

    reduces_losses = True  # over all processes, within the forward pass

    def __init__(
        self,
        num_classes: int,
        *,
        input_format: str = "RGB",
        pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        pixel_std: Sequence[float] = (255.0, 255.0, 255.0),
        size_divisibility: int = 32,
        takes_mask: bool = False,
        multi_scale: Sequence[int] = (),
        log_layers: bool = False,
        test_score_thresh: float = 0.001,
        max_detections_per_image: int = 100,
    ):
        """
        Args:
            num_classes: of the data.
            input_format: BGR or RGB, the order of the input's channels.
            pixel_mean, pixel_std: of values 0 to 255, in that order.
            size_divisibility: the canvas's sides are multiples of it.
            takes_mask: whether the model is given a mask of the images' pixels on the canvas, and
                predicts boxes relative to the image; else they are relative to the canvas.
            multi_scale: the longer side of a training batch's canvas becomes one of these, at
                random; empty, or with `is_late` of the mapper: it stays as the mapper makes it.
            log_layers: log the losses of each decoder layer, not only their sum.
            test_score_thresh: boxes with a lower score are left out.
            max_detections_per_image: only the best ones are kept.
        """
        super().__init__()
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

    def predict(
        self, pixels: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            pixels: (N, 3, H, W), normalized.
            mask: (N, H, W), 1 where a pixel is an image's.

        Returns:
            Logits (N, queries, classes), or one more for "no object", and boxes (N, queries, 4) as
            (x, y, w, h), x and y of the center, from 0 to 1.
        """
        raise NotImplementedError

    def layer_losses(
        self, pixels: torch.Tensor, mask: torch.Tensor, labels: list[dict]
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            pixels, mask: as for `predict`.
            labels: `class_labels` (boxes,) and `boxes` (boxes, 4) of each image, as predicted.

        Returns:
            The losses by mmdetection's names for DETRs, weighted, so that their sum is trained:
            `loss_cls`, `loss_bbox` and so on of the last layer, `d0.loss_cls` of the first of the
            others, `enc_loss_cls` of the encoder's proposals, `dn_loss_cls` and `d0.dn_loss_cls`
            of the denoising queries.
        """
        raise NotImplementedError

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
            return self._instances(*self.predict(pixels, mask), sizes, batched_inputs)
        labels = [
            {
                "class_labels": x["instances"].gt_classes.to(self.device),
                "boxes": _relative(x["instances"].gt_boxes.tensor.to(self.device), size),
            }
            for x, size in zip(batched_inputs, sizes, strict=True)
        ]
        if self.multi_scale and not any(x.get("is_late") for x in batched_inputs):
            pixels, mask = self._rescaled(pixels, mask)
        parts = self.layer_losses(pixels, mask, labels)
        if self.log_layers:
            store_layers(parts)
        losses = by_kind(parts)
        if comm.get_world_size() > 1:
            losses["loss_cls"] = losses["loss_cls"] + 0 * self._one_of_each_parameter()
        return losses

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
        self,
        logits: torch.Tensor,
        boxes: torch.Tensor,
        sizes: list[tuple[int, int]],
        batched_inputs: list[dict],
    ) -> list[dict]:
        logits, boxes = logits.float(), boxes.float()
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
            corners = box_convert(box[index // self.num_classes], "cxcywh", "xyxy")
            found = Instances(original)
            found.pred_boxes = Boxes(corners * box.new_tensor([w, h, w, h]))
            found.pred_boxes.scale(original[1] / width, original[0] / height)
            found.pred_boxes.clip(original)
            found.scores = best
            found.pred_classes = index % self.num_classes
            results.append({"instances": found[found.pred_boxes.nonempty()]})
        return results


def by_kind(parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    The losses of the last layer as they are, and sums of all others.

    Returns:
        `loss_cls`, `loss_bbox` and so on, `loss_aux` of the layers before, `loss_enc`, `loss_dn`.
    """
    losses = {}
    for name, loss in parts.items():
        if name.startswith("enc_"):
            name = "loss_enc"
        elif "dn_" in name:
            name = "loss_dn"
        elif name.startswith("d"):
            name = "loss_aux"
        losses[name] = losses[name] + loss if name in losses else loss
    return losses


def store_layers(parts: dict[str, torch.Tensor]) -> None:
    """Log the losses that `by_kind` sums."""
    single = {name: loss for name, loss in parts.items() if not name.startswith("loss_")}
    if single:
        values = torch.stack([loss.detach() for loss in single.values()]).tolist()
        get_event_storage().put_scalars(**dict(zip(single, values, strict=True)))


def is_distributed_training() -> bool:
    """Whether there are as many batches on other processes, so that losses can wait for them."""
    return torch.distributed.is_initialized() and torch.is_grad_enabled()


def mean_boxes(labels: list[dict], device: torch.device) -> float:
    """The boxes of a process's batch that losses are divided by: at least 1; in training a mean."""
    total = float(sum(len(label["boxes"]) for label in labels))
    if is_distributed_training():
        boxes = torch.tensor(total, device=device)
        torch.distributed.all_reduce(boxes)
        total = boxes.item() / torch.distributed.get_world_size()
    return max(total, 1.0)


def _relative(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(x1, y1, x2, y2) in pixels as (x, y, w, h) in parts of an image, x and y of the center."""
    h, w = size
    return box_convert(boxes / boxes.new_tensor([w, h, w, h]), "xyxy", "cxcywh")
