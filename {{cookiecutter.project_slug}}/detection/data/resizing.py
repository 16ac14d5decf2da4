"""Resizes images as detectron2 does, several times as fast."""

from collections.abc import Sequence

import detectron2.data.transforms as T
import numpy as np
import torch
from PIL import Image


class ResizeShortestEdge(T.ResizeShortestEdge):
    """detectron2's augmentation of the same name; `ResizeTransform` resizes the pixels."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The transform of an image (H, W, 3)."""
        transform = super().get_transform(image)
        if not isinstance(transform, T.ResizeTransform):
            return transform
        return ResizeTransform(
            transform.h, transform.w, transform.new_h, transform.new_w, transform.interp
        )


class ResizeTransform(T.ResizeTransform):
    """detectron2's transform of the same name; `resize` resizes the pixels."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize an image (H, W, C); detectron2 resizes all but uint8 with bilinear filtering."""
        interp = self.interp if interp is None else interp
        if interp != Image.BILINEAR or img.dtype != np.uint8 or img.ndim != 3:
            return super().apply_image(img, interp)
        return resize(img, self.new_h, self.new_w)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """
    Resize by PyTorch, whose vector code is faster than Pillow's, which detectron2 uses.

    Both apply the same antialiased triangle filter in fixed-point numbers. Pixels differ by at
    most two levels of 255, and most are equal.

    Args:
        image: uint8 (H, W, C).
        height, width: the new ones, in pixels.

    Returns:
        uint8 (height, width, C); the image itself if it has that size.
    """
    if image.shape[:2] == (height, width):
        return image
    planes = torch.from_numpy(np.ascontiguousarray(image)[None]).permute(0, 3, 1, 2)
    resized = torch.empty((1, height, width, image.shape[2]), dtype=torch.uint8)
    # called by torch.nn.functional.interpolate(antialias=True), which for a single image also makes
    # contiguous planes and so takes twice as long
    torch.ops.aten._upsample_bilinear2d_aa.out(
        planes, [height, width], False, None, None, out=resized.permute(0, 3, 1, 2)
    )
    return resized[0].numpy()


class ResizeSquare(T.Augmentation):
    """Resizes images to squares, as RT-DETR and its successors take them."""

    def __init__(self, short_edge_length: int | Sequence[int], letterbox: bool = False):
        """
        Args:
            short_edge_length: the square's side in pixels; of several, each image gets one at
                random.
            letterbox: keep the shape of an image: its longer side gets this length, and the model
                fills the rest of the square. False: images are stretched.
        """
        super().__init__()
        is_one = isinstance(short_edge_length, int)
        self.short_edge_length = [short_edge_length] if is_one else list(short_edge_length)
        self.letterbox = letterbox

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """A transform for an image (H, W, 3)."""
        height, width = image.shape[:2]
        sides = self.short_edge_length
        side = sides[0] if len(sides) == 1 else int(np.random.choice(sides))
        size = side, side
        if self.letterbox:
            factor = side / max(height, width)
            size = max(1, round(factor * height)), max(1, round(factor * width))
        return ResizeTransform(height, width, *size, Image.BILINEAR)
