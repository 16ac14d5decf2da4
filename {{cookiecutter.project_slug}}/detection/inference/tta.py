"""Test-time augmentation for any detector: fuses the boxes of several views of an image."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data.transforms import ResizeTransform
from detectron2.structures import Boxes, Instances

from detection.inference.fusion import METHODS, fuse
from detection.utils.errors import UserError
from detection.utils.images import read_image


def with_tta(cfg, model: torch.nn.Module) -> torch.nn.Module:
    """Wrap the model in `cfg.tta.detector` if `cfg.tta.enabled`."""
    if not cfg.tta.enabled:
        return model
    cfg.tta.detector.model = model
    detector = instantiate(cfg.tta.detector)
    cfg.tta.detector.pop("model")
    return detector.eval()


class DetectorWithTTA(torch.nn.Module):
    """
    Detects in resized and flipped views of each image, and fuses their boxes.

    The model may be anything that takes detectron2's inputs and returns `instances` with boxes;
    it needs no ROI heads and no yacs config. Masks are not fused.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        scales: Sequence[float] = (1.0,),
        horizontal_flip: bool = True,
        vertical_flip: bool = False,
        image_format: str = "BGR",
        method: str = "wbf",
        iou_threshold: float = 0.55,
        max_per_image: int = 100,
        min_score: float = 0.0,
    ):
        """
        Args:
            model: the detector.
            scales: factors of the size that the mapper gives an image.
            horizontal_flip, vertical_flip: whether to add each view flipped.
            image_format: of the model's input, e.g. "BGR".
            method, iou_threshold: of the fusion, see detection/inference/fusion.py.
            max_per_image: boxes kept, the best ones.
            min_score: fused boxes below are dropped.

        Raises:
            UserError: no scale, a scale that is not positive, or an unknown method.
        """
        super().__init__()
        if not scales or not all(0 < scale < float("inf") for scale in scales):
            raise UserError(
                f"tta.detector.scales={list(scales)}: give numbers over 0, such as [1.0]"
            )
        if method not in METHODS:
            raise UserError(f"tta.detector.method={method}: there are {', '.join(METHODS)}")
        self.model = model
        self._scales = tuple(scales)
        self._flips = [()]  # dimensions of (C, H, W) to flip
        if horizontal_flip:
            self._flips.append((2,))
        if vertical_flip:
            self._flips += [(*flip, 1) for flip in self._flips]
        self._image_format = image_format
        self._fusion = {"method": method, "iou_threshold": iou_threshold}
        self._max_per_image = max_per_image
        self._min_score = min_score

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """
        Args:
            batched_inputs: detectron2's, with `image` (C, H, W) and, as its mapper leaves them,
                `file_name`, `height` and `width` of the original image; its pixels, RGB
                (H, W, 3), are `original` where they are not the whole file.

        Returns:
            [{"instances": Instances}], boxes as (x1, y1, x2, y2) in pixels of the original image.
        """
        return [{"instances": self._detect(image)} for image in batched_inputs]

    def _detect(self, image: dict) -> Instances:
        height = image.get("height", image["image"].shape[1])
        width = image.get("width", image["image"].shape[2])
        boxes, scores, labels = [], [], []
        for view in self._resized(image):
            # the flips of one size go through the model together
            views = [
                {"image": view.flip(flip), "height": height, "width": width} for flip in self._flips
            ]
            for flip, output in zip(self._flips, self.model(views), strict=True):
                found = output["instances"].to("cpu")
                corners = found.pred_boxes.tensor.numpy().copy()
                if 2 in flip:
                    corners[:, [0, 2]] = width - corners[:, [2, 0]]
                if 1 in flip:
                    corners[:, [1, 3]] = height - corners[:, [3, 1]]
                boxes.append(corners)
                scores.append(found.scores.numpy())
                labels.append(found.pred_classes.numpy())
        boxes, scores, labels = fuse(
            boxes, scores, labels, (width, height), max_boxes=self._max_per_image, **self._fusion
        )
        kept = scores >= self._min_score
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        return Instances(
            (height, width),
            pred_boxes=Boxes(torch.as_tensor(boxes, dtype=torch.float32)),
            scores=torch.as_tensor(scores, dtype=torch.float32),
            pred_classes=torch.as_tensor(labels),
        )

    def _resized(self, image: dict) -> list[torch.Tensor]:
        mapped = image["image"]
        original = None
        views = []
        for scale in self._scales:
            if scale == 1:
                views.append(mapped)
                continue
            if original is None:  # from the file: resized once, not twice
                original = image.get("original")  # of a tile
                if original is None:
                    original = read_image(image["file_name"])
                if self._image_format == "BGR":
                    original = original[:, :, ::-1]
            height, width = (max(1, round(scale * side)) for side in mapped.shape[1:])
            resize = ResizeTransform(*original.shape[:2], height, width)
            pixels = np.ascontiguousarray(resize.apply_image(original).transpose(2, 0, 1))
            views.append(torch.from_numpy(pixels).to(mapped.device))
        return views
