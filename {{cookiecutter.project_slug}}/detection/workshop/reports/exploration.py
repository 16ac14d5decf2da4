"""The page of `make explore`: what templates/exploration.html.jinja shows."""

import numpy as np

from detection.workshop.analysis.anchors import Anchors, best_iou, shapes_of, suggest
from detection.workshop.analysis.dataset_statistics import (
    Split,
    box_ratios,
    box_sides,
    centre_map,
    co_occurrence,
    count_classes,
    share,
    what_stands_out,
)
from detection.workshop.reports.charts import heat_map, histogram

BAR = 120  # pixels: the longest bar of the table of classes
MOST_SIZES = 8  # rows of the table of image sizes
MOST_TOGETHER = 30  # classes in the matrix
# other anchors are named if of the boxes that have none they leave less than this part,
WORTHWHILE = 0.8
LEAST = 0.01  # and fewer by this share of all boxes
POWERS = tuple((p, f"{2**p:,}") for p in range(16))
RATIOS = tuple((np.log2(r), t) for r, t in ((1 / 8, "⅛"), (1 / 4, "¼"), (1 / 2, "½")))
RATIOS += tuple((np.log2(r), f"{r}") for r in (1, 2, 4, 8))


def overview(class_names: list[str], splits: list[Split]) -> dict:
    """Heads, sentences, classes, images and classes together: what needs no config, no image."""
    counts = [count_classes(split, len(class_names)) for split in splits]
    class_rows = []
    for label in np.argsort(-counts[0][0], kind="stable"):
        of_class = (splits[0].labels == label) & splits[0].has_area
        parts = [
            {
                "bar": round(BAR * boxes[label] / max(boxes.max(), 1)),
                "boxes": f"{boxes[label]:,}",
                "box_share": share(boxes[label], boxes.sum()),
                "images": f"{images[label]:,}",
                "image_share": share(images[label], len(split.file_names)),
            }
            for split, (boxes, images) in zip(splits, counts, strict=True)
        ]
        sides = box_sides(splits[0].boxes[of_class])
        side = f"{np.median(sides):.0f}" if of_class.any() else "–"
        class_rows.append(
            {"label": int(label), "name": class_names[label], "parts": parts, "side": side}
        )
    return {
        "splits": [
            {
                "name": s.name,
                "json_file": s.json_file,
                "images": f"{len(s.file_names):,}",
                "empty": f"{(s.counts == 0).sum():,}",
                "boxes": f"{len(s.boxes):,}",
                "per_image": f"{s.counts.mean():.1f}",
            }
            for s in splits
        ],
        "notes": what_stands_out(class_names, splits),
        "class_rows": class_rows,
        "image_charts": [_count_chart(splits), _place_chart(splits[0])],
        "image_sizes": _image_sizes(splits),
        "matrix": _matrix(class_names, splits[0]),
    }


def anchor_section(
    class_names: list[str], split: Split, anchors: Anchors | None, factors: np.ndarray, model: str
) -> dict:
    """
    Sizes and ratios of the boxes as the model sees them, against its anchors.

    Args:
        anchors: None for a model without any.
        factors: (I, 2), what the config resizes each image's width and height by.
        model: the config's file, to be named.
    """
    kept = split.has_area
    boxes, labels = split.boxes[kept] * np.tile(factors, 2)[split.owners[kept]], split.labels[kept]
    low, high = np.quantile(factors.mean(axis=1), (0, 1))
    by = f"{low:.2g}" if np.isclose(low, high, rtol=0.01) else f"{low:.2g} to {high:.2g}"
    lines = [f"Boxes as {model} sees them: its test resize multiplies widths and heights by {by}."]
    section = {"anchor_lines": lines, "anchor_rows": [], "thresholds": [], "suggestion": None}
    section["size_charts"] = _size_charts(boxes, anchors) if len(boxes) else []
    if anchors is None:
        lines.append("This model has no anchors, so there is nothing to fit them to.")
        return section
    if not len(boxes):
        return section
    shapes = boxes[:, 2:]
    ious, sides = best_iou(shapes, anchors.shapes), box_sides(boxes)
    thresholds = sorted({anchors.threshold, 0.5}, reverse=True)
    unfit = ious < anchors.threshold
    lines.append(
        f"{share(unfit.sum(), len(ious))} of the boxes ({unfit.sum():,}) fit no anchor: their best "
        f"IoU with any shape is under {anchors.threshold:g}, from which the model learns an object "
        "as found. "
        + (
            "The model still gives each of these its best anchor, one or a few for an object, and "
            "so learns them from less."
            if anchors.keeps_best
            else "The model never learns them."
        )
        + " A class far above the others is the one to look at."
    )
    for label in np.argsort(-np.bincount(labels, unfit, len(class_names)), kind="stable"):
        of_class = labels == label
        if of_class.any():
            parts = [(ious[of_class] < t).sum() for t in thresholds]
            section["anchor_rows"].append(
                {
                    "name": class_names[label],
                    "boxes": f"{of_class.sum():,}",
                    "side": f"{np.median(sides[of_class]):.0f}",
                    "iou": f"{np.median(ious[of_class]):.2f}",
                    "parts": [
                        {"count": f"{n:,}", "share": share(n, of_class.sum())} for n in parts
                    ],
                }
            )
    section["thresholds"] = [f"IoU {t:g}" for t in thresholds]
    sizes, ratios = suggest(anchors, shapes, thresholds)
    others = shapes_of(sizes, ratios)
    other_ious = best_iou(shapes, others)
    now, then = ([(i < t).mean() for t in thresholds] for i in (ious, other_ious))
    line = f"{len(others)} anchors that follow these boxes would leave out "
    line += f"{share((other_ious < anchors.threshold).mean(), 1)} of them"
    if anchors.threshold > 0.5:
        line += f", and {share(then[-1], 1)} rather than {share(now[-1], 1)} at IoU 0.5"
    overrides = []
    if any(b < WORTHWHILE * a and b < a - LEAST for a, b in zip(now, then, strict=True)):
        line += "; pretrained weights still fit. Whether AP gains, a training says:"
        overrides = [
            f"{anchors.node}.sizes={sizes}".replace(" ", ""),
            f"{anchors.node}.aspect_ratios=[{ratios}]".replace(" ", ""),
        ]
    else:
        line += ": these ones are about as good as that many can be."
    section["suggestion"] = {"line": line, "overrides": overrides}
    return section


def _count_chart(splits: list[Split]) -> dict:
    most = max(int(s.counts.max(initial=0)) for s in splits)
    width = max(1, -(-(most + 1) // 30))
    edges = np.arange(0, most + 1 + width, width)
    series = {s.name: np.histogram(s.counts, edges)[0] for s in splits}
    step = max(width, -(-most // 6))
    ticks = [(v + 0.5 if width == 1 else v, f"{v}") for v in range(0, most + 1, step)]
    middle = int(np.median(splits[0].counts))
    boxes = "box" if middle == 1 else "boxes"
    told = (
        f"Half of the images of {splits[0].name} have {middle} {boxes} or fewer, the fullest "
        f"{most}."
    )
    chart = histogram(told, edges, series, ticks, "boxes in an image", "images", unit="images")
    return {"title": "Boxes per image", "svg": chart, "caption": f"{told}{_key(splits)}"}


def _place_chart(split: Split) -> dict:
    grid = centre_map(split, 24)
    told = f"Centres of the boxes of {split.name} in their images."
    sides = grid.sum(axis=0), grid.sum(axis=1)
    middle = [share(s[8:16].sum(), s.sum()) for s in sides]
    told += (
        f" {middle[0]} are in the middle third from left to right, {middle[1]} from top to bottom."
    )
    ticks = [(0, "0"), (0.5, "½"), (1, "1")]
    flipped = [(0, "1"), (0.5, "½"), (1, "0")]  # rows run from the top
    chart = heat_map(
        told, grid[::-1], (0, 1, 0, 1), ticks, flipped, "part of the width", "part of the height"
    )
    return {"title": "Where boxes lie", "svg": chart, "caption": told}


def _size_charts(boxes: np.ndarray, anchors: Anchors | None) -> list[dict]:
    sides, ratios = np.log2(box_sides(boxes)), np.log2(box_ratios(boxes))
    low = np.floor(np.clip(sides.min(), 0, POWERS[-2][0]))
    high = np.ceil(np.clip(sides.max(), low + 1, POWERS[-1][0]))
    sides = np.clip(sides, low, high)
    powers = [t for t in POWERS if low <= t[0] <= high]
    quarter, middle, most = (f"{2**q:.0f}" for q in np.quantile(sides, (0.25, 0.5, 0.75)))
    told = f"Half of the boxes are between {quarter} and {most} px a side, the median {middle}."
    size_marks, ratio_marks, shape_marks, lines = [], [], [], ""
    if anchors is not None:
        levels = anchors.sizes if len(anchors.sizes) <= 6 else anchors.sizes[:: anchors.levels[0]]
        size_marks = [(np.log2(s), f"{s:.0f}") for s in levels]
        ratio_marks = [(np.log2(r), f"{r:g}") for r in anchors.ratios]
        shape_marks = [
            (np.log2(w * h) / 2, np.log2(h / w), f"anchor {w:.0f} × {h:.0f}")
            for w, h in anchors.shapes
        ]
        lines = " Lines: anchors."
    edges = np.linspace(low, high, int(high - low) * 4 + 1)
    size_chart = histogram(
        told + lines,
        edges,
        {"boxes": np.histogram(sides, edges)[0]},
        powers,
        "side, px",
        "boxes",
        size_marks,
        "boxes",
    )
    wide, tall = (share((ratios < -1).sum(), len(ratios)), share((ratios > 1).sum(), len(ratios)))
    told_ratio = (
        f"{wide} are more than twice as wide as tall, {tall} more than twice as tall as wide."
    )
    edges = np.linspace(-3.5, 3.5, 29)
    clipped = np.clip(ratios, -3.49, 3.49)
    ratio_chart = histogram(
        told_ratio + lines,
        edges,
        {"boxes": np.histogram(clipped, edges)[0]},
        RATIOS,
        "height / width",
        "boxes",
        ratio_marks,
        "boxes",
    )
    grid = np.histogram2d(clipped, sides, (np.linspace(-3.5, 3.5, 36), np.linspace(low, high, 41)))[
        0
    ]
    both = "Side and ratio of all boxes; the darker, the more." + (
        " Crosses: anchors." if shape_marks else ""
    )
    both_chart = heat_map(
        both,
        grid,
        (low, high, -3.5, 3.5),
        powers,
        RATIOS,
        "side, px",
        "height / width",
        shape_marks,
    )
    return [
        {"title": "Sides of boxes", "svg": size_chart, "caption": told + lines},
        {"title": "Height to width", "svg": ratio_chart, "caption": told_ratio + lines},
        {"title": "Both", "svg": both_chart, "caption": both},
    ]


def _image_sizes(splits: list[Split]) -> dict:
    every = np.concatenate([s.sizes for s in splits])
    sizes, times = np.unique(every, axis=0, return_counts=True)
    rows = []
    for width, height in sizes[np.argsort(-times, kind="stable")][:MOST_SIZES]:
        counts = [int((s.sizes == (width, height)).all(axis=1).sum()) for s in splits]
        rows.append(
            {
                "size": f"{width:.0f} × {height:.0f}",
                "ratio": f"{width / height:.2f}",
                "parts": [
                    {"count": f"{n:,}", "share": share(n, len(s.sizes))}
                    for n, s in zip(counts, splits, strict=True)
                ],
            }
        )
    return {"rows": rows, "more": max(len(sizes) - MOST_SIZES, 0)}


def _matrix(class_names: list[str], split: Split) -> dict:
    together = co_occurrence(split, len(class_names))
    own = np.diag(together)
    chosen = np.argsort(-own, kind="stable")[:MOST_TOGETHER]
    rows = [
        {
            "name": class_names[a],
            "cells": [
                {
                    "is_own": bool(a == b),
                    "heat": f"{together[a, b] / max(own[a], 1):.3f}",
                    "text": f"{own[a]:,}" if a == b else _percent(together[a, b], own[a]),
                }
                for b in chosen
            ],
        }
        for a in chosen
    ]
    return {"rows": rows, "more": max(len(class_names) - MOST_TOGETHER, 0)}


def _percent(part: int, whole: int) -> str:
    if not part:
        return "·"
    percent = 100 * part / whole
    return "<1" if percent < 1 else f"{percent:.0f}"


def _key(splits: list[Split]) -> str:
    return f" Bars: {splits[0].name}; line: {splits[1].name}." if len(splits) > 1 else ""
