"""The project's folders; relative paths start at its root, not at the current folder."""

import os
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
# the folder of the data; the variable is detectron2's own
DATASETS = os.environ.get("DETECTRON2_DATASETS", "datasets")
# ends the name of the folder that `train_net.py --fast-dev-run` writes to
DEV_RUN = "_fast_dev_run"
# predictions in an output folder: of the last evaluation, and of the best checkpoint's
LAST_RESULTS = "inference/coco_instances_results.json"
BEST_RESULTS = "inference/best.json"


def in_project(path: str) -> str:
    """The absolute path; absolute ones and URLs stay as they are."""
    if "://" in path:
        return path
    return str(PROJECT_ROOT / Path(path).expanduser())


def from_here(path: str | Path) -> str:
    """The path from the current folder; the absolute one where that is on another drive."""
    try:
        return os.path.relpath(path)
    except ValueError:
        return os.path.abspath(path)
