"""DINO's losses: predictions are matched to objects one to one, and compared."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import (
    box_convert,
    generalized_box_iou,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from detection.modeling.detr import mean_boxes
from detection.modeling.dino.transformer import Predictions

Pairs = tuple[Tensor, Tensor, Tensor]  # the image, the query, the object among those of all images


class Criterion:
    """Focal, L1 and GIoU losses of all layers, of the encoder and of the denoising queries."""

    def __init__(
        self,
        class_weight: float = 1.0,
        box_weight: float = 5.0,
        iou_weight: float = 2.0,
        class_cost: float = 2.0,
        box_cost: float = 5.0,
        iou_cost: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ):
        """
        Args:
            class_weight, box_weight, iou_weight: of the losses.
            class_cost, box_cost, iou_cost: weights of the same when objects are matched.
            alpha, gamma: of the focal loss (Lin et al., arXiv:1708.02002).
        """
        self._weights = {"cls": class_weight, "bbox": box_weight, "iou": iou_weight}
        self._costs = (class_cost, box_cost, iou_cost)
        self._focal = {"alpha": alpha, "gamma": gamma}

    def __call__(self, predictions: Predictions, labels: list[dict]) -> dict[str, Tensor]:
        """
        Args:
            predictions: of the transformer.
            labels: `class_labels` (boxes,) and `boxes` (boxes, 4) of each image.

        Returns:
            Weighted losses, named as by `Detr.layer_losses`.

        Raises:
            FloatingPointError: the predictions are not finite.
        """
        classes = torch.cat([label["class_labels"] for label in labels])
        boxes = torch.cat([label["boxes"] for label in labels])
        count = mean_boxes(labels, boxes.device)
        losses = {}

        def add(prefix: str, layer: tuple[Tensor, Tensor], pairs: Pairs, count: float) -> None:
            for kind, loss in self._losses(*layer, classes, boxes, pairs).items():
                losses[f"{prefix}loss_{kind}"] = self._weights[kind] * loss / count

        # costs and IoUs need more digits than mixed precision has
        with torch.autocast(boxes.device.type, enabled=False):
            noised = predictions.noised
            last = len(predictions.layers) - 1
            for number, layer in enumerate(predictions.layers):
                prefix = "" if number == last else f"d{number}."
                add(prefix, layer, self.match(*layer, labels), count)
                if noised is not None:
                    denoised = predictions.denoised[number]
                    add(f"{prefix}dn_", denoised, noised.pairs, count * noised.num_groups)
            add("enc_", predictions.proposed, self.match(*predictions.proposed, labels), count)
        return losses

    @torch.no_grad()
    def match(self, logits: Tensor, boxes: Tensor, labels: list[dict]) -> Pairs:
        """The pairs of the least cost, as many as there are objects, or queries if these are fewer.

        Raises:
            FloatingPointError: the predictions are not finite.
        """
        costs = [
            self._cost(*image, label).cpu()
            for *image, label in zip(logits, boxes, labels, strict=True)
        ]
        if not all(cost.isfinite().all() for cost in costs):
            raise FloatingPointError("the predictions are not finite")
        found = [linear_sum_assignment(cost) for cost in costs]
        first = 0  # the number of an image's first object
        parts = []
        for number, (queries, objects) in enumerate(found):
            image = torch.full((len(queries),), number)
            parts.append((image, torch.from_numpy(queries), torch.from_numpy(objects) + first))
            first += costs[number].shape[1]
        return tuple(torch.cat(part).to(boxes.device) for part in zip(*parts, strict=True))

    def _cost(self, logits: Tensor, boxes: Tensor, label: dict) -> Tensor:
        """Of each query (rows) with each object (columns) of an image."""
        alpha, gamma = self._focal["alpha"], self._focal["gamma"]
        p = logits[:, label["class_labels"]].float().sigmoid()
        present = alpha * (1 - p) ** gamma * -(p + 1e-8).log()
        absent = (1 - alpha) * p**gamma * -(1 - p + 1e-8).log()
        distance = torch.cdist(boxes.float(), label["boxes"], p=1)
        pair = [box_convert(b.float(), "cxcywh", "xyxy") for b in (boxes, label["boxes"])]
        class_cost, box_cost, iou_cost = self._costs
        return (
            class_cost * (present - absent)
            + box_cost * distance
            - iou_cost * generalized_box_iou(*pair)
        )

    def _losses(
        self, logits: Tensor, boxes: Tensor, classes: Tensor, truth: Tensor, pairs: Pairs
    ) -> dict[str, Tensor]:
        """Summed over queries."""
        image, query, number = pairs
        wanted = torch.zeros_like(logits, dtype=torch.float)
        wanted[image, query, classes[number]] = 1
        found, truth = boxes[image, query].float(), truth[number]
        corners = [box_convert(b, "cxcywh", "xyxy") for b in (found, truth)]
        return {
            "cls": sigmoid_focal_loss(logits.float(), wanted, reduction="sum", **self._focal),
            "bbox": (found - truth).abs().sum(),
            "iou": generalized_box_iou_loss(*corners, reduction="sum"),
        }
