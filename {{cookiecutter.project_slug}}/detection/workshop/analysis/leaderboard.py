"""All trainings side by side: their scores, and in what their configs differ."""

import difflib
import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from detection.data.results import read_ground_truth_and_results
from detection.evaluation.competition_metrics import DEFAULT_METRIC, METRICS
from detection.evaluation.intervals import Difference, difference, resample
from detection.utils.errors import UserError
from detection.utils.paths import BEST_RESULTS, DEV_RUN, in_project
from detection.utils.text import shortened
from detection.workshop.analysis.runs import read_config, read_history

NO_RUNS = {"wandb", "inference", "predictions"}  # folders within a run
# parts of a config that change no score
IRRELEVANT = {"train.output_dir", "writers"}
COMPARED = 10  # runs that are compared with the best, image by image
REFERENCE = re.compile(r"\$\{([\w.]+)\}")  # of a config to one of its other values
LONGEST = 40  # characters of a value
ABSENT = "-"
SKIPPED = object()  # in place of what is not compared


@dataclass
class Run:
    """
    A training.

    Attributes:
        name: its folder, seen from the one that was searched.
        config: its config.yaml, plain; empty if that is missing or malformed.
        curves: {metric: [(iteration, value)]}; empty if metrics.json is malformed.
    """

    name: str
    config: dict
    curves: dict[str, list[tuple[int, float]]]

    def setting(self, *keys: str):
        """`config[key][key]…`, with what it refers to as ${key.key}; None where there is none."""
        value = self._raw(*keys)
        if isinstance(value, str):
            value = REFERENCE.sub(lambda found: str(self._raw(*found[1].split("."))), value)
        return value

    def _raw(self, *keys: str):
        value = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @property
    def iterations(self) -> int | None:
        """How many it did."""
        done = max((curve[-1][0] + 1 for curve in self.curves.values()), default=None)
        return done if done is None or self.max_iter is None else min(done, self.max_iter)

    @property
    def max_iter(self) -> int | None:
        """How many it was to do."""
        value = self.setting("train", "max_iter")
        return value if type(value) is int else None

    @property
    def is_finished(self) -> bool | None:
        known = self.iterations is not None and self.max_iter is not None
        return self.iterations >= self.max_iter if known else None

    @property
    def hours(self) -> float | None:
        """Of its steps, without evaluations: seconds a step × steps, row by row."""
        seconds, before = 0.0, -1
        for iteration, value in self.curves.get("time", ()):
            seconds += value * (iteration - before)
            before = iteration
        return seconds / 3600 if seconds else None

    def best(self, metric: str, is_min: bool) -> tuple[int, float] | None:
        """(iteration, value) of its best evaluation."""
        curve = self.curves.get(metric)
        return curve and (min if is_min else max)(curve, key=lambda point: point[1])


def find_runs(folder: str) -> list[Run]:
    """
    Every folder with a metrics.json in it, at any depth, but for those of --fast-dev-run; UserError
    if there is none.
    """
    runs = []
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f not in NO_RUNS and not f.endswith(DEV_RUN))
        if "metrics.json" in files:
            name = Path(path).relative_to(folder).as_posix()
            name = Path(folder).resolve().name if name == "." else name
            parts = []
            for read in (read_config, read_history):
                try:
                    parts.append(read(path))
                except UserError:
                    parts.append({})
            runs.append(Run(name, *parts))
    if not runs:
        raise UserError(f"{folder}: has no training in it; train first, or name another folder")
    return runs


def choose_metric(runs: list[Run], metric: str | None) -> tuple[str, bool]:
    """
    The metric to sort by, and whether less of it is better.

    Args:
        runs: all of them.
        metric: what the user wants; None takes the one by which most runs keep their best model.

    Raises:
        UserError: no run has what the user wants.
    """
    kept = Counter()
    for run in runs:
        name, mode = (run.setting("train", "best_checkpointer", k) for k in ("val_metric", "mode"))
        if isinstance(name, str):
            kept[name, mode == "min"] += 1
    if metric is None:
        return kept.most_common(1)[0][0] if kept else (f"competition/{DEFAULT_METRIC}", False)
    known = {name for run in runs for name in run.curves}
    if metric not in known:
        nearest = difflib.get_close_matches(metric, sorted(known), n=1, cutoff=0.0)
        hint = f"; did you mean {nearest[0]}?" if nearest else ", nor any other"
        raise UserError(f"--metric {metric}: no run has it{hint}")
    return metric, dict(kept).get((metric, True), 0) > 0 or "loss" in metric


def sort_runs(runs: list[Run], metric: str, is_min: bool) -> list[Run]:
    """The best first; those without the metric last."""

    def key(run: Run) -> tuple:
        best = run.best(metric, is_min)
        return best is None, (best[1] if is_min else -best[1]) if best else 0, run.name

    return sorted(runs, key=key)


def against_best(folder: str, runs: list[Run], metric: str) -> list[Difference | None]:
    """
    How far each run is behind the first, resampled over the validation images.

    It is known of the first COMPARED runs that have kept the predictions of their best checkpoint,
    on the annotations that the first run has; None for all others, and the first itself.

    Args:
        folder: of all runs.
        runs: the best first.
        metric: one that the competition metrics know; of another nothing is known.
    """
    found = [None] * len(runs)
    name = {"bbox/AP": "coco_AP", "bbox/AP50": "mAP50"}.get(metric, metric.partition("/")[2])
    if name not in METRICS or not runs:
        return found
    json_file = runs[0].setting("dataset", "val", "json_file")
    best = None
    for k, run in enumerate(runs[:COMPARED]):
        if not json_file or run.setting("dataset", "val", "json_file") != json_file:
            continue
        try:
            coco, results = read_ground_truth_and_results(
                str(Path(folder, run.name, BEST_RESULTS)), in_project(json_file)
            )
        except UserError:
            continue
        if k and best is None:
            break
        of_run = resample(name, coco, results)
        if k:
            found[k] = difference(best, of_run)
        else:
            best = of_run
    return found


def differences(configs: list[dict]) -> dict[str, list[str | None]]:
    """
    In what configs differ.

    Of nodes that build different things the difference is `model=RetinaNet`; what is in them is
    compared between those that build the same.

    Args:
        configs: plain ones; empty ones are left out of the comparison.

    Returns:
        {dotted key: the value in each config as text}, `-` where it has none; None where it
        was not compared.
    """
    found = {}

    def walk(values: list, path: str) -> None:
        there = [v for v in values if v is not SKIPPED]
        if path in IRRELEVANT or all(v == there[0] for v in there):
            return
        if all(isinstance(v, dict) for v in there):
            targets = [v if v is SKIPPED else v.get("_target_") for v in values]
            kinds = [t for t in dict.fromkeys(targets) if t is not SKIPPED]
            if len(kinds) > 1:
                note(values, path)
            for kind in kinds:
                alike = [v if t == kind else SKIPPED for v, t in zip(values, targets, strict=True)]
                for key in dict.fromkeys(k for v in alike if v is not SKIPPED for k in v):
                    if key != "_target_":
                        inner = [v if v is SKIPPED else v.get(key, ABSENT) for v in alike]
                        walk(inner, f"{path}.{key}" if path else str(key))
        elif all(isinstance(v, list) and len(v) == len(there[0]) for v in there) and any(
            isinstance(item, dict) for item in there[0]
        ):
            for k in range(len(there[0])):
                walk([v if v is SKIPPED else v[k] for v in values], f"{path}.{k}")
        else:
            note(values, path)

    def note(values: list, path: str) -> None:
        texts = found.setdefault(path, [None] * len(values))
        for run, value in enumerate(values):
            texts[run] = texts[run] if value is SKIPPED else _text(value)

    if any(configs):
        walk([config or SKIPPED for config in configs], "")
    return found


def describe(values: dict[str, list[str | None]], number_of_runs: int) -> list[str]:
    """
    Each run's settings that most runs do not have; of a key without a majority, all.

    Args:
        values: {dotted key: the value in each run}.
    """
    names = _short_names(list(values))
    listed = [[] for _ in range(number_of_runs)]
    for key, texts in values.items():
        known = [text for text in texts if text is not None]
        usual, count = Counter(known).most_common(1)[0]
        for run, text in enumerate(texts):
            if text is not None and (text != usual or 2 * count <= len(known)):
                listed[run].append(f"{names[key]}={text}")
    return [" ".join(parts) for parts in listed]


def _short_names(keys: list[str]) -> dict[str, str]:
    """As many of the last parts of each dotted key as tell it from the others."""
    names = {}
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            names[key] = ".".join(parts[-count:])
            if not any(k != key and f".{k}".endswith(f".{names[key]}") for k in keys):
                break
    return names


def _text(value: object) -> str:
    value = _named(value)
    if isinstance(value, float):
        value = f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shortened(text, LONGEST)


def _named(value: object) -> object:
    """What is built, by its name alone."""
    if isinstance(value, dict):
        target = value.get("_target_")
        return (
            str(target).rpartition(".")[2] if target else {k: _named(v) for k, v in value.items()}
        )
    return [_named(v) for v in value] if isinstance(value, list) else value
