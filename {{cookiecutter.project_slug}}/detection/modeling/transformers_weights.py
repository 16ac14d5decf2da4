"""Weights of `transformers`' own format, from the hub or `save_pretrained`, for this project."""

import json
import logging
import re
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from detection.checkpoint.classes import KEY
from detection.modeling.authors_names import from_authors
from detection.utils.errors import UserError

logger = logging.getLogger(__name__)

_HEAD = re.compile(r"(class_embed(\.0)?|class_labels_classifier)\.bias\Z")
# what a training may choose otherwise than the one before
_FREE = re.compile(
    r"(_.*|.*label.*|architectures|.*dtype|transformers_version|.*loss_.*|.*weight_.*|.*cost"
    r"|.*dropout.*|freeze_.*|num_denoising|.*noise.*|auxiliary_loss|output_.*|return_dict|use_.*"
    r"|problem_type|init.*|anchor_image_size|eval_size|.*_name_or_path|out_indices|stage_names"
    r"|chunk_size_.*|backbone|backbone_kwargs)\Z"
)


def own_names(model: nn.Module, loaded: dict, filename: str) -> dict:
    """
    A checkpoint of `transformers` with the names of `TransformersDetector`, and its classes'.

    On the disk weights may have older names, or those of the authors; `transformers` knows them.

    Args:
        model: what they are for, a `TransformersDetector`.
        loaded: `model` are the weights by name, of the authors' own files too; one with this
            project's names stays as it is.
        filename: beside it `config.json` names the classes, and `preprocessor_config.json` how
            pixels are normalized.

    Raises:
        UserError: they are of another family, or the pixels were normalized in another way.
    """
    state = from_authors(loaded["model"], model.net.config.model_type)
    if any(name.startswith("net.") for name in state):
        return loaded
    folder = Path(filename).parent
    _check_pixels(model, folder)
    saved = _read(folder / "config.json")
    config = deepcopy(model.net.config)
    if saved.get("model_type", config.model_type) != config.model_type:
        raise UserError(
            f"{filename}: weights of another model, {saved['model_type']}, and not of "
            f"{config.model_type}; see train.init_checkpoint"
        )
    head = next((name for name in state if _HEAD.search(name)), None)
    if head:
        config.num_labels = len(state[head]) - ("class_labels_classifier" in head)
    _warn_of_differences(config.to_dict(), saved)
    values, problems = _through_transformers(type(model.net), config, state)
    for name in problems["missing_keys"]:  # random numbers
        values.pop(name, None)
    for name, shape, _ in problems["mismatched_keys"]:  # the line on them shows it
        values[name] = torch.empty(shape, device="meta")
    known = {hub: name for name, hub in model.hub_names().items()}
    converted = {known.get(hub, hub): value for hub, value in values.items()}
    converted |= {name: state[name] for name in problems["unexpected_keys"] if name in state}
    loaded = {**loaded, "model": converted}
    labels = saved.get("id2label") or {}
    names = [labels.get(str(number)) for number in range(config.num_labels)]
    is_named = all(name and not re.fullmatch(r"LABEL_\d+", name) for name in names)
    return {**loaded, KEY: names} if is_named else loaded


def _through_transformers(
    family: type, config, state: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict]:
    """The state of a model that has loaded these weights, and what did not fit."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            twin, problems = family.from_pretrained(
                None,
                config=config,
                state_dict=dict(state),
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    finally:
        transformers_logging.set_verbosity(level)
        if had_bar:
            transformers_logging.enable_progress_bar()
    return dict(twin.state_dict()), problems


def _check_pixels(model: nn.Module, folder: Path) -> None:
    """
    Raises:
        UserError: the model normalizes pixels otherwise than a `preprocessor_config.json` says.
    """
    saved = _read(folder / "preprocessor_config.json")
    if not saved:
        return
    largest = 1 / saved.get("rescale_factor", 1 / 255) if saved.get("do_rescale", True) else 1.0
    wanted = {"pixel_mean": [0.0] * 3, "pixel_std": [largest] * 3}
    if saved.get("do_normalize", True) and "image_mean" in saved:
        wanted["pixel_mean"] = [largest * value for value in saved["image_mean"]]
        wanted["pixel_std"] = [largest * value for value in saved["image_std"]]
    if model.input_format == "BGR":
        wanted = {name: values[::-1] for name, values in wanted.items()}
    for name, values in wanted.items():
        own = getattr(model, name).flatten()
        if not torch.allclose(own.cpu(), torch.tensor(values), rtol=1e-3, atol=0.01):
            shown = ",".join(f"{value:.6g}" for value in values)
            raise UserError(
                f"{folder / 'preprocessor_config.json'}: these weights were trained with other "
                f"pixels; set model.{name}=[{shown}]"
            )


def _warn_of_differences(own: dict, saved: dict) -> None:
    """Warn of settings with which the weights were trained, and the model differs."""
    differing = []
    for name in sorted(own.keys() & saved.keys()):
        if _FREE.match(name):
            continue
        if isinstance(own[name], dict) and isinstance(saved[name], dict):
            inner = [k for k in own[name].keys() & saved[name].keys() if not _FREE.match(k)]
            pairs = [(f"{name}.{k}", own[name][k], saved[name][k]) for k in sorted(inner)]
        else:
            pairs = [(name, own[name], saved[name])]
        differing += [(k, b) for k, a, b in pairs if a != b and a is not None and b is not None]
    if differing:
        settings = " ".join(f"model.config.{name}={value}" for name, value in differing[:6])
        logger.warning(f"the weights were trained with other settings; for the same: {settings}")


def _read(path: Path) -> dict:
    """A json file; {} where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
