"""What a training's folder and settings say of its W&B run: id, rows, group and tags."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from detection.config import fold_suffix
from detection.utils.files import read_record, write_record
from detection.utils.wandb_files import find_parts, newest_id, read_rows
from detection.writers.scalars import read_metrics

logger = logging.getLogger(__name__)

RECORD = "wandb_run.json"


def read_run_record(output_dir: Path) -> dict:
    """The run's `id`, or None; `unfinished`, a row that a crash left, or None."""
    record = read_record(output_dir / RECORD)
    if not isinstance(record.get("id"), str):
        record = {"id": newest_id(output_dir)}
        if record["id"]:
            logger.warning(f"W&B: {RECORD} names no run; continuing the newest, {record['id']}")
    unfinished = record.get("unfinished")
    if not isinstance(unfinished, dict) or not isinstance(unfinished.get("iter"), int):
        record["unfinished"] = None
    return record


def write_run_record(output_dir: Path, record: dict) -> None:
    """Write what `read_run_record` reads."""
    write_record(output_dir / RECORD, record)


def read_logged(output_dir: Path, run_id: str, cfg: DictConfig) -> tuple[dict, dict]:
    """{step: row} of the run's files, and {iteration: {name: value}} of metrics.json."""
    json_file = OmegaConf.select(cfg, "writers.json.json_file")
    return read_rows(find_parts(output_dir, run_id)), read_metrics(json_file) if json_file else {}


def grouping(name: str, fold: object) -> tuple[str | None, list[str]]:
    """
    The W&B group and tags of a run on a fold: those of one experiment share the group.

    Args:
        name: of the run, such as "faster_rcnn_fold0".
        fold: `dataset.fold`; None: the run is on all data.
    """
    if fold is None:
        return None, []
    return name.removesuffix(fold_suffix(fold)), [f"fold {fold}"]
