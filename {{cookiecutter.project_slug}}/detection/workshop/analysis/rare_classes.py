"""What repeated images, class weights and copy-paste would do for each class, side by side."""

import json

import numpy as np

from detection.data.copy_paste import CopyPaste
from detection.workshop.analysis.dataset_statistics import RARE, Split, count_classes

HIGHEST_WEIGHT = 4.0  # more makes a training unsteady


def rare_class_section(class_names: list[str], split: Split) -> dict:
    """
    The template's `rare_rows`, a class each with the rarest first, and `rare_lines` to paste.

    The classes that fewer images show than the median class are repeated, by the square root of
    that ratio (Gupta et al., LVIS, arXiv:1908.03195). Weights are the square root of the ratio of
    boxes, up to HIGHEST_WEIGHT. Nothing is shown where no class is rare.
    """
    boxes, images = count_classes(split, len(class_names))
    shown = np.flatnonzero(images)
    if len(shown) < 2 or boxes[shown].max() < RARE * boxes[shown].min():
        return {"rare_rows": [], "rare_lines": []}
    threshold = float(f"{np.median(images[shown]) / len(split.file_names):.2g}")
    shares = images[shown] / len(split.file_names)
    repeats = np.maximum(1.0, np.sqrt(threshold / shares))
    weights = np.sqrt(np.median(boxes[shown]) / boxes[shown]).clip(1.0, HIGHEST_WEIGHT)
    paste = CopyPaste()
    chosen = images[shown] ** (1.0 - paste.balance)
    copies = len(split.file_names) * paste.p * np.mean(paste.count) * chosen / chosen.sum()
    rows = [
        {
            "name": class_names[shown[k]],
            "boxes": int(boxes[shown[k]]),
            "repeat": repeats[k],
            "weight": weights[k],
            "copies": copies[k],
        }
        for k in np.argsort(boxes[shown], kind="stable")
    ]
    raised = {row["name"]: round(row["weight"], 1) for row in rows if row["weight"] >= 1.05}
    lines = [
        f"dataloader.train.repeat_threshold = {threshold:g}",
        f"train.class_loss.weights = {json.dumps(raised, ensure_ascii=False)}",
        "dataloader.train.mapper.mixing = copy_paste  # from .common.augmentations",
    ]
    return {"rare_rows": rows, "rare_lines": [line for line in lines if "{}" not in line]}
