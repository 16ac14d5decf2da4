"""Applies torchvision.transforms.v2 to images, boxes and masks; adds faster versions of some."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import cv2
import numpy as np
import simplejpeg
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as F
from torchvision import tv_tensors

from detection.data.samples import Mask, Sample, as_bitmaps
from detection.utils.errors import UserError

LUMA = np.array([0.2989, 0.587, 0.114])  # of red, green and blue, as torchvision weighs them


class Pipeline:
    """Applies torchvision's transforms to an image, its boxes and its masks."""

    def __init__(self, transforms: Sequence, min_area: float, min_visibility: float):
        """
        Args:
            transforms: of torchvision.transforms.v2, applied in this order; none of them needs to
                clip or drop boxes.
            min_area: boxes that are left with fewer square pixels are dropped.
            min_visibility: boxes of which a smaller part is left, from 0 to 1, are dropped.
        """
        self._compose = T.Compose(list(transforms))
        self._limits = {"min_area": min_area, "min_visibility": min_visibility}

    def __call__(self, sample: Sample) -> Sample:
        """
        Transform a sample, with random numbers of PyTorch's global generator.

        Raises:
            UserError: the transforms do not return a colour image of 8 bits.
        """
        size = sample.image.shape[:2]
        inputs = {
            "image": _as_image(sample.image),
            # unclipped, so that `clipped` below knows how much of them is visible
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(sample.boxes), format="XYXY", canvas_size=size, clamping_mode=None
            ),
            "labels": torch.arange(len(sample.boxes)),  # T.SanitizeBoundingBoxes drops some
        }
        if sample.masks:
            inputs["masks"] = _as_tensor(sample.masks, size)
        outputs = self._compose(inputs)
        image, kept = outputs["image"], outputs["labels"].tolist()
        if image.dtype != torch.uint8 or image.shape[0] != 3:
            raise UserError(
                f"dataloader.train.mapper.transforms return {image.shape[0]} channel(s) of "
                f"{image.dtype}, and the model expects 3 of torch.uint8, 0 to 255: leave out "
                "ToDtype, Normalize and the like"
            )
        masks = sample.masks
        if masks:
            masks = _as_masks(outputs["masks"], masks, kept)
        boxes = outputs["boxes"].numpy().astype(np.float64)
        return Sample(_pixels(image), boxes, sample.labels[kept], masks).clipped(**self._limits)


class _PixelTransform(T.Transform):
    """Transforms an image's pixels (H, W, 3) by `_changed`; boxes and masks stay."""

    def transform(self, inpt: torch.Tensor, params: dict) -> torch.Tensor:
        """See `torchvision.transforms.v2.Transform`."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        return _as_image(self._changed(_pixels(inpt), params))


class ColorJitter(_PixelTransform, T.ColorJitter):
    """
    torchvision's, with the same arguments, as a single product with a matrix, 50 times as fast.

    Values are clipped to 0–255 once, not after each step, and hue turns around the axis of greys
    instead of changing HSV's H.
    """

    def _changed(self, pixels: np.ndarray, params: dict) -> np.ndarray:
        matrix = np.eye(3, 4)  # from (red, green, blue, 1)
        for step in params["fn_idx"].tolist():
            name = ("brightness", "contrast", "saturation", "hue")[step]
            factor = params[f"{name}_factor"]
            if factor is None:
                continue
            if name == "brightness":
                matrix *= factor
            elif name == "contrast":  # around the image's mean grey
                grey = LUMA @ matrix @ (*cv2.mean(pixels)[:3], 1)
                matrix *= factor
                matrix[:, 3] += (1 - factor) * grey
            elif name == "saturation":
                matrix = (factor * np.eye(3) + (1 - factor) * LUMA) @ matrix
            else:
                matrix = _hue_rotation(2 * math.pi * factor) @ matrix
        return cv2.transform(pixels, matrix)


class GaussianBlur(_PixelTransform, T.GaussianBlur):
    """torchvision's, with the same arguments, by OpenCV."""

    def _changed(self, pixels: np.ndarray, params: dict) -> np.ndarray:
        sigma_x, sigma_y = params["sigma"]
        size = tuple(self.kernel_size)
        return cv2.GaussianBlur(pixels, size, sigma_x, sigmaY=sigma_y)


class GaussianNoise(_PixelTransform):
    """Adds noise to each channel of each pixel."""

    def __init__(self, sigma: tuple[float, float]):
        """
        Args:
            sigma: from, to; the standard deviation, as a part of the range of values.
        """
        super().__init__()
        self.sigma = tuple(sigma)

    def make_params(self, flat_inputs: list) -> dict:
        """See `torchvision.transforms.v2.Transform`."""
        sigma = torch.empty(1).uniform_(*self.sigma).item()
        return {"sigma": sigma, "seed": torch.randint(2**31, ()).item()}

    def _changed(self, pixels: np.ndarray, params: dict) -> np.ndarray:
        noise = np.empty(pixels.shape, np.int16)
        cv2.setRNGSeed(params["seed"])
        cv2.randn(noise, 0, 255 * params["sigma"])
        return cv2.add(pixels, noise, dtype=cv2.CV_8U)


class JPEG(_PixelTransform, T.JPEG):
    """torchvision's, with the same arguments, by simplejpeg: its codecs are deprecated."""

    def _changed(self, pixels: np.ndarray, params: dict) -> np.ndarray:
        file = simplejpeg.encode_jpeg(pixels, params["quality"], "RGB", "420")
        return simplejpeg.decode_jpeg(file, "RGB")


class BoxSafeCrop(T.Transform):
    """A random crop with all boxes in it; an image without boxes stays whole."""

    def make_params(self, flat_inputs: list) -> dict:
        """See `torchvision.transforms.v2.Transform`."""
        height, width = T.query_size(flat_inputs)
        boxes = T.get_bounding_boxes(flat_inputs).numpy()
        boxes = np.clip(boxes, 0, (width, height, width, height))
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]  # the others are out of sight
        if not len(boxes):
            return {"top": 0, "left": 0, "height": height, "width": width}
        left, top = (torch.randint(int(v) + 1, ()).item() for v in boxes[:, :2].min(axis=0))
        right, bottom = (
            torch.randint(math.ceil(v), side + 1, ()).item()
            for v, side in zip(boxes[:, 2:].max(axis=0), (width, height), strict=True)
        )
        return {"top": top, "left": left, "height": bottom - top, "width": right - left}

    def transform(self, inpt: torch.Tensor, params: dict) -> torch.Tensor:
        """See `torchvision.transforms.v2.Transform`."""
        return self._call_kernel(F.crop, inpt, **params)


class Points(tv_tensors.TVTensor):
    """
    Points (N, 2) of polygons, x and y in pixels, in an image of `canvas_size` (height, width).

    Unlike torchvision's KeyPoints, those that leave the image are not moved to its edge.
    """

    @classmethod
    def of(cls, points: torch.Tensor, canvas_size: tuple[int, int]) -> "Points":
        """Points in an image of that size."""
        made = points.as_subclass(cls)
        made.canvas_size = canvas_size
        return made


def _move(functional: Callable, points: Points, *args, **kwargs) -> Points:
    """Points moved as boxes without an area."""
    points, size = points.as_subclass(torch.Tensor), points.canvas_size
    boxes = tv_tensors.BoundingBoxes(
        points.repeat(1, 2), format="XYXY", canvas_size=size, clamping_mode=None
    )
    moved = functional(boxes, *args, **kwargs)
    return Points.of(moved.as_subclass(torch.Tensor)[:, :2], moved.canvas_size)


for _functional in (
    *(F.horizontal_flip, F.vertical_flip, F.rotate, F.affine, F.perspective, F.elastic),
    *(F.resize, F.crop, F.center_crop, F.resized_crop, F.pad),
):
    F.register_kernel(_functional, Points)(partial(_move, _functional))


def _as_tensor(masks: Sequence[Mask], size: tuple[int, int]) -> Points | tv_tensors.Mask:
    """All polygons' points, or bitmaps (N, H, W) if one of the masks is a bitmap."""
    if any(isinstance(mask, np.ndarray) for mask in masks):
        return tv_tensors.Mask(torch.from_numpy(as_bitmaps(masks, *size)))
    points = np.concatenate([polygon for mask in masks for polygon in mask])
    return Points.of(torch.from_numpy(points), size)


def _as_masks(tensor: torch.Tensor, before: Sequence[Mask], kept: Sequence[int]) -> list[Mask]:
    """The reverse of `_as_tensor`, for the masks of the boxes that are kept."""
    values = tensor.numpy()
    if isinstance(tensor, tv_tensors.Mask):  # T.SanitizeBoundingBoxes has dropped the others
        return list(values)
    polygons = [polygon for mask in before for polygon in mask]
    polygons = np.split(values, np.cumsum([len(polygon) for polygon in polygons])[:-1])
    ends = np.cumsum([0, *(len(mask) for mask in before)])
    masks = [polygons[start:end] for start, end in pairwise(ends)]
    return [masks[k] for k in kept]


def _as_image(pixels: np.ndarray) -> tv_tensors.Image:
    """Pixels (H, W, 3) as an image (3, H, W) in the same memory."""
    return tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1))


def _pixels(image: torch.Tensor) -> np.ndarray:
    """The reverse of `_as_image`: contiguous."""
    pixels = image.as_subclass(torch.Tensor).permute(1, 2, 0).numpy()
    turned = pixels.transpose(1, 0, 2)
    # after a quarter turn, of which OpenCV makes a copy in a fraction of NumPy's time
    return cv2.transpose(turned) if turned.flags.c_contiguous else np.ascontiguousarray(pixels)


def _hue_rotation(angle: float) -> np.ndarray:
    """The matrix (3, 3) that turns colours around the axis of greys."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) / 3
