#!/usr/bin/env python
"""
Search for better settings without a server: Optuna runs the trials of sweep.yaml on this machine.

    python tools/search.py                      # as many trials as sweep.yaml's run_cap
    python tools/search.py --folds 0,1,2 --trials 50
    CUDA_VISIBLE_DEVICES=1 python tools/search.py       # a worker beside the first

Each trial is a training in output/search/<study>/, one for each of the folds; what counts is the
mean over the folds of their best evaluations. Trials that fall behind stop early if the file has
early_terminate. The same command continues a search that was interrupted or killed, and a trial
within it from its last checkpoint. Workers share the study through a file in its folder, on several
machines through a database:

    python tools/search.py --storage postgresql+psycopg://USER@HOST/DATABASE
"""

import argparse
import os
import shlex
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from tabulate import tabulate

from detection.utils.arguments import parse_args as parse_training
from detection.utils.cli import command_parser, exit_status, positive_int
from detection.utils.errors import UserError
from detection.utils.failures import explained
from detection.utils.paths import in_project
from detection.utils.text import printable
from detection.workshop.search.sweep import (
    arguments_of,
    check_sweep,
    read_sweep_file,
    training_command,
)

BEST = 10  # trials in the table
CONTINUES = "the same command continues the search"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("file", nargs="?", default="sweep.yaml", help="default: %(default)s")
    parser.add_argument(
        "--trials", type=positive_int, help="of all workers together (default: the file's run_cap)"
    )
    parser.add_argument(
        "--folds", metavar="K,K", help="to train on, as `make split` writes them (default: none)"
    )
    parser.add_argument("--study", help="its name (default: the file's name, else the file)")
    parser.add_argument(
        "--storage",
        metavar="URL",
        default=os.environ.get("OPTUNA_STORAGE"),
        help="a database that machines share (default: OPTUNA_STORAGE, else a file, study.db)",
    )
    parser.add_argument(
        "--output", default="output/search", help="folder of studies (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    args.folds = args.folds.split(",") if args.folds else [None]
    if "" in args.folds or len(set(args.folds)) < len(args.folds):
        parser.error("--folds wants names of folds, as in 0,1")
    return args


def load_settings(path: str, sweep: dict, space: list, folds: list) -> tuple:
    """
    Check all values that a sweep may choose against its config.

    Returns:
        The metric's name in metrics.json, whether less of it is better, and whether runs go to W&B.
    """
    from detection.config import apply_overrides, load_config  # slow to import

    samples = [parameter.override(parameter.samples()[0]) for parameter in space]
    try:
        args = parse_training(arguments_of(training_command(sweep, samples), sweep))
        for fold in folds:
            chosen = [] if fold is None else [f"dataset.fold={fold}"]
            cfg = load_config(args.config_file, [*args.opts, *chosen])
        for parameter in space:
            apply_overrides(cfg, [parameter.override(v) for v in parameter.samples()])
    except UserError as e:
        raise UserError(f"{path}: {e}") from e
    best = cfg.train.best_checkpointer
    metric, is_min = best.val_metric, best.mode == "min"
    if "name" in (given := sweep.get("metric", {})):
        metric, is_min = given["name"], given.get("goal", "minimize") == "minimize"
        metric = _name_in_files(path, metric, best.val_metric, cfg)
    return metric, is_min, cfg.writers.get("wandb") is not None


def _name_in_files(path: str, name: str, val_metric: str, cfg) -> str:
    """The name in metrics.json of a metric that may be named as in W&B."""
    from detectron2.data import MetadataCatalog

    from detection.classes import CLASSES
    from detection.evaluation.competition_metrics import METRICS
    from detection.writers.metric_names import MetricNames

    MetadataCatalog.get("search").set(thing_classes=CLASSES)
    wandb = cfg.writers.get("wandb")
    names = MetricNames(wandb.metric_names.preset if wandb else "detectron2", "search")
    own = {names(old, 1)[0]: old for old in (val_metric, *(f"competition/{m}" for m in METRICS))}
    found = names.original(name) or own.get(name, name)
    if not MetricNames.is_evaluation(found) and not found.startswith("val_loss/"):
        raise UserError(f"{path}: metric.name: {name} is not of an evaluation; try {val_metric}")
    return found


def report(search, plan, sweep: dict) -> None:
    """Print the best trials, how the others ended, and how to train as the best did."""
    from optuna.trial import TrialState

    from detection.workshop.search.trials import table

    trials = search.trials()
    head, rows = table(plan, trials, BEST)
    if rows:
        print()
        shown = [[printable(cell) for cell in row] for row in rows]
        align = ["right"] * (2 + len(plan.folds) * (len(plan.folds) > 1))
        align += ["left"] * (len(head) - len(align))
        print(tabulate(shown, head, colalign=align, disable_numparse=True))
    names = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "stopped early",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "running, or interrupted",
    }
    counts = {text: sum(t.state == state for t in trials) for state, text in names.items()}
    print(f"\n{', '.join(f'{n} {text}' for text, n in counts.items() if n)}; {plan.folder}")
    if rows:
        best = next(t for t in trials if str(t.number) == rows[0][0])
        command = training_command(sweep, plan.overrides(best))
        command = ["python" if word == sys.executable else word for word in command]
        folder = f"train.output_dir=output/{plan.folder.name}_best"
        print(f"\nTo train as trial {best.number} did:\n  {shlex.join([*command, folder])}")


def search(argv: list[str] | None) -> None:
    """Read what is to be searched, and search."""
    args = parse_args(argv)
    sweep, _ = read_sweep_file(args.file)
    check_sweep(args.file, sweep)
    try:
        import optuna  # noqa: F401
    except ImportError as e:
        raise UserError(
            f"{e}: uv pip install --group search installs it, or pip with the same option"
        ) from e
    from detection.workshop.search.space import read_space

    name = args.study or sweep.get("name") or Path(args.file).stem
    if not name.isprintable() or set(name) & set('/\\:*?"<>|') or name.strip(". ") != name:
        raise UserError(f"--study {name}: is to be the name of a folder, too")
    space = read_space(args.file, sweep)
    if args.folds != [None] and any(p.name == "dataset.fold" for p in space):
        raise UserError(f"{args.file}: parameters.dataset.fold: remove it, or --folds")
    metric, is_min, has_wandb = load_settings(args.file, sweep, space, args.folds)
    from detection.workshop.search.trials import Plan  # imports torch

    folder = Path(in_project(args.output)) / name
    plan = Plan(space, args.folds, metric, is_min, folder, partial(training_command, sweep))
    with explained(str(folder), remedy=CONTINUES):
        run(args, sweep, plan, [f"writers.wandb.group={name}"] if has_wandb else [])


def run(args: argparse.Namespace, sweep: dict, plan, overrides: list[str]) -> None:
    """Run trials, with some overrides for all of them, and report."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    from detection.workshop.search import study
    from detection.workshop.search.sampling import build_sampler, read_pruner
    from detection.workshop.search.trials import run_trials

    name = plan.folder.name
    settings = {key: sweep.get(key) for key in ("program", "command", "method", "parameters")}
    settings |= {"metric": plan.metric, "is_min": plan.is_min, "folds": plan.folds}
    trials = args.trials or sweep.get("run_cap", float("inf"))
    if trials == float("inf") and sweep["method"] != "grid":
        print("neither run_cap nor --trials says how many trials: Ctrl-C ends the search")
    pruner = read_pruner(args.file, sweep)
    try:
        search = study.Search(
            study.open_study(
                name,
                args.storage,
                plan.folder,
                settings,
                build_sampler(sweep["method"], plan.space),
                pruner,
                "minimize" if plan.is_min else "maximize",
            ),
            plan.folder,
            trials,
            is_local=args.storage is None,
        )
        try:
            run_trials(search, plan, overrides, partial(print, flush=True))
        except (UserError, KeyboardInterrupt):
            report(search, plan, sweep)
            raise
        report(search, plan, sweep)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as e:
        reason = study.first_line(e.__cause__ or e)
        raise UserError(f"study {name}: {reason}; {CONTINUES}") from e


def main(argv: list[str] | None = None) -> int:
    """Run the search as a worker; returns an exit status."""
    return exit_status(lambda: search(argv), f"interrupted; {CONTINUES}")


if __name__ == "__main__":
    sys.exit(main())
