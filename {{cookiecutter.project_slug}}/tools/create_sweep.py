#!/usr/bin/env python
"""
Create the W&B sweep that a YAML file describes, and print what to run on each machine:

    python tools/create_sweep.py                # sweep.yaml
    python tools/create_sweep.py other.yaml

What the file does not say comes from the config that its command trains: the project and entity
of `writers.wandb`, and as metric `train.best_checkpointer.val_metric` by the name that W&B shows.
"""

import sys
import tempfile
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.utils.cli import command_parser, tool
from detection.utils.errors import UserError
from detection.workshop.search.sweep import read_sweep_file


def read_sweep(path: str) -> dict:
    """
    The sweep of a YAML file, with what it leaves out filled in from the config of its command;
    UserError if the file cannot be read, or its command has no config with `writers.wandb`.
    """
    sweep, config_file = read_sweep_file(path)
    # slow to import
    from detectron2.data import MetadataCatalog

    from detection.classes import CLASSES
    from detection.config import load_config
    from detection.writers.metric_names import MetricNames

    cfg = load_config(config_file)
    wandb = cfg.writers.get("wandb")
    if wandb is None:
        raise UserError(f"{path}: {config_file} has no writers.wandb, which a sweep needs")
    MetadataCatalog.get("sweep").set(thing_classes=CLASSES)
    names = MetricNames(wandb.metric_names.preset, "sweep")
    best = cfg.train.best_checkpointer
    goal = "maximize" if best.mode == "max" else "minimize"
    defaults = {
        "project": wandb.project,
        "metric": {"name": names(best.val_metric, 1)[0], "goal": goal},
    }
    if wandb.entity:
        defaults["entity"] = wandb.entity
    return defaults | sweep


@tool
def main(argv: list[str] | None = None) -> None:
    """Create the sweep."""
    parser = command_parser(__doc__)
    parser.add_argument("file", nargs="?", default="sweep.yaml", help="default: %(default)s")
    sweep = read_sweep(parser.parse_args(argv).file)
    from detection.utils.wandb_runs import run_command  # slow to import

    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "sweep.yaml"
        whole.write_text(yaml.safe_dump(sweep, allow_unicode=True), encoding="utf-8")
        run_command("sweep", str(whole))


if __name__ == "__main__":
    sys.exit(main())
