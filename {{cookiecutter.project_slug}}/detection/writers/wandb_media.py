"""Pictures with boxes, as W&B shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detection.utils.drawing import Box

if TYPE_CHECKING:
    import wandb


def boxes_image(
    pixels: np.ndarray,
    size: tuple[float, float],
    truth: list[Box],
    predictions: list[Box],
    class_names: list[str],
    caption: str,
) -> wandb.Image:
    """
    A picture with ground truth and predictions, to be switched by class and score.

    Args:
        pixels: uint8 (H, W, 3) RGB.
        size: (width, height) of the image in whose pixels the boxes are.
        truth, predictions: what is shown.
        class_names: by the boxes' labels; the same for all pictures under one name.
        caption: below the picture.
    """
    import wandb  # where a run is open

    width, height = size

    def box_data(box: Box) -> dict:
        x1, y1, x2, y2 = box.corners
        name = class_names[box.label]
        data = {
            "position": {
                "minX": float(x1 / width),
                "maxX": float(x2 / width),
                "minY": float(y1 / height),
                "maxY": float(y2 / height),
            },
            "class_id": box.label,
            "box_caption": name if box.score is None else f"{name} {box.score:.2f}",
        }
        return data if box.score is None else {**data, "scores": {"score": box.score}}

    class_labels = dict(enumerate(class_names))
    boxes = {"ground_truth": truth, "predictions": predictions}
    return wandb.Image(
        pixels,
        caption=caption,
        file_type="jpg",
        boxes={
            name: {"box_data": [box_data(b) for b in found], "class_labels": class_labels}
            for name, found in boxes.items()
        },
    )
