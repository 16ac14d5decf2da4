"""The weights that DINO's authors publish, under this project's names."""

import logging
import re

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import nn

from detection.checkpoint.classes import KEY
from detection.utils.errors import UserError

logger = logging.getLogger(__name__)

_COCO_ROWS = 91  # one for each of COCO's category ids, which begin at 1 and have gaps
_COCO = {c["id"]: c["name"] for c in COCO_CATEGORIES if c["isthing"]}
_CLASS_LAYER = re.compile(r"(class_embed|denoising\.class_embed)\.(weight|bias)$")
# tables, and heads that are in the decoder too
_NOT_NEEDED = re.compile(r"(class_embed|bbox_embed)\.|.*\.relative_position_index$")
_RENAMED = [
    (r"^label_enc\.", "denoising.class_embed."),
    (r"^transformer\.decoder\.(class|bbox)_embed\.0\.", r"transformer.decoder.\1_embed."),
    (r"^input_proj\.", "backbone.input_proj."),
    (r"^backbone\.0\.(body\.)?", "backbone.bottom_up."),
]
# torchvision's ResNet as detectron2 names it
_RESNET = [
    (r"(?<=bottom_up\.)conv1\.", "stem.conv1."),
    (r"(?<=bottom_up\.)bn1\.", "stem.conv1.norm."),
    (r"\.layer(\d)\.", lambda match: f".res{int(match[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
]
# Microsoft's Swin as timm names it, whose stages begin with what ended the one before
_TIMM = [
    (r"(?<=bottom_up\.)", "net."),
    (r"\.layers\.(\d)\.downsample\.", lambda match: f".layers.{int(match[1]) + 1}.downsample."),
    (r"\.layers\.(\d)\.", r".layers_\1."),
]


def own_names(model: nn.Module, loaded: dict, filename: str) -> dict:
    """
    A checkpoint of IDEA-Research/DINO with the names of `DINO`, and COCO's classes.

    Args:
        model: what they are for, a `DINO` whose backbone is a `ChannelMapper`.
        loaded: `model` are the weights by name; one with this project's names stays as it is.
        filename: for the message.

    Raises:
        UserError: each layer of the decoder has heads of its own, or the model takes BGR.
    """
    state = {name.removeprefix("module."): value for name, value in loaded["model"].items()}
    if "label_enc.weight" not in state:
        return loaded
    if model.input_format != "RGB":
        raise UserError(f"{filename}: these weights are for RGB; set model.input_format=RGB")
    known = model.state_dict()
    norms = sorted(name for name in state if re.match(r"backbone\.0\.norm\d\.weight$", name))
    converted = {}
    for name, value in state.items():
        if head := re.match(r"transformer\.decoder\.((class|bbox)_embed)\.[1-9]\d*\.(.+)", name):
            if not torch.equal(value, state[f"transformer.decoder.{head[1]}.0.{head[3]}"]):
                raise UserError(f"{filename}: {name} is not shared by the decoder's layers")
        elif not _NOT_NEEDED.match(name):
            converted[_new_name(name, norms, known)] = value
    # the authors' has a row more, for none
    rows = len(converted["transformer.decoder.class_embed.bias"])
    converted["denoising.class_embed.weight"] = converted["denoising.class_embed.weight"][:rows]
    logger.info("weights of IDEA-Research/DINO, license: apache-2.0")
    if rows != _COCO_ROWS:
        return {"model": converted}
    for name in filter(_CLASS_LAYER.search, converted):
        converted[name] = converted[name][list(_COCO)]
    return {"model": converted, KEY: list(_COCO.values())}


def _new_name(name: str, norms: list[str], known: dict) -> str:
    """The model's name for a weight, whatever its backbone."""
    if norm := re.match(r"(backbone\.0\.norm\d)\.(weight|bias)$", name):
        return f"backbone.input_norms.{norms.index(f'{norm[1]}.weight')}.{norm[2]}"
    name = _substituted(name, _RENAMED)
    candidates = [name, *(_substituted(name, backbone) for backbone in (_RESNET, _TIMM))]
    return next((candidate for candidate in candidates if candidate in known), name)


def _substituted(name: str, patterns: list) -> str:
    for pattern, new in patterns:
        name = re.sub(pattern, new, name)
    return name
