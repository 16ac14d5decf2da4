#!/usr/bin/env python
"""
Draw augmented training images and their boxes, as the model of a config sees them:

    python tools/preview_augmentations.py --config-file configs/faster_rcnn_R_50_FPN.py
    python tools/preview_augmentations.py --config-file … --count 24 dataloader.train.seed=1

The images are the first ones of a training; they come from the config's own training loader.
"""

import itertools
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.utils.arguments import find_config
from detection.utils.cli import add_config_file, command_parser, tool
from detection.utils.drawing import Box, BoxPainter
from detection.utils.errors import UserError
from detection.utils.files import write_atomically
from detection.utils.paths import in_project

GAP = 4  # pixels between two images


def picture(samples: list[dict], painter: BoxPainter, image_format: str, cell: int) -> np.ndarray:
    """
    A grid of model inputs.

    Args:
        samples: with `image`, uint8 (3, H, W), and `instances` with `gt_boxes` and `gt_classes`.
        painter: draws the boxes.
        image_format: of `image`, BGR or RGB.
        cell: the longer side of an image in the picture, in pixels.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    columns = max(1, round(len(samples) ** 0.5 * 1.2))
    rows = -(-len(samples) // columns)
    grid = np.full((rows * (cell + GAP) - GAP, columns * (cell + GAP) - GAP, 3), 255, np.uint8)
    for k, sample in enumerate(samples):
        row, column = divmod(k, columns)
        drawn = _drawn(sample, painter, image_format, cell)
        top, left = row * (cell + GAP), column * (cell + GAP)
        grid[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return grid


def _drawn(sample: dict, painter: BoxPainter, image_format: str, cell: int) -> np.ndarray:
    pixels = sample["image"].numpy().transpose(1, 2, 0)
    pixels = pixels[:, :, ::-1] if image_format == "BGR" else pixels
    height, width = pixels.shape[:2]
    scale = cell / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    pixels = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=way)
    instances = sample["instances"]
    corners = instances.gt_boxes.tensor.numpy() * ([size[0] / width, size[1] / height] * 2)
    labels = instances.gt_classes.tolist()
    return painter.draw(pixels, [Box(k, tuple(c)) for k, c in zip(labels, corners, strict=True)])


def preview(config_file: str, overrides: list[str], count: int, output: str, cell: int) -> None:
    """
    Write the picture to `output`; UserError if the config, its overrides or the data are unusable.
    """
    find_config(config_file)
    # slow to import
    from detectron2.config import instantiate
    from detectron2.data import MetadataCatalog

    from detection.config import load_config

    cfg = load_config(config_file, overrides)
    cfg.dataloader.train.num_workers = 0  # starting a process takes longer than loading a few
    loader = instantiate(cfg.dataloader.train)
    samples = list(itertools.islice(itertools.chain.from_iterable(loader), count))
    name = instantiate(cfg.dataloader.evaluator.dataset_name)
    painter = BoxPainter(MetadataCatalog.get(name).thing_classes)
    grid = picture(samples, painter, cfg.dataloader.train.mapper.image_format, cell)
    png = cv2.imencode(".png", grid[:, :, ::-1])[1].tobytes()
    write_atomically(in_project(output), png, output)


@tool
def main(argv: list[str] | None = None) -> None:
    """Read the command line, draw, and say where the picture is."""
    parser = command_parser(__doc__)
    add_config_file(parser, "whose training images to draw")
    parser.add_argument("--count", type=int, default=12, help="images (default: %(default)s)")
    parser.add_argument(
        "--cell", type=int, default=400, help="pixels of its longer side (default: %(default)s)"
    )
    parser.add_argument("--output", default="output/preview.png", help="default: %(default)s")
    parser.add_argument("overrides", nargs="*", help="key=value, as for train_net.py")
    args = parser.parse_intermixed_args(argv)
    if not 1 <= args.count <= 200:
        raise UserError(f"--count must be between 1 and 200, not {args.count}")
    if not 32 <= args.cell <= 2000:
        raise UserError(f"--cell must be between 32 and 2000, not {args.cell}")
    preview(args.config_file, args.overrides, args.count, args.output, args.cell)
    print(args.output)


if __name__ == "__main__":
    sys.exit(main())
