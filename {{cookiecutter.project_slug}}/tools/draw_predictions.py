#!/usr/bin/env python
"""
Draw predictions next to the ground truth: a picture that shows at a glance what a model does.

    python tools/draw_predictions.py datasets/toy/val.json datasets/toy/images \\
        output/inference/coco_instances_results.json

Each row is one image, ground truth on the left, predictions on the right. The images are spread
evenly over the annotation file: the same call shows the same images for every model.
"""

import os
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.data.coco import read_coco, validate
from detection.data.results import read_results
from detection.utils.cli import command_parser, tool, unit_interval
from detection.utils.drawing import Box, BoxPainter
from detection.utils.errors import UserError
from detection.utils.files import refuse_to_overwrite, write_atomically
from detection.utils.images import read_image

WIDTH = 500  # pixels of each image in the picture


def draw(coco: dict, results: list[dict], image_root: str, count: int, title: str) -> np.ndarray:
    """
    Draw images with their ground truth, and beside it their predictions.

    Args:
        coco: a COCO json, with annotations or without.
        results: COCO results on it, the best on top.
        image_root: what its `file_name`s are relative to.
        count: how many images.
        title: over the predictions.

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        UserError: an image cannot be read.
    """
    names = {c["id"]: c["name"] for c in sorted(coco["categories"], key=lambda c: c["id"])}
    positions = np.linspace(0, len(coco["images"]) - 1, min(count, len(coco["images"])))
    images = [coco["images"][k] for k in positions.round().astype(int)]
    painter = BoxPainter(list(names.values()), [image["file_name"] for image in images])
    if painter.numbered:
        shown = ", ".join(f"#{k} {name}" for k, name in painter.numbered.items())
        print(f"no installed font can write these names (a CJK font would): {shown}")
    labels = {id_: k for k, id_ in enumerate(names)}
    truth, predictions = (
        _boxes(records, labels) for records in (coco.get("annotations") or [], results)
    )
    rows = []
    for image in images:
        pixels = read_image(os.path.join(image_root, image["file_name"]))
        scale = WIDTH / pixels.shape[1]
        size = WIDTH, max(1, round(pixels.shape[0] * scale))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        halves = {
            f"{image['file_name']}: ground truth": truth[image["id"]],
            title: predictions[image["id"]],
        }
        scaled = {
            over: [b._replace(corners=tuple(v * scale for v in b.corners)) for b in boxes]
            for over, boxes in halves.items()
        }
        rows.append(painter.side_by_side(cv2.resize(pixels, size, interpolation=way), scaled))
    return np.vstack(rows)


def _boxes(records: list[dict], labels: dict[int, int]) -> dict[int, list[Box]]:
    """{image id: boxes in pixels}."""
    boxes = defaultdict(list)
    for record in records:
        x, y, w, h = record["bbox"]
        box = Box(labels[record["category_id"]], (x, y, x + w, y + h), record.get("score"))
        boxes[record["image_id"]].append(box)
    return boxes


@tool
def main(argv: list[str] | None = None) -> None:
    """Draw the picture, and say where it is."""
    parser = command_parser(__doc__)
    parser.add_argument("annotations", help="COCO annotation file")
    parser.add_argument("image_root", help="folder that its file names are relative to")
    parser.add_argument("results", help="COCO results file")
    parser.add_argument("--output", default="output/predictions.png", help="default: %(default)s")
    parser.add_argument("--count", type=int, default=6, help="images (default: %(default)s)")
    parser.add_argument(
        "--score", type=unit_interval, default=0.3, help="the lowest shown (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if not 1 <= args.count <= 50:
        raise UserError(f"--count must be between 1 and 50, not {args.count}")
    refuse_to_overwrite(args.output, args.annotations, args.results)
    coco = read_coco(args.annotations)
    validate(coco, args.annotations, ("id", "file_name"), ("image_id", "category_id", "bbox"))
    category_ids = {category["id"] for category in coco["categories"]}
    results = read_results(args.results, args.annotations, coco, category_ids)
    results = sorted((r for r in results if r["score"] >= args.score), key=lambda r: r["score"])
    title = f"predictions, score {args.score:g} and up"
    picture = draw(coco, results, args.image_root, args.count, title)
    write_atomically(args.output, cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes())
    print(args.output)


if __name__ == "__main__":
    sys.exit(main())
