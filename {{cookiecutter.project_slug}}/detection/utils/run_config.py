"""The config.yaml of a training, read without what it names."""

import math
from pathlib import Path

import yaml

from detection.utils.errors import UserError

LARGEST_CONFIG = 100_000  # values


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
