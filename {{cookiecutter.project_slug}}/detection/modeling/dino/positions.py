"""Where pixels are on an image that fills a part of a canvas, and sines of positions."""

import math

import torch
from torch import Tensor


def sines(values: Tensor, width: int, temperature: float) -> Tensor:
    """`width` sines and cosines, alternating, of each of some numbers from 0 to 1."""
    exponents = 2 * torch.div(torch.arange(width, device=values.device), 2, rounding_mode="floor")
    phases = 2 * math.pi * values.float()[..., None] / temperature ** (exponents / width)
    return torch.stack([phases[..., 0::2].sin(), phases[..., 1::2].cos()], -1).flatten(-2)


def image_part(padding: Tensor) -> Tensor:
    """
    The parts of a canvas's width and height that an image fills.

    Args:
        padding: (N, height, width), True where a pixel is not an image's.

    Returns:
        (N, 2) as (x, y).
    """
    return torch.stack([(~padding).any(dim).float().mean(1) for dim in (1, 2)], -1)


def pixel_centers(padding: Tensor) -> Tensor:
    """(N, height × width, 2): the centers of pixels as (x, y), from 0 to 1 on the image."""
    height, width = padding.shape[1:]
    x, y = (torch.arange(size, device=padding.device) + 0.5 for size in (width, height))
    centers = torch.stack(torch.meshgrid(x / width, y / height, indexing="xy"), -1)
    return centers.flatten(0, 1) / image_part(padding)[:, None]


def pixel_sines(padding: Tensor, dim: int) -> Tensor:
    """(N, height × width, dim): sines of where a pixel is on its image."""
    counts = [(~padding).cumsum(axis).float() for axis in (1, 2)]
    y, x = (count / (count.amax((1, 2), keepdim=True) + 1e-6) for count in counts)
    return sines(torch.stack([y, x], -1), dim // 2, temperature=20).flatten(1, 2).flatten(-2)
