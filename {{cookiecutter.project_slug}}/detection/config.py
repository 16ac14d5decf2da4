"""Loads a LazyConfig and applies command line overrides, refusing those that name nothing."""

import argparse
import difflib
import inspect
from pathlib import Path

from detectron2.config import LazyConfig, instantiate
from detectron2.engine import default_argument_parser
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detection.errors import UserError
from detection.paths import PROJECT_ROOT, in_project


def parse_args(argv: list[str], epilog: str | None = None) -> argparse.Namespace:
    """detectron2's flags and `opts`, the overrides; unlike upstream's, in any order."""
    # argparse.REMAINDER would take each flag behind the first override for another override
    flags, overrides = split_overrides(argv)
    parser = default_argument_parser(epilog=epilog)
    parser.add_argument(
        "--fast-dev-run",
        action="store_true",
        help="train, evaluate, save and predict for a few iterations, to find what would fail",
    )
    return parser.parse_args(flags + overrides)


def split_overrides(argv: list[str]) -> tuple[list[str], list[str]]:
    """The arguments of a command line without its overrides, `key=value` or `~key`, and these."""
    overrides = [a for a in argv if not a.startswith("-") and ("=" in a or a.startswith("~"))]
    return [a for a in argv if a not in overrides], overrides


def load_config(config_file: str, overrides: list[str] = ()) -> DictConfig:
    """
    Load a config and apply `key=value` overrides (Hydra's grammar).

    Configs get this project's `tta`, and those from elsewhere, such as upstream's model zoo, its
    `train` and `writers`, wherever they say nothing of their own. With `dataset.fold` set, the
    config's annotations and output directory become those of the fold, unless an override names
    others.

    Raises:
        UserError: no such file, a malformed override, a key that does not exist, or no such fold.
    """
    if not config_file:
        names = sorted(p.name for p in (PROJECT_ROOT / "configs").glob("*.py"))
        raise UserError(f"--config-file is missing; configs/ has {', '.join(names)}")
    if "://" not in config_file and not Path(config_file).is_file():
        raise UserError(f"{config_file}: no such config file")
    cfg = LazyConfig.load(config_file)
    _fill_in(cfg)
    apply_overrides(cfg, list(overrides))
    if OmegaConf.select(cfg, "dataset.fold") is not None:
        _choose_fold(cfg, {override.key_or_group for override in _parse(list(overrides))})
    lr = OmegaConf.select(cfg, "optimizer.lr")
    if OmegaConf.is_config(lr):  # the number itself, for all who show or compare it
        cfg.optimizer.lr = instantiate(lr)
    return cfg


def apply_overrides(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """
    Apply `key=value`, `+new_key=value` and `~key` overrides in place.

    Raises:
        UserError: a malformed override, or a key that does not exist, with the nearest one.
    """
    for override in _parse(overrides):
        key = override.key_or_group
        if not override.is_add() and not _exists(cfg, key):
            nearest = difflib.get_close_matches(key, all_keys(cfg), n=1, cutoff=0.0)
            hint = f"did you mean {nearest[0]}?" if nearest else "the config is empty"
            raise UserError(f"no such config key: {key}; {hint} (+{key}=… adds a new one)")
        try:
            if override.is_delete():
                parent, _, name = key.rpartition(".")
                node = OmegaConf.select(cfg, parent) if parent else cfg
                node.pop(int(name) if isinstance(node, ListConfig) else name)
            else:
                OmegaConf.update(cfg, key, override.value(), force_add=True)
        except (OmegaConfBaseException, TypeError, ValueError) as e:
            reason = str(e).splitlines()[0]
            raise UserError(f"cannot apply {override.input_line}: {reason}") from e
    return cfg


def all_keys(cfg: DictConfig | ListConfig, prefix: str = "") -> list[str]:
    """Dotted names of all nodes, inner and leaf, interpolations unresolved."""
    keys = []
    for name in range(len(cfg)) if isinstance(cfg, ListConfig) else cfg.keys():
        if name == "_target_":
            continue
        keys.append(f"{prefix}{name}")
        if not OmegaConf.is_interpolation(cfg, name) and OmegaConf.is_config(cfg[name]):
            keys += all_keys(cfg[name], f"{prefix}{name}.")
    return keys


def takes(target, name: str) -> bool:
    """Whether a LazyCall's callable has a parameter of that name, though the config leaves it out.

    Only names written in the signature count: **kwargs would let any typing mistake through.
    """
    target = locate(target) if isinstance(target, str) else target
    # @configurable constructors hide their signature behind functools.wraps, which inspect undoes
    function = target.__init__ if inspect.isclass(target) else target
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return name != "self" and name in parameters and parameters[name].kind in kinds


def plain(cfg) -> object:
    """The config as dicts, lists and scalars; callables as dotted names, for display elsewhere."""
    if OmegaConf.is_config(cfg):
        cfg = OmegaConf.to_container(cfg, resolve=True)
    if isinstance(cfg, dict):
        return {str(k): plain(v) for k, v in cfg.items()}
    if isinstance(cfg, list | tuple):
        return [plain(v) for v in cfg]
    if cfg is None or isinstance(cfg, bool | int | float | str):
        return cfg
    if callable(cfg) and hasattr(cfg, "__qualname__"):
        return f"{cfg.__module__}.{cfg.__qualname__}"
    return str(cfg)


def _parse(overrides: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(map(_quoted, overrides)))
    except HydraException as e:
        raise UserError(f"cannot read the overrides {overrides}: {str(e).splitlines()[0]}") from e


def _choose_fold(cfg: DictConfig, overridden: set[str]) -> None:
    """Puts the fold's json files and an output directory of its own in place; see `load_config`."""
    fold, folder = str(cfg.dataset.fold), cfg.dataset.folds
    if "dataset.train.json_file" in overridden:
        raise UserError("dataset.fold chooses dataset.train.json_file: give one of the two")
    for split in ("train", "val"):
        # predictions of a fold's model on another set name that set
        if f"dataset.{split}.json_file" not in overridden:
            json_file = f"{folder}/{fold}/{split}.json"
            if "://" not in json_file and not Path(in_project(json_file)).is_file():
                there = sorted({p.parent.name for p in Path(in_project(folder)).glob("*/val.json")})
                raise UserError(
                    f"dataset.fold={fold}: {json_file} is not there; `make split` writes folds "
                    f"(those there: {', '.join(there) or 'none'})"
                )
            cfg.dataset[split].json_file = json_file
    if "train.output_dir" not in overridden:
        suffix = f"fold{fold}" if fold.isdigit() else fold
        cfg.train.output_dir = f"{cfg.train.output_dir.rstrip('/')}_{suffix}"


def _quoted(override: str) -> str:
    """The override, its value in quotes where Hydra's grammar wants them: in other scripts."""
    key, equals, value = override.partition("=")
    if value.isascii() or value[0] in "'\"[{":
        return override
    return f"{key}{equals}'{value}'" if "'" not in value else f'{key}{equals}"{value}"'


def _exists(cfg: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    try:
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if isinstance(node, ListConfig):
            return name.isdigit() and int(name) < len(node)
        if not isinstance(node, DictConfig) or node._is_none():
            return False
        return name in node or ("_target_" in node and takes(node._target_, name))
    except OmegaConfBaseException:
        return False


def _fill_in(cfg: DictConfig) -> None:
    common = str(PROJECT_ROOT / "configs" / "common")
    defaults = LazyConfig.load(f"{common}/train.py").train
    cfg.train = OmegaConf.merge(defaults, cfg.get("train", {}))
    for name in ("writers", "tta"):
        if name not in cfg:
            cfg[name] = LazyConfig.load(f"{common}/{name}.py")[name]
