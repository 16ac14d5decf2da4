"""What a folder for Kaggle holds of this project's output and data."""

import argparse
import json
import re
import shutil
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from detection.config import load_config
from detection.data.coco import read_coco
from detection.evaluation.score_threshold import FILE as THRESHOLD
from detection.utils.arguments import find_config
from detection.utils.errors import UserError
from detection.utils.paths import PROJECT_ROOT, in_project
from detection.workshop.kaggle.folder import find_weights
from detection.workshop.kaggle.notebooks import prediction_notebook, training_notebook
from detection.workshop.kaggle.scoring import CALIBRATION, CATEGORIES
from detection.workshop.submission.formats import DEFAULT_FORMAT, FORMATS

NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")  # what a file's name on Kaggle may not have


def add_runs(data: Path, args: argparse.Namespace, title: str) -> str:
    """
    Copy weights and configs of runs, and what the ensemble needs.

    Args:
        data: the data set's folder.
        args: of tools/kaggle_folder.py.
        title: of the notebook.

    Returns:
        The notebook.

    Raises:
        UserError: a run has no checkpoint or config, or an override does not fit it.
    """
    first = None
    for run in args.runs:
        weights, config = find_weights(run)
        cfg = load_config(str(config), args.overrides)
        first = first or (cfg, weights)
        name = NO_NAME.sub("_", weights.resolve().parent.name).strip("_") or "run"
        taken = {path.name for path in data.glob("runs/*")}
        name = next(n for n in (name, *(f"{name}_{k}" for k in range(2, 99))) if n not in taken)
        target = data / "runs" / name
        target.mkdir(parents=True)
        shutil.copy(weights, target)
        shutil.copy(config, target)
    cfg, weights = first
    _add_categories(data, args.categories, cfg)
    threshold = args.threshold
    if threshold is None and len(args.runs) == 1:
        own = weights.parent / "predictions" / THRESHOLD
        threshold = own if own.is_file() else None
    for given, name in ((threshold, THRESHOLD), (args.calibration, CALIBRATION)):
        if given:
            _copy(given, data / name)
    options = [f"--weight={weight}" for weight in args.weight]
    for name in ("method", "iou", "images", "max_per_image"):
        if (value := getattr(args, name)) is not None:
            options.append(f"--{name.replace('_', '-')}={value}")
    suffix = FORMATS[DEFAULT_FORMAT].suffix
    return prediction_notebook(title, f"submission{suffix}", [*options, *args.overrides])


def add_training(data: Path, args: argparse.Namespace, title: str) -> str:
    """
    Copy the annotations that a config names, and local weights that it starts from.

    Args:
        data: the data set's folder.
        args: of tools/kaggle_folder.py.
        title: of the notebook.

    Returns:
        The notebook.

    Raises:
        UserError: a file is missing, or is not in the project.
    """
    config = _within_project(find_config(args.train))
    cfg = load_config(args.train, args.overrides)
    splits = [f"dataset.{split}.json_file" for split in ("train", "val", "pseudo")]
    files = [OmegaConf.select(cfg, split) for split in splits]
    start = cfg.train.init_checkpoint
    files += [start] if start and "://" not in start else []
    for file in filter(None, files):
        _copy(in_project(file), data / "project" / _within_project(file))
    if not _within_project(cfg.train.output_dir).is_relative_to("output"):
        raise UserError(
            f"train.output_dir={cfg.train.output_dir}: on Kaggle it has to be in output/"
        )
    options = ["--train", config.as_posix()]
    if args.stop_after is not None:
        options.append(f"--stop-after={args.stop_after:g}")
    return training_notebook(title, [*options, *args.overrides])


def _add_categories(data: Path, given: str | None, cfg: DictConfig) -> None:
    own = OmegaConf.select(cfg, "dataset.train.json_file")
    file = given or (in_project(own) if own else "the config's annotation file")
    if Path(file).is_file():
        coco = read_coco(str(file))
        categories = [{"id": c["id"], "name": c["name"]} for c in coco.get("categories", [])]
        (data / CATEGORIES).write_text(json.dumps(categories), encoding="utf-8")
    elif given or FORMATS[DEFAULT_FORMAT].label == "category_id":
        raise UserError(
            f"{file}: is missing, and the submission wants the ids of its categories; name an "
            "annotation file, --categories"
        )


def _within_project(path: str) -> Path:
    """The path from the project on; UserError if it is elsewhere."""
    try:
        return Path(in_project(path)).resolve().relative_to(PROJECT_ROOT)
    except ValueError as e:
        raise UserError(f"{path}: is not in the project; copy it there") from e


def _copy(source: str | Path, target: Path) -> None:
    if not Path(source).is_file():
        raise UserError(f"{source}: no such file")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
