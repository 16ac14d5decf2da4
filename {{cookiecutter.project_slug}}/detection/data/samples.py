"""A training image before it becomes a model input: pixels, boxes, classes and masks."""

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

import cv2
import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.structures import BitMasks, BoxMode, PolygonMasks, polygons_to_bitmask
from pycocotools import mask as mask_util

from detection.utils.errors import UserError

# of one object: polygons (K, 2) of pixel coordinates, or a bitmap uint8 (H, W)
Mask = list[np.ndarray] | np.ndarray


def require_masks(images: list[dict], json_file: str) -> None:
    """
    Raises:
        UserError: in detectron2's data set dicts, read from that file, an annotation has no mask,
            or all masks are unusable, that is, empty lists.
    """
    objects = [(i, a) for i in images for a in i["annotations"] if not a["iscrowd"]]
    lacking = [image["file_name"] for image, a in objects if "segmentation" not in a]
    if lacking:
        raise UserError(
            f"{json_file}: {len(lacking)} of {len(objects)} annotations have no mask "
            f"(segmentation), the first in {lacking[0]}; train a model of boxes, such as "
            "configs/faster_rcnn_R_50_FPN.py, or leave those annotations out"
        )
    if objects and not any(a["segmentation"] for _, a in objects):
        raise UserError(
            f"{json_file}: none of its {len(objects)} annotations has a polygon of three points or "
            "more; draw masks, or train a model of boxes, such as configs/faster_rcnn_R_50_FPN.py"
        )


def corners(annotations: Sequence[dict]) -> np.ndarray:
    """The boxes of detectron2's annotations: float64 (N, 4), corners (x1, y1, x2, y2)."""
    boxes = [_corners(a["bbox"], a["bbox_mode"]) for a in annotations]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _corners(box: Sequence[float], mode: BoxMode) -> Sequence[float]:
    if mode == BoxMode.XYWH_ABS:  # the most frequent; `convert` would make a tensor of it
        x, y, width, height = box
        return x, y, x + width, y + height
    return BoxMode.convert(list(box), mode, BoxMode.XYXY_ABS)


def read_mask(segmentation: list | dict) -> Mask:
    """The mask of detectron2's polygons or run lengths."""
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation)
    return [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation]


def transformed(mask: Mask, transforms: T.Transform) -> Mask:
    """Applies the image's transforms to a mask; parts outside the image are kept."""
    if isinstance(mask, np.ndarray):
        return transforms.apply_segmentation(mask)
    # `apply_polygons` would need Shapely for crops, and the mask head only looks into the box
    return [transforms.apply_coords(polygon.copy()) for polygon in mask]


def as_gt_masks(masks: Sequence[Mask], height: int, width: int) -> PolygonMasks | BitMasks:
    """The masks as detectron2's `gt_masks`: polygons if all of them are."""
    if not any(isinstance(mask, np.ndarray) for mask in masks):
        return PolygonMasks([[polygon.reshape(-1) for polygon in mask] for mask in masks])
    return BitMasks(torch.from_numpy(as_bitmaps(masks, height, width).astype(bool)))


def as_bitmaps(masks: Sequence[Mask], height: int, width: int) -> np.ndarray:
    """Masks as bitmaps, uint8 (N, H, W), of an image of that size in pixels."""
    return np.stack(
        [
            mask
            if isinstance(mask, np.ndarray)
            else polygons_to_bitmask([polygon.reshape(-1) for polygon in mask], height, width)
            for mask in masks
        ]
    ).astype(np.uint8)


class Sample(NamedTuple):
    """
    Attributes:
        image: uint8 (H, W, 3) RGB.
        boxes: float64 (N, 4), corners (x1, y1, x2, y2) in pixels of `image`.
        labels: int64 (N,), positions in the data set's classes.
        masks: N of them; None: the model needs none.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: list[Mask] | None = None

    def moved(
        self, image: np.ndarray, origin: tuple[float, float], factors: tuple[float, float] = (1, 1)
    ) -> "Sample":
        """
        The boxes and masks as they are in another image.

        Args:
            image: the other one.
            origin: the point (x, y) of this image that is the other one's upper left corner.
            factors: how much longer lengths along x and y are in the other one.
        """
        boxes = (self.boxes - np.tile(origin, 2)) * np.tile(factors, 2)
        masks = self.masks
        if masks is not None:
            masks = [_moved(mask, image.shape[:2], origin, factors) for mask in masks]
        return Sample(image, boxes, self.labels, masks)

    def cropped(self, left: int, top: int, width: int, height: int) -> "Sample":
        """A window of the image, with all boxes and masks, which may reach beyond it."""
        return self.moved(self.image[top : top + height, left : left + width], (left, top))

    def clipped(self, min_area: float, min_visibility: float) -> "Sample":
        """
        Clip the boxes to the image and drop those that lose too much.

        Args:
            min_area: the least area of a box that is kept, in square pixels.
            min_visibility: the least part of its area that must remain, from 0 to 1.
        """
        height, width = self.image.shape[:2]
        boxes = np.clip(self.boxes, 0, (width, height, width, height))
        sides, whole = boxes[:, 2:] - boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]
        area = sides.prod(axis=1)
        # shorter sides would vanish when the model rounds them to float32
        keep = (sides > 1e-4).all(axis=1) & (area >= min_area)
        keep &= area >= min_visibility * whole.prod(axis=1)
        masks = None if self.masks is None else list(compress(self.masks, keep))
        return Sample(self.image, boxes[keep], self.labels[keep], masks)


def joined(image: np.ndarray, parts: Sequence[Sample]) -> Sample:
    """One sample of the boxes and masks of all parts, which must be those in `image`."""
    has_masks = all(part.masks is not None for part in parts)
    return Sample(
        image,
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.labels for part in parts]),
        [mask for part in parts for mask in part.masks] if has_masks else None,
    )


def _moved(
    mask: Mask, size: tuple[int, int], origin: tuple[float, float], factors: tuple[float, float]
) -> Mask:
    if not isinstance(mask, np.ndarray):
        return [(polygon - origin) * factors for polygon in mask]
    # OpenCV counts from the centre of the first pixel, not from its corner
    shift = (0.5 - np.array(origin)) * factors - 0.5
    matrix = np.array([[factors[0], 0, shift[0]], [0, factors[1], shift[1]]])
    return cv2.warpAffine(mask, matrix, size[::-1], flags=cv2.INTER_NEAREST)


def hull(boxes: np.ndarray) -> np.ndarray:
    """The box (4,) around boxes (N, 4)."""
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
