"""What `make report` shows of a model's errors, but for pictures: see errors.html.jinja."""

import numpy as np
from markupsafe import Markup

from detection.evaluation.average_precision import evaluate, scores_of
from detection.evaluation.error_analysis import (
    ErrorCost,
    Threshold,
    confusion,
    error_costs,
    thresholds,
)
from detection.evaluation.matching import IGNORED, Matches
from detection.workshop.reports.charts import lines

MAX_CONFUSED = 30  # classes in the matrix
PARTS = tuple((v, f"{v:g}") for v in (0, 0.25, 0.5, 0.75, 1))
ENDS = ((0, "0"), (0.5, ".5"), (1, "1"))
SIZES = (
    ("APs", "small", "up to 32² px", 0, 32**2),
    ("APm", "medium", "32² to 96² px", 32**2, 96**2),
    ("APl", "large", "96² px and up", 96**2, np.inf),
)


def errors_section(coco: dict, results: list[dict], matches: Matches) -> dict:
    """
    Tables, charts and sentences on the errors of a model.

    Args:
        coco: a parsed COCO json.
        results: detections on it, in COCO's results format.
        matches: those of `results` on `coco`.

    Returns:
        The template's values, numbers unrounded and None where there is none; `min_score` is the
        threshold with the best F1, which `keep` writes out.
    """
    evaluation = evaluate(coco, results)
    scores, names = scores_of(evaluation, coco), class_names(coco)
    overall, by_class = thresholds(matches, len(names))
    # without a correct detection, no threshold is better than another
    min_score = overall.score if overall.f1 else 0.0
    keep = _written_out(min_score, matches.detections.scores[matches.kinds != IGNORED])
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    rows = _class_rows(names, scores, precision[5], matches, by_class)
    costs, bins = error_costs(evaluation), evaluation.calibration()["bins"]
    used = evaluate(coco, [r for r in results if r["score"] >= min_score]).calibration()
    everything = np.ones(len(matches.truth.labels), bool), np.ones(len(results), bool)
    return {
        "class_rows": rows,
        "all_row": {
            **{name: scores.get(name) for name in ("AP", "AP50", "AP75")},
            **_counts(matches, *everything, overall),
        },
        "size_rows": _size_rows(coco, scores),
        "recall_charts": _recall_charts(names, precision[0], rows),
        "error_rows": [cost._asdict() for cost in costs],
        "matrix": _matrix(names, confusion(matches, len(names), min_score)),
        "calibration": _calibration_chart(bins),
        "bin_rows": [
            {
                "score": f"{b['bin_lower']:.1f} to {b['bin_upper']:.1f}",
                "count": b["count"],
                "mean": b["avg_confidence"] if b["count"] else None,
                "precision": b["avg_accuracy"] if b["count"] else None,
            }
            for b in bins
        ],
        "calibration_error": 100 * used["ece"],
        "keep": keep,
        "min_score": min_score,
        "notes": _notes(costs, rows, used["bins"], keep),
    }


def class_names(coco: dict) -> list[str]:
    """By the rank of their ids."""
    return [c["name"] for c in sorted(coco["categories"], key=lambda c: c["id"])]


def _written_out(threshold: float, scores: np.ndarray) -> str:
    """The threshold with as few decimals as keep the same of `scores`, two at least."""
    below = scores[scores < threshold].max(initial=-np.inf)
    texts = (f"{threshold:.{decimals}f}" for decimals in range(2, 17))
    return next((t for t in texts if below < float(t) <= threshold), f"{threshold}")


def _counts(matches: Matches, truth: np.ndarray, detections: np.ndarray, best: Threshold) -> dict:
    """What a row counts of these annotated boxes and detections, both bool."""
    real, is_known = truth & matches.is_real, np.isfinite(best.score)
    return {
        "boxes": int(real.sum()),
        "detections": int((detections & (matches.kinds != IGNORED)).sum()),
        "found": int(matches.found[real].sum()),
        "threshold": best.score if is_known else None,
        "F1": best.f1 if is_known else None,
        "precision": best.precision if is_known else None,
        "recall": best.recall if is_known else None,
    }


def _class_rows(
    names: list[str], scores: dict, at_75: np.ndarray, matches: Matches, best: list[Threshold]
) -> list[dict]:
    """A row per class, the lowest AP first; classes that are not annotated last."""
    rows = []
    for label, name in enumerate(names):
        of_class = matches.truth.labels == label, matches.detections.labels == label
        known = at_75[:, label][at_75[:, label] > -1]
        rows.append(
            {
                "label": label,
                "name": name,
                "AP": scores.get(f"AP-{name}"),
                "AP50": scores.get(f"AP50-{name}"),
                "AP75": float(100 * known.mean()) if known.size else None,
                **_counts(matches, *of_class, best[label]),
            }
        )
    return sorted(rows, key=lambda row: (row["AP"] is None, row["AP"]))


def _size_rows(coco: dict, scores: dict) -> list[dict]:
    areas = np.array(
        [
            a["bbox"][2] * a["bbox"][3] if a.get("area") is None else a["area"]
            for a in coco["annotations"]
            if not a.get("iscrowd")
        ]
    )
    return [
        {
            "name": name,
            "limits": limits,
            "boxes": int(((areas >= low) & (areas <= high)).sum()),  # with both ends, as COCO does
            "AP": scores.get(key),
        }
        for key, name, limits, low, high in SIZES
    ]


def _recall_charts(names: list[str], precision: np.ndarray, rows: list[dict]) -> list[dict]:
    """A small chart per class, the worst first, over the mean of all in grey."""
    recall = np.linspace(0, 1, len(precision))
    present = precision.max(axis=0) > -1
    mean = precision[:, present].mean(axis=1)
    charts = []
    for row in rows:
        if not present[row["label"]]:
            continue
        name, curve = row["name"], precision[:, row["label"]]
        reached = recall[curve > 0].max(initial=0)
        # COCO says 0 where a recall is not reached; the line ends there
        curve = np.where(curve > 0, curve, np.nan)
        label = f"{name}: AP50 {row['AP50']:.1f}, recall reaches {reached:.2f}"
        series = {name: (recall, curve), "mean": (recall, mean)}
        svg = lines(label, series, ENDS, ENDS, is_small=True)
        charts.append({"title": name, "AP50": row["AP50"], "svg": svg, "curve": curve})
    return charts


def _matrix(names: list[str], counts: np.ndarray) -> dict:
    """Rows of the annotated classes; of many classes, those that are confused most."""
    of_classes = counts[: len(names), : len(names)]
    wrong = counts.sum(axis=0)[:-1] + counts.sum(axis=1)[: len(names)] - 2 * np.diag(of_classes)
    shown = sorted(np.argsort(-wrong, kind="stable")[:MAX_CONFUSED].tolist())
    columns, titles = [*shown, len(names)], [*names, "duplicate", "background"]
    return {
        "columns": [[*names, "background"][c] for c in columns],
        "rows": [
            {
                "name": titles[r],
                "counts": counts[r, columns].tolist(),
                "own": columns.index(r) if r < len(names) else None,
                "total": max(int(counts[r].sum()), 1),
            }
            for r in [*shown, len(names), len(names) + 1]
        ],
        "more": len(names) - len(shown),
    }


def _calibration_chart(bins: list[dict]) -> Markup:
    filled = [b for b in bins if b["count"]]
    scores, precision = ([b[k] for b in filled] for k in ("avg_confidence", "avg_accuracy"))
    text = "; ".join(
        f"score {s:.2f}: {p:.0%} of {b['count']:,} correct"
        for s, p, b in zip(scores, precision, filled, strict=True)
    )
    series = {"detections": (scores, precision), "score = precision": ([0, 1], [0, 1])}
    return lines(f"Precision by score. {text}", series, PARTS, PARTS, "score", "precision")


def _notes(costs: list[ErrorCost], rows: list[dict], used: list[dict], keep: str) -> list[str]:
    sentences = []
    costliest = [c for c in sorted(costs, key=lambda c: -c.cost)[:3] if c.cost > 0]
    if costliest:
        listed = ", ".join(f"{c.name} {c.cost:.1f}" for c in costliest)
        sentences.append(f"What costs most AP50, in points, by kind of error: {listed}.")
    annotated = [row for row in rows if row["AP"] is not None]
    if len({f"{row['AP']:.1f}" for row in annotated}) > 1:
        worst, best = (
            f"{row['name']}, AP {row['AP']:.1f} (boxes: {row['boxes']:,})"
            for row in (annotated[0], annotated[-1])
        )
        sentences.append(f"The worst class is {worst}; the best is {best}.")
    absent = [row["name"] for row in rows if row["AP"] is None]
    if absent:
        sentences.append(f"Not annotated here, so without AP: {', '.join(absent)}.")
    counts = [b["count"] for b in used]
    if sum(counts):
        mean, right = (
            np.average([b[k] for b in used], weights=counts)
            for k in ("avg_confidence", "avg_accuracy")
        )
        verdict = "overconfident" if mean > right else "underconfident"
        if abs(mean - right) < 0.01:
            verdict = "well calibrated"
        sentences.append(
            f"Detections with a score of {keep} and up have a mean score of {mean:.2f}, and "
            f"{right:.2f} of them are correct: the model is {verdict}."
        )
    return sentences
