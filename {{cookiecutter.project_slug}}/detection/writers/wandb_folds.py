"""Sends the score of several folds together, the out-of-fold score, to W&B."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detection.evaluation.competition_metrics import METRICS
from detection.evaluation.intervals import COVERED, interval, resample
from detection.evaluation.metric import Score, named_scores
from detection.utils.errors import UserError
from detection.writers.metric_names import PRESETS, MetricNames
from detection.writers.wandb_beside import Beside


class FoldsRun:
    """A W&B run in the group of the folds' trainings, of the job type "oof"; "eval" for one."""

    def __init__(self, pairs: Sequence[tuple[str, str]]):
        """
        Args:
            pairs: (results file, json file), each results file in `<output folder of its
                training>/<any folder>`, as predict.py writes it.

        Raises:
            UserError: a training's folder has no config.yaml with W&B, or the folds are of
                different groups.
        """
        self._pairs = pairs
        folders = [Path(results).resolve().parents[1] for results, _ in pairs]
        for folder, (results, _) in zip(folders, pairs, strict=True):
            if not (folder / "config.yaml").is_file():
                raise UserError(
                    f"{results}: is in no folder of a training with its config.yaml, as "
                    "<run>/predictions/val.json is; leave out --wandb"
                )
        self._trainings = [Beside(folder) for folder in folders]
        groups = {training.group: training.name for training in self._trainings}
        if len(groups) > 1:
            raise UserError(
                f"{' and '.join(groups.values())} are of different groups in W&B; "
                "leave out --wandb, or set writers.wandb.group in their config.yaml"
            )

    def send(
        self, metric: str, score: Score, coco: dict, results: Sequence[dict], averages: dict
    ) -> list[str]:
        """
        Send the scores under the names that the trainings have for them.

        Args:
            metric: what the competition ranks by, a key of METRICS.
            score: by it.
            coco, results: of all folds together.
            averages: what `average_precision` returns.

        Returns:
            Lines to print: the interval of the score, and what could not be sent.
        """
        first = self._trainings[0]
        names = self._metric_names(coco)
        scores = {f"competition/{name}": v for name, v in named_scores(metric, score).items()}
        scores |= {f"bbox/{name}": value for name, value in averages.items()}
        scalars = dict(names(*item) for item in scores.items() if np.isfinite(item[1]))
        scalars["images"] = len(coco["images"])
        lines = []
        if bounds := _interval(metric, coco, results):
            low, high = bounds
            scalars |= {f"competition/{metric}_low": low, f"competition/{metric}_high": high}
            lines.append(f"{COVERED} % of resampled images: {low:.4f} to {high:.4f}")
        is_one = len(self._pairs) == 1
        name = first.name if is_one else first.group or first.name
        config = {
            "metric": metric,
            "trainings": [training.name for training in self._trainings],
            "training_runs": [training.training_run for training in self._trainings],
            "folds": [training.fold for training in self._trainings],
            "results": [results for results, _ in self._pairs],
            "annotations": [file for _, file in self._pairs],
        }
        return lines + first.send(
            "eval" if is_one else "oof",
            f"{name}: {'evaluation' if is_one else 'out of fold'}",
            first.tags if is_one else [],
            config,
            [lambda: scalars],
        )

    def _metric_names(self, coco: dict) -> MetricNames:
        from detectron2.data import MetadataCatalog

        preset = (self._trainings[0].writer.get("metric_names") or {}).get("preset")
        classes = [category["name"] for category in coco["categories"]]
        MetadataCatalog.get("out of fold").set(thing_classes=classes)
        return MetricNames(preset if preset in PRESETS else "detectron2", "out of fold")


def _interval(metric: str, coco: dict, results: Sequence[dict]) -> tuple[float, float] | None:
    """Of the score; None for a metric whose resampling takes long, or if there is none."""
    if METRICS[metric].whole:
        return None
    low, high = interval(resample(metric, coco, results).values)
    return (low, high) if np.isfinite(low) else None
