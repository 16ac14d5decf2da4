"""sweep.yaml, as W&B defines it: what it searches, and the command that trains with a choice."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from detection.utils.errors import UserError
from detection.utils.paths import in_project

ARGUMENTS = "${args_no_hyphens}"  # in a command: the parameters, as key=value
# what W&B alone makes use of; https://docs.wandb.ai/models/sweeps/sweep-config-keys
_OF_WANDB = {"project", "entity", "name", "description"}
_KEYS = {"program", "command", "method", "metric", "parameters", "early_terminate", "run_cap"}
_OUTPUT = "train.output_dir="


def read_sweep_file(path: str) -> tuple[dict, str]:
    """
    A sweep's YAML file, and the config that its command trains; UserError if the file cannot be
    read, or its command names no config.
    """
    try:
        sweep = yaml.safe_load(Path(in_project(path)).read_text(encoding="utf-8"))
        command = sweep["command"]
        return sweep, command[command.index("--config-file") + 1]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise UserError(f"{path}: cannot be read: {' '.join(str(e).split())}") from e
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
        raise UserError(f"{path}: its command has to name a --config-file") from e


def check_sweep(path: str, sweep: dict) -> None:
    """
    Refuse what a search without W&B cannot do.

    Raises:
        UserError: the first such key, with its remedy.
    """
    if unknown := sweep.keys() - _KEYS - _OF_WANDB:
        raise UserError(f"{path}: {sorted(unknown)[0]}: a search without W&B has none; remove it")
    if sweep.get("method") not in ("grid", "random", "bayes"):
        raise UserError(f"{path}: method: has to be grid, random or bayes")
    cap = sweep.get("run_cap", 1)
    if type(cap) is not int or cap < 1:
        raise UserError(f"{path}: run_cap: has to be a whole number from 1 up, not {cap!r}")
    metric = sweep.get("metric", {})
    if not isinstance(metric, dict) or metric.get("goal", "minimize") not in _DIRECTIONS:
        raise UserError(f"{path}: metric: has a name, and minimize or maximize as its goal")
    if unknown := metric.keys() - {"name", "goal"}:
        key = sorted(unknown)[0]
        raise UserError(f"{path}: metric.{key}: a search without W&B has none; remove it")
    command = sweep["command"]
    if ARGUMENTS not in command:
        raise UserError(f"{path}: command: has no {ARGUMENTS}, by which it gets the parameters")
    for word in command:
        known = ("${env}", "${interpreter}", "${program}", ARGUMENTS)
        is_macro = isinstance(word, str) and word.startswith("${") and word.endswith("}")
        if is_macro and word not in known and not word.startswith("${envvar:"):
            raise UserError(f"{path}: command: {word} is W&B's alone; there are {', '.join(known)}")


_DIRECTIONS = ("minimize", "maximize")


def training_command(sweep: dict, overrides: Sequence[str]) -> list[str]:
    """
    The command that trains with some overrides in place of the sweep's parameters.

    Args:
        sweep: as `check_sweep` accepts it; an output directory in its command is left out.
        overrides: `key=value` each.
    """
    words = []
    for word in map(str, sweep["command"]):
        if word == ARGUMENTS:
            words += overrides
        elif word == "${interpreter}":
            words.append(sys.executable)
        elif word == "${program}":
            words.append(sweep.get("program", "train_net.py"))
        elif word.startswith("${envvar:"):
            words.append(os.environ.get(word[len("${envvar:") : -1], ""))
        elif word != "${env}" and not word.startswith(_OUTPUT):
            words.append(word)
    return words


def arguments_of(command: Sequence[str], sweep: dict) -> list[str]:
    """The part of a training's command that is for the program itself."""
    program = sweep.get("program", "train_net.py")
    return list(command[command.index(program) + 1 if program in command else 0 :])
