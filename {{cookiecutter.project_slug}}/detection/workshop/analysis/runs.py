"""How a training went: what metrics.json and config.yaml in its output folder say."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from detection.checks.class_names import describe_lists
from detection.data.image_roots import config_root, load_dataset
from detection.utils.errors import UserError

LARGEST_CONFIG = 100_000  # values


def read_history(run: str) -> dict[str, list[tuple[int, float]]]:
    """
    The curves of a run, {metric: [(iteration, value)]}, iterations ascending.

    After a resume iterations may stand there twice: the later row holds. A last line that is not
    whole, as a killed run leaves it, is left out; so are values that are not finite.

    Raises:
        UserError: there is no metrics.json, or it is malformed.
    """
    path = Path(run) / "metrics.json"
    try:
        # a killed run may end in the middle of a letter
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError as e:
        reason = e.strerror or e
        raise UserError(f"{path}: cannot be read ({reason}); --run takes an output folder") from e
    rows = {}
    written = [line for line in text.split("\n") if line.strip()]
    for number, line in enumerate(written, start=1):
        try:
            row = json.loads(line)
            iteration = int(row["iteration"])
            rows[iteration] = rows.get(iteration, {}) | row
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as e:
            if number == len(written):
                break
            raise UserError(f"{path}: line {number} is no row of metrics; take it out") from e
    curves = {}
    for iteration in sorted(rows):
        for name, value in rows[iteration].items():
            # math.isfinite raises an error for whole numbers of 400 digits
            is_number = type(value) in (int, float) and abs(value) <= sys.float_info.max
            if name != "iteration" and is_number:
                curves.setdefault(name, []).append((iteration, value))
    return curves


def check_classes(run: str, names: Sequence[str]) -> None:
    """
    Raises:
        UserError: the best model of a run is for other classes than these, in any order.
    """
    try:
        recorded = json.loads((Path(run) / "model_best.json").read_bytes())["thing_classes"]
        is_other = set(recorded) != set(names)
    except (KeyError, OSError, TypeError, ValueError):  # of an older run, or none
        return
    if is_other:
        raise UserError(
            f"{run}: the training's {describe_lists(recorded, names)}; give the --run that made "
            "the predictions, or its annotations"
        )


def read_config(run: str | Path) -> dict:
    """
    The config.yaml of a run as dicts, lists and scalars; empty if there is none; UserError if it is
    malformed.
    """
    path = Path(run) / "config.yaml"
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
        if _size(config, {}) > LARGEST_CONFIG:
            raise ValueError("its aliases repeat each other")
    except FileNotFoundError:
        return {}
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as e:
        raise UserError(f"{path}: cannot be read; write it again, or take it away") from e
    return config if isinstance(config, dict) else {}


def read_image_root(results_file: str, json_file: str, run: str | None = None) -> str:
    """
    The folder of an annotation file's images, as the training has it, or else as configs share it.

    Args:
        results_file: what the training's model found.
        run: the training's output folder; None: that of `<run>/predictions/<results_file>`.

    Raises:
        UserError: the training's config.yaml is malformed.
    """
    run = run or str(Path(results_file).resolve().parent.parent)
    try:
        dataset = read_config(run).get("dataset")
    except UserError as e:
        raise UserError(f"{Path(run) / 'config.yaml'}: cannot be read; say --image-root") from e
    try:
        plain = {k: v for k, v in dataset.items() if "${" not in str(v)}
        return config_root(plain, json_file)
    except (AttributeError, TypeError):
        return config_root(load_dataset(), json_file)


def _size(value: object, sizes: dict[int, float]) -> float:
    """How many values it holds, written out; infinite if it holds itself. `sizes` are by id()."""
    if id(value) not in sizes:
        inner = value.values() if isinstance(value, dict) else value
        inner = inner if isinstance(value, dict | list) else ()
        sizes[id(value)] = math.inf if inner else 1
        sizes[id(value)] = 1 + sum(_size(v, sizes) for v in inner)
    return sizes[id(value)]


class _PlainLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Takes Python objects, which detectron2 writes too, for lists, dicts or their names."""


def _plain(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return node.value or suffix


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)
