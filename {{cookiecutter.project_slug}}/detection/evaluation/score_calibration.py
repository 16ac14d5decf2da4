"""Scores as probabilities, so that detectors of different families can be fused."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import isotonic_regression

from detection.data.coco import write_json
from detection.data.results import weights_of
from detection.evaluation.assignment import Assignment, assign
from detection.utils.errors import UserError

FOLDS = 5
MIN_IMAGES = 20
MIN_HITS = 50  # correct detections that a class needs for a curve of its own
KNOTS = 200  # of a curve, at most
_RANK = 1e-3  # the part that ranks have in a probability, so that no two scores become equal

Curve = tuple[np.ndarray, np.ndarray]  # scores, ascending, and the probability at each


@dataclass(frozen=True)
class Calibration:
    """
    How probable it is that a detection of one model finds a box at IoU 0.5, by its score.

    Attributes:
        whole: the curve of all classes.
        classes: {class name: curve} of those with enough detections.
        models: of the predictions, as predict.py names them.
    """

    whole: Curve
    classes: dict[str, Curve]
    models: tuple[str, ...] = ()

    def apply(self, coco: dict, results: Sequence[dict]) -> list[dict]:
        """The same detections in COCO's results format, with probabilities as scores."""
        names = {c["id"]: c["name"] for c in coco["categories"]}
        scores = np.array([r["score"] for r in results], float)
        of_class = np.array([names[r["category_id"]] for r in results], object)
        probabilities = np.interp(scores, *self.whole)
        for name, curve in self.classes.items():
            probabilities[of_class == name] = np.interp(scores[of_class == name], *curve)
        return [{**r, "score": p} for r, p in zip(results, probabilities.tolist(), strict=True)]


def calibrate(
    coco: dict, results: Sequence[dict], name: str, models: Sequence[str] = ()
) -> tuple[Calibration, list[dict]]:
    """
    Fit the calibration of a model, and apply it out of fold.

    Args:
        coco: a parsed COCO json with annotations.
        results: detections on it, of a model that has not seen these images.
        name: of the model, for errors.
        models: as `Calibration.models`.

    Returns:
        The calibration by all images; and the detections with the scores that each fifth of the
        images gets by the other four, on which a score is honest.

    Raises:
        UserError: there are too few images, or too few correct or too few false detections.
    """
    if len(coco["images"]) < MIN_IMAGES:
        raise UserError(
            f"{len(coco['images'])} annotated images are too few to calibrate by; give "
            f"{MIN_IMAGES} or more, or leave out --calibrate"
        )
    found = assign(coco, results, [0.5], limit=None)
    # ranks of the image ids
    fold = {id_: k % FOLDS for k, id_ in enumerate(sorted(i["id"] for i in coco["images"]))}
    out_of_fold = [dict(r) for r in results]
    for k in range(FOLDS):
        own = [r for r in out_of_fold if fold[r["image_id"]] == k]
        fitted = _fit(found, found.images % FOLDS != k, name).apply(coco, own)
        for result, calibrated in zip(own, fitted, strict=True):
            result["score"] = calibrated["score"]
    whole = _fit(found, np.ones(len(found.scores), bool), name)
    return Calibration(whole.whole, whole.classes, tuple(models)), out_of_fold


def _fit(found: Assignment, chosen: np.ndarray, name: str) -> Calibration:
    """The calibration by a part (D,) of the detections."""
    chosen = chosen & ~found.ignored[0]
    hits = found.hits[0]
    if not hits[chosen].any() or hits[chosen].all():
        kind = "false" if hits[chosen].any() else "correct"
        raise UserError(
            f"{name}: has too few {kind} detections to calibrate by; predict again with "
            "--min-score 0, or leave out --calibrate"
        )
    classes = {}
    for label, class_name in enumerate(found.names):
        own = chosen & (found.labels == label)
        if hits[own].sum() >= MIN_HITS:
            classes[class_name] = _curve(found.scores[own], hits[own])
    return Calibration(_curve(found.scores[chosen], hits[chosen]), classes)


def _curve(scores: np.ndarray, hits: np.ndarray) -> Curve:
    """
    Centered isotonic regression (Oron and Flournoy, arXiv:1701.05964) of hits (D,) on the ranks of
    scores (D,): another scale of the same scores gives the same probabilities.
    """
    values, groups, counts = np.unique(scores, return_inverse=True, return_counts=True)
    fit = isotonic_regression(np.bincount(groups, hits) / counts, weights=counts)
    starts, ranks = fit.blocks[:-1], np.cumsum(counts) - counts / 2
    centers, levels = np.add.reduceat(ranks * counts, starts) / fit.weights, fit.x[starts]
    probabilities = np.interp(ranks, np.append(0, centers), np.append(0, levels))
    probabilities = (1 - _RANK) * probabilities + _RANK * ranks / len(scores)
    # dense both where most scores are and where most is decided
    along = ranks / len(scores) + probabilities
    kept = np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], KNOTS)))
    return np.concatenate([[0], values[kept], [1]]), np.concatenate([[0], probabilities[kept], [1]])


def save_calibrations(calibrations: dict[str, Calibration], path: str | Path) -> None:
    """
    Write the calibrations of the members of an ensemble, by name.

    Raises:
        UserError: it cannot be written.
    """

    def rounded(curve: Curve) -> list[list[float]]:
        return [np.round(values, 6).tolist() for values in curve]

    content = {
        name: {
            "models": list(c.models),
            "whole": rounded(c.whole),
            "classes": {k: rounded(curve) for k, curve in c.classes.items()},
        }
        for name, c in calibrations.items()
    }
    write_json(content, str(path))


def read_calibrations(path: str, members: dict[str, Sequence[str]]) -> dict[str, Calibration]:
    """
    Read the calibrations of an ensemble's members.

    Args:
        path: as `save_calibrations` wrote it.
        members: {name: models of its predictions, as `read_models` has them; none: nobody knows}.

    Raises:
        UserError: the file is malformed, or lacks a member, or has another model by that name.
    """
    remedy = "write it again on validation images with --calibrate"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        known = {
            name: Calibration(
                _read_curve(c["whole"]),
                {k: _read_curve(curve) for k, curve in c["classes"].items()},
                tuple(map(str, c["models"])),
            )
            for name, c in content.items()
        }
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as e:
        raise UserError(f"{path}: is no calibration ({e!r}); {remedy}") from e
    for name, models in members.items():
        if name not in known:
            raise UserError(
                f"{path}: has no member {name}, but {', '.join(known)}; name yours so, NAME=RESULTS"
            )
        own = {weights_of(model) for model in known[name].models}
        if own and (other := [model for model in models if weights_of(model) not in own]):
            raise UserError(
                f"{path}: {name} is {', '.join(known[name].models)} there, and the predictions are "
                f"of {other[0]}; {remedy}"
            )
    return {name: known[name] for name in members}


def _read_curve(pair: list[list[float]]) -> Curve:
    scores, probabilities = (np.array(values, float) for values in pair)
    is_ascending = (np.diff(scores) >= 0).all() and (np.diff(probabilities) >= 0).all()
    if scores.shape != probabilities.shape or scores.ndim != 1 or not scores.size:
        raise ValueError("a curve has as many scores as probabilities")
    if not (is_ascending and np.isfinite(scores).all() and np.isfinite(probabilities).all()):
        raise ValueError("a curve ascends")
    return scores, probabilities
