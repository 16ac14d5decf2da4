"""Loads a LazyConfig and applies command line overrides, refusing those that name nothing."""

import difflib
import importlib.util
import inspect
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import LazyConfig, instantiate
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detection.utils.arguments import find_config, split_override
from detection.utils.errors import UserError
from detection.utils.paths import PROJECT_ROOT, in_project
from detection.utils.utf8_files import UTF8Handler  # noqa: F401  before a config is read


def load_config(
    config_file: str, overrides: list[str] = (), notes: list[str] | None = None
) -> DictConfig:
    """
    Load a config and apply `key=value` overrides, as `apply_overrides` reads them.

    Configs get this project's `tta` and `tiles`, and those from elsewhere, such as upstream's model
    zoo, its `train` and `writers`, wherever they say nothing of their own. With `dataset.fold` set,
    the config's annotations and output directory become those of the fold, unless an override
    names others.

    Args:
        config_file: as `find_config` finds it.
        overrides: as `apply_overrides` reads them.
        notes: gets a sentence for the log, where the learning rate in force comes from.

    Raises:
        UserError: no such file, a malformed override, a key that does not exist, no such fold, or
            a package that is not installed.
    """
    try:
        cfg = LazyConfig.load(find_config(config_file))
    except SyntaxError as e:
        cause = e.__cause__ or e  # detectron2's names the file, Python's the line
        raise UserError(f"{e.args[0].rstrip('!')}: line {cause.lineno}, {cause.msg}") from e
    _fill_in(cfg)
    apply_overrides(cfg, overrides)
    _require_packages(OmegaConf.to_container(cfg))
    if OmegaConf.select(cfg, "dataset.fold") is not None:
        _choose_fold(cfg, {split_override(override)[1] for override in overrides})
    lr = OmegaConf.select(cfg, "optimizer.lr")
    if OmegaConf.is_config(lr):  # the number itself, for all who show or compare it
        cfg.optimizer.lr = instantiate(lr)
    if notes is not None and lr is not None:
        notes.append(f"learning rate: {cfg.optimizer.lr:g}{_origin(lr)}")
    return cfg


def _origin(lr: DictConfig | float) -> str:
    """How a learning rate follows from `optimizer.lr`: by a rule, or as it is."""
    if not OmegaConf.is_config(lr):
        return ", as optimizer.lr sets it; it does not follow the batch"
    try:
        batches = f"{lr.total_batch_size}/{lr.base_batch_size}"
        factor = batches if lr.power == 1 else f"({batches})^{lr.power:g}"
        return f" = {lr.base_lr:g} × {factor} (base_lr × total_batch_size / base_batch_size)"
    except OmegaConfBaseException:  # another rule
        return f", by {to_plain(lr)['_target_']}"


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """
    Apply `key=value`, `+new_key=value` and `~key` overrides in place.

    Values are of Hydra's grammar. For a key whose value is a string or None, any other value is
    the string itself: it may hold blanks, brackets, commas and quotation marks.

    Raises:
        UserError: a malformed override, or a key that does not exist, with the nearest one.
    """
    for override in overrides:
        mark, key, value = split_override(override)
        if "+" not in mark and not _exists(cfg, key):
            nearest = difflib.get_close_matches(key, all_keys(cfg), n=1, cutoff=0.0)
            hint = f"did you mean {nearest[0]}?" if nearest else "the config is empty"
            raise UserError(f"no such config key: {key}; {hint} (+{key}=… adds a new one)")
        try:
            if mark == "~":
                parent, _, name = key.rpartition(".")
                node = OmegaConf.select(cfg, parent) if parent else cfg
                node.pop(int(name) if isinstance(node, ListConfig) else name)
            else:
                OmegaConf.update(cfg, key, _value(cfg, key, value), force_add=True)
        except (OmegaConfBaseException, TypeError, ValueError) as e:
            reason = str(e).splitlines()[0]
            raise UserError(f"cannot apply {override}: {reason}") from e
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


def accepts_argument(target, name: str) -> bool:
    """Whether a LazyCall's callable has a parameter of that name, though the config leaves it out.

    Only names written in a signature count, those of base classes too where a class passes on its
    **kwargs, which by themselves would let any typing mistake through.
    """
    target = locate(target) if isinstance(target, str) else target
    classes = inspect.getmro(target) if inspect.isclass(target) else ()
    # @configurable constructors hide their signature behind functools.wraps, which inspect undoes
    for function in [c.__init__ for c in classes if "__init__" in vars(c)] or [target]:
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            return False
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if name != "self" and name in parameters and parameters[name].kind in kinds:
            return True
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return False
    return False


def to_plain(cfg) -> object:
    """The config as dicts, lists and scalars; callables as dotted names, for display elsewhere."""
    if OmegaConf.is_config(cfg):
        cfg = OmegaConf.to_container(cfg, resolve=True)
    if isinstance(cfg, dict):
        return {str(k): to_plain(v) for k, v in cfg.items()}
    if isinstance(cfg, list | tuple):
        return [to_plain(v) for v in cfg]
    if cfg is None or isinstance(cfg, bool | int | float | str):
        return cfg
    if callable(cfg) and hasattr(cfg, "__qualname__"):
        return f"{cfg.__module__}.{cfg.__qualname__}"
    return str(cfg)


def _value(cfg: DictConfig, key: str, text: str) -> object:
    """What the text of an override means for this key; see `apply_overrides`."""
    try:
        takes_text = isinstance(OmegaConf.select(cfg, key), str | None)
    except OmegaConfBaseException:  # an interpolation of a missing key
        takes_text = True
    try:
        # as far as Hydra's grammar knows letters
        parsed = OverridesParser.create().parse_override(f"key={text}")
        value = parsed.value()
        if parsed.is_sweep_override():
            raise HydraException("several values; [a,b] is a list")
    except HydraException as e:
        if takes_text:
            return text
        if not text.isascii() and text[0] not in "'\"[{":
            return text
        reason = str(e).splitlines()[0]
        quoted = QuotedString(text, Quote.double).with_quotes()
        hint = shlex.quote(f"{key}={quoted}")
        raise UserError(
            f"cannot read the override {key}={text}: {reason}; a string is written {hint}"
        ) from e
    # not shortened or unescaped, unless it is in quotation marks
    is_bare = isinstance(value, str) and text.strip()[:1] not in ("'", '"') and "${" not in text
    return text if takes_text and is_bare else value


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
                    f"dataset.fold={fold}: {json_file} does not exist; `make split` writes folds "
                    f"(existing: {', '.join(there) or 'none'})"
                )
            cfg.dataset[split].json_file = json_file
            if split == "val" and "dataset.val.image_root" not in overridden:
                cfg.dataset.val.image_root = cfg.dataset.train.image_root  # it is part of train
    if "train.output_dir" not in overridden:
        cfg.train.output_dir = cfg.train.output_dir.rstrip("/") + fold_suffix(fold)


def fold_suffix(fold: int | str) -> str:
    """What ends the name of a run on a fold: "_fold0", "_holdout"."""
    return f"_fold{fold}" if str(fold).isdigit() else f"_{fold}"


def _exists(cfg: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    try:
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if isinstance(node, ListConfig):
            return name.isdigit() and int(name) < len(node)
        if not isinstance(node, DictConfig) or node._is_none():
            return False
        return name in node or ("_target_" in node and accepts_argument(node._target_, name))
    except OmegaConfBaseException:
        return False


def _require_packages(node: object) -> None:
    """Refuse a config that names, as text, a callable of a package that is not installed."""
    if isinstance(node, list):
        for value in node:
            _require_packages(value)
    elif isinstance(node, dict):
        _require_packages(list(node.values()))
        if isinstance(target := node.get("_target_"), str):
            package = target.partition(".")[0]
            if not (sys.modules.get(package) or importlib.util.find_spec(package)):
                raise UserError(
                    f"the config names {target}, and {package} is not installed: uv add {package}"
                )


def _fill_in(cfg: DictConfig) -> None:
    common = str(PROJECT_ROOT / "configs" / "common")
    defaults = LazyConfig.load(f"{common}/train.py").train
    evaluator = OmegaConf.select(cfg, "dataloader.evaluator._target_")
    if evaluator is not None and not accepts_argument(
        evaluator, "metric"
    ):  # such as detectron2's own
        defaults.best_checkpointer.val_metric = "bbox/AP"
    cfg.train = OmegaConf.merge(defaults, cfg.get("train", {}))
    for name in ("writers", "tta", "tiles"):
        if name not in cfg:
            cfg[name] = LazyConfig.load(f"{common}/{name}.py")[name]
