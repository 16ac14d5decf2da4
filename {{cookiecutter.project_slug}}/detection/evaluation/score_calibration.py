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
_RANK = 1e-3  # the part that ranks have in a probability, so that no two scores become equal

Curve = tuple[np.ndarray, np.ndarray]  # scores, ascending, and the probability at each


@dataclass(frozen=True)
class Calibration:
    """
    How probable it is that a detection of one model finds a box at IoU 0.5, by its score.

    One curve for all classes: curves of single classes, of few detections each, made ensembles on
    BCCD worse.

    Attributes:
        curve: scores and their probabilities.
        models: of the predictions, as predict.py names them.
    """

    curve: Curve
    models: tuple[str, ...] = ()

    def apply(self, results: Sequence[dict]) -> list[dict]:
        """The same detections in COCO's results format, with probabilities as scores."""
        probabilities = np.interp([r["score"] for r in results], *self.curve)
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
        fitted = Calibration(_fit(found, found.images % FOLDS != k, name)).apply(own)
        for result, calibrated in zip(own, fitted, strict=True):
            result["score"] = calibrated["score"]
    curve = _fit(found, np.ones(len(found.scores), bool), name)
    return Calibration(curve, tuple(models)), out_of_fold


def _fit(found: Assignment, chosen: np.ndarray, name: str) -> Curve:
    """
    Isotonic regression of hits on scores, by a part (D,) of the detections: another scale of the
    same scores gives the same probabilities.
    """
    chosen = chosen & ~found.ignored[0]
    scores, hits = found.scores[chosen], found.hits[0][chosen]
    if not hits.any() or hits.all():
        kind = "false" if hits.any() else "correct"
        raise UserError(
            f"{name}: has too few {kind} detections to calibrate by; predict again with "
            "--min-score 0, or leave out --calibrate"
        )
    values, groups, counts = np.unique(scores, return_inverse=True, return_counts=True)
    fit = isotonic_regression(np.bincount(groups, hits) / counts, weights=counts)
    ranks = (np.cumsum(counts) - counts / 2) / len(scores)
    probabilities = (1 - _RANK) * fit.x + _RANK * ranks
    # the ends of each step: a line from step to step would raise the many false ones below it
    kept = np.unique([fit.blocks[:-1], fit.blocks[1:] - 1])
    return np.concatenate([[0], values[kept], [1]]), np.concatenate([[0], probabilities[kept], [1]])


def save_calibrations(calibrations: dict[str, Calibration], path: str | Path) -> None:
    """
    Write the calibrations of the members of an ensemble, by name.

    Raises:
        UserError: it cannot be written.
    """
    content = {
        name: {
            "models": list(calibration.models),
            "curve": [values.tolist() for values in calibration.curve],
        }
        for name, calibration in calibrations.items()
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
            name: Calibration(_read_curve(c["curve"]), tuple(map(str, c["models"])))
            for name, c in content.items()
        }
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as e:
        raise UserError(f"{path}: is not a calibration ({e!r}); {remedy}") from e
    for name, models in members.items():
        if name not in known:
            raise UserError(
                f"{path}: lacks {name}; name the members as there, NAME=RESULTS: {', '.join(known)}"
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
