"""The page of `make explore`: what templates/exploration.html.jinja shows."""

from collections.abc import Callable

import numpy as np

from detection.modeling.anchors import by_level
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

MAX_SIZES = 8  # rows of the table of image sizes
MAX_TOGETHER = 30  # classes in the matrix
MAX_COUNTS = 30  # bars of the chart of boxes per image
# other anchors are suggested if they leave out less than this part of the boxes left out now,
WORTHWHILE = 0.8
LEAST = 0.01  # and fewer by this share of all boxes
POWERS = tuple((p, f"{2**p:,}") for p in range(16))
RATIOS = tuple((np.log2(r), t) for r, t in ((1 / 8, "⅛"), (1 / 4, "¼"), (1 / 2, "½")))
RATIOS += tuple((np.log2(r), f"{r}") for r in (1, 2, 4, 8))


def overview(class_names: list[str], splits: list[Split]) -> dict:
    """The template's values that need neither the config nor the images."""
    counts = [count_classes(split, len(class_names)) for split in splits]
    class_rows = []
    for label in np.argsort(-counts[0][0], kind="stable"):
        of_class = (splits[0].labels == label) & splits[0].has_area
        parts = [
            {
                "boxes": int(boxes[label]),
                "most": int(boxes.max()),
                "box_share": share(boxes[label], boxes.sum()),
                "images": int(images[label]),
                "image_share": share(images[label], len(split.file_names)),
            }
            for split, (boxes, images) in zip(splits, counts, strict=True)
        ]
        side = np.median(box_sides(splits[0].boxes[of_class])) if of_class.any() else None
        class_rows.append(
            {"label": int(label), "name": class_names[label], "parts": parts, "side": side}
        )
    return {
        "splits": [
            {
                "name": s.name,
                "json_file": s.json_file,
                "images": len(s.file_names),
                "empty": int((s.counts == 0).sum()),
                "boxes": len(s.boxes),
                "per_image": s.counts.mean(),
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
        factors: (I, 2), what the config multiplies each image's width and height with.
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
    ious, sides = best_iou(boxes[:, 2:], anchors.shapes), box_sides(boxes)
    thresholds = sorted({anchors.threshold, 0.5}, reverse=True)
    unfit = ious < anchors.threshold
    lines.append(
        f"{share(unfit.sum(), len(ious))} of the boxes ({unfit.sum():,}) fit no anchor: their best "
        f"IoU with any shape is under {anchors.threshold:g}, from which an anchor learns an "
        "object. "
        + (
            "Each of these still gets its best anchor, one or a few per object, and so the model "
            "learns them from less."
            if anchors.keeps_best
            else "The model never learns them."
        )
        + " A class far above the others is the one to look at."
    )
    for label in np.argsort(-np.bincount(labels, unfit, len(class_names)), kind="stable"):
        of_class = labels == label
        if of_class.any():
            counts = [int((ious[of_class] < t).sum()) for t in thresholds]
            section["anchor_rows"].append(
                {
                    "name": class_names[label],
                    "boxes": int(of_class.sum()),
                    "side": np.median(sides[of_class]),
                    "iou": np.median(ious[of_class]),
                    "parts": [{"count": n, "share": share(n, of_class.sum())} for n in counts],
                }
            )
    section["thresholds"] = [f"IoU {t:g}" for t in thresholds]
    section["suggestion"] = _suggestion(anchors, boxes[:, 2:], ious, thresholds)
    return section


def _suggestion(
    anchors: Anchors, shapes: np.ndarray, ious: np.ndarray, thresholds: list[float]
) -> dict:
    """
    A `line` on anchors that follow the boxes; if worth it, the `overrides` that set them, and what
    configs/common/anchors.py is to hold.
    """
    bases, ratios = suggest(anchors, shapes, thresholds)
    sizes = by_level(bases, anchors.levels)
    others = shapes_of(sizes, ratios)
    other_ious = best_iou(shapes, others)
    now, then = ([(i < t).mean() for t in thresholds] for i in (ious, other_ious))
    line = f"{len(others)} anchors that follow these boxes would leave out "
    line += f"{share((other_ious < anchors.threshold).mean(), 1)} of them"
    if anchors.threshold > 0.5:
        line += f", and {share(then[-1], 1)} rather than {share(now[-1], 1)} at IoU 0.5"
    if not any(b < WORTHWHILE * a and b < a - LEAST for a, b in zip(now, then, strict=True)):
        line += ": the present ones are about as good as that many can be."
        return {"line": line, "overrides": [], "anchors": None}
    line += "; pretrained weights still fit. Only a training shows whether AP gains. `make explore "
    line += "ARGS=--write-anchors` gives them to all models with anchors, and this to one training:"
    overrides = f"{anchors.node}.sizes={sizes}", f"{anchors.node}.aspect_ratios=[{ratios}]"
    return {
        "line": line,
        "overrides": [text.replace(" ", "") for text in overrides],
        "anchors": {"sizes": bases, "aspect_ratios": ratios},
    }


def _chart(title: str, text: str, draw: Callable, *values, caption: str = "") -> dict:
    return {"title": title, "svg": draw(text, *values), "caption": caption or text}


def _count_chart(splits: list[Split]) -> dict:
    train, most = splits[0], max(int(s.counts.max(initial=0)) for s in splits)
    width = max(1, -(-(most + 1) // MAX_COUNTS))
    edges = np.arange(0, most + 1 + width, width)
    series = {s.name: np.histogram(s.counts, edges)[0] for s in splits}
    step = max(width, -(-most // 6))
    ticks = [(v + 0.5 if width == 1 else v, f"{v}") for v in range(0, most + 1, step)]
    middle = int(np.median(train.counts))
    text = (
        f"Half of the images of {train.name} have {middle} {'box' if middle == 1 else 'boxes'} or "
        f"fewer, the fullest {most}."
    )
    key = f" Bars: {train.name}; line: {splits[1].name}." if len(splits) > 1 else ""
    values = edges, series, ticks, "boxes per image", "images", (), "images"
    return _chart("Boxes per image", text, histogram, *values, caption=text + key)


def _place_chart(split: Split) -> dict:
    grid = centre_map(split, 24)
    across, down = (share(s[8:16].sum(), s.sum()) for s in (grid.sum(axis=0), grid.sum(axis=1)))
    text = (
        f"Centres of the boxes of {split.name} in their images. {across} are in the middle third "
        f"from left to right, {down} from top to bottom."
    )
    ticks, flipped = (
        [(0, a), (0.5, "½"), (1, b)]
        for a, b in (("0", "1"), ("1", "0"))  # rows run from the top
    )
    titles = "part of the width", "part of the height"
    return _chart(
        "Where boxes are", text, heat_map, grid[::-1], (0, 1, 0, 1), ticks, flipped, *titles
    )


def _size_charts(boxes: np.ndarray, anchors: Anchors | None) -> list[dict]:
    sides, ratios = np.log2(box_sides(boxes)), np.log2(box_ratios(boxes))
    low = np.floor(np.clip(sides.min(), 0, POWERS[-2][0]))
    high = np.ceil(np.clip(sides.max(), low + 1, POWERS[-1][0]))
    sides, clipped = np.clip(sides, low, high), np.clip(ratios, -3.49, 3.49)
    powers = [t for t in POWERS if low <= t[0] <= high]
    quarter, middle, most = (f"{2**q:.0f}" for q in np.quantile(sides, (0.25, 0.5, 0.75)))
    wide, tall = (share(part.sum(), len(ratios)) for part in (ratios < -1, ratios > 1))
    size_text = (
        f"Half of the boxes are between {quarter} and {most} px a side; median: {middle} px."
    )
    ratio_text = (
        f"More than twice as wide as tall: {wide}; more than twice as tall as wide: {tall}."
    )
    both_text = "Side and ratio of all boxes; the stronger the colour, the more."
    size_marks, ratio_marks, shape_marks = [], [], []
    if anchors is not None:
        levels = anchors.sizes if len(anchors.sizes) <= 6 else anchors.sizes[:: anchors.levels[0]]
        size_marks = [(np.log2(s), f"{s:.0f}") for s in levels]
        ratio_marks = [(np.log2(r), f"{r:g}") for r in anchors.ratios]
        shape_marks = [
            (np.log2(w * h) / 2, np.log2(h / w), f"anchor {w:.0f} × {h:.0f}")
            for w, h in anchors.shapes
        ]
        size_text, ratio_text = (f"{text} Lines: anchors." for text in (size_text, ratio_text))
        both_text += " Crosses: anchors."
    cells = np.linspace(-3.5, 3.5, 36), np.linspace(low, high, 41)
    grid, extent = np.histogram2d(clipped, sides, cells)[0], (low, high, -3.5, 3.5)
    titles = "side, px", "height / width"

    def bars(title: str, text: str, values, edges, ticks, x_title: str, marks) -> dict:
        series = {"boxes": np.histogram(values, edges)[0]}
        return _chart(
            title, text, histogram, edges, series, ticks, x_title, "boxes", marks, "boxes"
        )

    edges = np.linspace(low, high, int(high - low) * 4 + 1), np.linspace(-3.5, 3.5, 29)
    return [
        bars("Sides of boxes", size_text, sides, edges[0], powers, titles[0], size_marks),
        bars("Height to width", ratio_text, clipped, edges[1], RATIOS, titles[1], ratio_marks),
        _chart("Both", both_text, heat_map, grid, extent, powers, RATIOS, *titles, shape_marks),
    ]


def _image_sizes(splits: list[Split]) -> dict:
    sizes, times = np.unique(np.concatenate([s.sizes for s in splits]), axis=0, return_counts=True)
    rows = []
    for width, height in sizes[np.argsort(-times, kind="stable")][:MAX_SIZES]:
        counts = [int((s.sizes == (width, height)).all(axis=1).sum()) for s in splits]
        parts = [
            {"count": n, "share": share(n, len(s.sizes))}
            for n, s in zip(counts, splits, strict=True)
        ]
        rows.append(
            {"size": f"{width:.0f} × {height:.0f}", "ratio": width / height, "parts": parts}
        )
    return {"rows": rows, "more": max(len(sizes) - MAX_SIZES, 0)}


def _matrix(class_names: list[str], split: Split) -> dict:
    together = co_occurrence(split, len(class_names))
    own = np.diag(together)
    shown = np.argsort(-own, kind="stable")[:MAX_TOGETHER].tolist()
    rows = [
        {
            "name": class_names[a],
            "own": k,
            "images": int(own[a]),
            "parts": (together[a, shown] / max(own[a], 1)).tolist(),
        }
        for k, a in enumerate(shown)
    ]
    return {"rows": rows, "more": max(len(class_names) - MAX_TOGETHER, 0)}
