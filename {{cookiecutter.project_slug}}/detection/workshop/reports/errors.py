"""The page of `make report`: what detection/workshop/reports/templates/errors.html.jinja shows."""

import numpy as np

from detection.evaluation.average_precision import evaluate, scores_of
from detection.evaluation.error_analysis import (
    Bins,
    ErrorCost,
    Threshold,
    calibration,
    confusion,
    error_costs,
    thresholds,
)
from detection.evaluation.matching import IGNORED, Boxes, Matches
from detection.workshop.reports.charts import lines

BAR = 120  # pixels: the longest bar of a table
MOST_CONFUSED = 30  # classes in the matrix
PARTS = tuple((v, f"{v:g}") for v in (0, 0.25, 0.5, 0.75, 1))
ENDS = ((0, "0"), (0.5, ".5"), (1, "1"))
SIZES = (
    ("APs", "small", 0, 32**2),
    ("APm", "medium", 32**2, 96**2),
    ("APl", "large", 96**2, np.inf),
)


def errors_section(
    coco: dict, results: list[dict], truth: Boxes, detections: Boxes, matches: Matches
) -> dict:
    """All that the page says of the predictions, but for pictures; `keep` is the best score."""
    evaluation = evaluate(coco, results)
    scores = scores_of(evaluation, coco)
    names = class_names(coco)
    overall, of_classes = thresholds(truth, detections, matches, len(names))
    # where no detection is correct, no threshold is better than another
    keep = overall.score if np.isfinite(overall.score) else 0.0
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    rows = _class_rows(names, scores, precision, truth, detections, matches, of_classes)
    costs, bins = error_costs(evaluation), calibration(detections, matches)
    kept = _exact(keep, detections.scores[matches.kinds != IGNORED])
    used = calibration(detections, matches, min_score=keep)
    counts = confusion(truth, detections, matches, len(coco["images"]), len(names), keep)
    return {
        "figures": [_figure(name, scores) for name in ("AP", "AP50", "AP75")],
        "class_rows": rows,
        "all_row": _all_row(scores, truth, detections, matches, overall),
        "size_rows": _size_rows(coco, scores),
        "recall_charts": _recall_charts(names, precision[0], rows),
        "error_rows": _error_rows(costs),
        "matrix": _matrix(names, counts),
        "calibration": _calibration_chart(bins),
        "bin_rows": _bin_rows(bins),
        "calibration_error": f"{100 * used.error:.1f}",
        "keep": kept,
        "min_score": keep,
        "notes": _notes(costs, rows, used, kept),
    }


def class_names(coco: dict) -> list[str]:
    """By the rank of their ids."""
    return [c["name"] for c in sorted(coco["categories"], key=lambda c: c["id"])]


def _exact(threshold: float, scores: np.ndarray) -> str:
    """The threshold with as few decimals as keep the same of `scores`, two at least."""
    below = scores[scores < threshold].max(initial=-np.inf)
    for decimals in range(2, 17):
        text = f"{threshold:.{decimals}f}"
        if below < float(text) <= threshold:
            return text
    return f"{threshold}"


def _figure(name: str, scores: dict) -> dict:
    return {"name": name, "value": _percent(scores.get(name))}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _class_rows(
    names: list[str],
    scores: dict,
    precision: np.ndarray,
    truth: Boxes,
    detections: Boxes,
    matches: Matches,
    of_classes: list[Threshold],
) -> list[dict]:
    """A row a class, the lowest AP first; those that are not annotated last."""
    rows = []
    for label, name in enumerate(names):
        real = (truth.labels == label) & (truth.scores > 0)
        counted = (detections.labels == label) & (matches.kinds != IGNORED)
        ap = scores.get(f"AP-{name}")
        at_75 = precision[5, :, label]
        rows.append(
            {
                "label": label,
                "name": name,
                "boxes": f"{real.sum():,}",
                "detections": f"{counted.sum():,}",
                "found": f"{matches.found[real].sum():,}",
                "ap": ap,
                "AP": _percent(ap),
                "bar": round(BAR * (ap or 0) / 100),
                "AP50": _percent(scores.get(f"AP50-{name}")),
                "AP75": _percent(100 * at_75.mean() if (at_75 > -1).any() else None),
                **_threshold(of_classes[label]),
            }
        )
    return sorted(rows, key=lambda row: (row["ap"] is None, row["ap"]))


def _all_row(
    scores: dict, truth: Boxes, detections: Boxes, matches: Matches, overall: Threshold
) -> dict:
    return {
        "boxes": f"{(truth.scores > 0).sum():,}",
        "detections": f"{(matches.kinds != IGNORED).sum():,}",
        "found": f"{matches.found.sum():,}",
        **{name: _percent(scores.get(name)) for name in ("AP", "AP50", "AP75")},
        "bar": round(BAR * scores.get("AP", 0) / 100),
        **_threshold(overall),
    }


def _threshold(best: Threshold) -> dict:
    if not np.isfinite(best.score):
        return {"threshold": "–", "F1": "–", "precision": "–", "recall": "–"}
    return {
        "threshold": f"{best.score:.2f}",
        "F1": f"{best.f1:.2f}",
        "precision": f"{best.precision:.2f}",
        "recall": f"{best.recall:.2f}",
    }


def _size_rows(coco: dict, scores: dict) -> list[dict]:
    areas = np.array(
        [
            a["bbox"][2] * a["bbox"][3] if a.get("area") is None else a["area"]
            for a in coco["annotations"]
            if not a.get("iscrowd")
        ]
    )
    limits = ("up to 32² px", "32² to 96² px", "96² px and up")
    return [
        {
            "name": name,
            "limits": limit,
            "boxes": f"{((areas >= low) & (areas <= high)).sum():,}",  # as COCO, with both ends
            "AP": _percent(scores.get(key)),
            "bar": round(BAR * scores.get(key, 0) / 100),
        }
        for (key, name, low, high), limit in zip(SIZES, limits, strict=True)
    ]


def _recall_charts(names: list[str], precision: np.ndarray, rows: list[dict]) -> list[dict]:
    """One small chart a class, the worst first, over the mean of all in grey."""
    recall = np.linspace(0, 1, len(precision))
    present = precision.max(axis=0) > -1
    mean = precision[:, present].mean(axis=1)
    charts = []
    for row in rows:
        curve = precision[:, row["label"]]
        if not present[row["label"]]:
            continue
        # where a recall is not reached, COCO says 0; the line ends there
        curve = np.where(curve > 0, curve, np.nan)
        name, reached = row["name"], np.nanmax(np.append(recall[curve > 0], 0))
        label = f"{name}: AP50 {row['AP50']}, recall reaches {reached:.2f}"
        svg = lines(
            label, {name: (recall, curve), "mean": (recall, mean)}, ENDS, ENDS, is_small=True
        )
        charts.append({"title": name, "value": row["AP50"], "svg": svg, "curve": curve})
    return charts


def _error_rows(costs: list[ErrorCost]) -> list[dict]:
    longest = max([cost.cost for cost in costs] + [1e-9])
    return [
        {
            "name": cost.name,
            "meaning": cost.meaning,
            "count": f"{cost.count:,}",
            "cost": f"{cost.cost:.1f}",
            "bar": round(BAR * max(cost.cost, 0) / longest),
        }
        for cost in costs
    ]


def _matrix(names: list[str], counts: np.ndarray) -> dict:
    """Rows of the annotated classes; of many, those that are confused most."""
    of_classes = counts[: len(names), : len(names)]
    right = np.diag(of_classes)
    wrong = counts.sum(axis=0)[:-1] + counts.sum(axis=1)[: len(names)] - 2 * right
    worst = np.argsort(-wrong, kind="stable")
    shown = sorted(worst[:MOST_CONFUSED].tolist())
    heads, titles = [*names, "background"], [*names, "duplicate", "background"]
    columns = [*shown, len(names)]
    totals = counts.sum(axis=1)
    rows = [
        {
            "name": titles[r],
            "cells": [
                {
                    "count": int(counts[r, c]),
                    "text": f"{counts[r, c]:,}" if counts[r, c] else "",
                    "is_right": r == c < len(names),
                    "heat": f"{counts[r, c] / max(totals[r], 1):.2f}",
                    "title": f"{titles[r]} as {heads[c]}: {counts[r, c]:,}",
                }
                for c in columns
            ],
        }
        for r in [*shown, len(names), len(names) + 1]
    ]
    return {
        "columns": [heads[c] for c in columns],
        "rows": rows,
        "more": len(names) - len(shown),
    }


def _calibration_chart(bins: Bins):
    told = "; ".join(
        f"score {s:.2f}: {p:.0%} of {n:,} correct"
        for s, p, n in zip(bins.scores, bins.precision, bins.counts, strict=True)
        if n
    )
    ideal = np.array([0.0, 1.0])
    series = {"detections": (bins.scores, bins.precision), "score = precision": (ideal, ideal)}
    return lines(f"Precision by score. {told}", series, PARTS, PARTS, "score", "precision")


def _bin_rows(bins: Bins) -> list[dict]:
    edges = np.linspace(0, 1, len(bins.counts) + 1)
    return [
        {
            "score": f"{low:.1f} to {high:.1f}",
            "count": f"{count:,}",
            "mean": f"{score:.2f}" if count else "–",
            "precision": f"{precision:.2f}" if count else "–",
        }
        for low, high, count, score, precision in zip(edges, edges[1:], *bins, strict=False)
    ]


def _notes(costs: list[ErrorCost], rows: list[dict], used: Bins, keep: str) -> list[str]:
    costliest = [c for c in sorted(costs, key=lambda c: -c.cost)[:3] if c.cost > 0]
    sentences = []
    if costliest:
        told = ", ".join(f"{c.name} {c.cost:.1f}" for c in costliest)
        sentences.append(f"What costs AP50 most, in points, by kind of error: {told}.")
    annotated = [row for row in rows if row["ap"] is not None]
    if len({row["AP"] for row in annotated}) > 1:
        worst, best = annotated[0], annotated[-1]
        sentences.append(
            f"The worst class is {worst['name']}, AP {worst['AP']} (boxes: {worst['boxes']}); the "
            f"best is {best['name']}, AP {best['AP']} (boxes: {best['boxes']})."
        )
    absent = [row["name"] for row in rows if row["ap"] is None]
    if absent:
        sentences.append(f"Not annotated here, so without AP: {', '.join(absent)}.")
    counts = used.counts[used.counts > 0]
    if len(counts):
        mean, right = (
            np.average(values[used.counts > 0], weights=counts)
            for values in (used.scores, used.precision)
        )
        verdict = "surer than it is right" if mean > right else "less sure than it is right"
        if abs(mean - right) < 0.01:
            verdict = "as sure as it is right"
        sentences.append(
            f"Detections with a score of {keep} and up have a mean score of {mean:.2f}, and "
            f"{right:.2f} of them are correct: the model is {verdict}."
        )
    return sentences
