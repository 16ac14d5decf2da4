"""Maps the rows of a checkpoint's heads to the model's classes by name."""

import logging
import re
from collections.abc import Sequence

import torch

from detection.checks.class_names import describe_lists, list_names
from detection.utils.errors import UserError

logger = logging.getLogger(__name__)

KEY = "thing_classes"  # in a checkpoint, as in a data set's metadata
_CLASS_LAYER = re.compile(
    r"(cls_score|mask_head\.predictor|class_embed(\.0)?|class_labels_classifier)\.weight$"
)
# of `transformers`: one row for each class, and maybe one more, which is of none
_CLASS_ROWS = re.compile(
    r"(class_embed(\.\d+)?|enc_score_head|class_labels_classifier|denoising_class_embed)$"
)


def recorded_classes(checkpoint: dict) -> list[str] | None:
    """The class names in a loaded checkpoint; None if it has none."""
    names = checkpoint.get(KEY)
    is_list = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    return names if is_list else None


def are_unrecorded(checkpoint: dict, model: torch.nn.Module) -> bool:
    """Whether rows of classes fit the model, and only their places say of which classes they are.

    The model zoo's weights, which are for COCO's classes, do not count.
    """
    if recorded_classes(checkpoint) or checkpoint.keys() & {"__author__", "matching_heuristics"}:
        return False
    own = model.state_dict()
    return any(
        _CLASS_LAYER.search(name) and name in own and value.shape == own[name].shape
        for name, value in checkpoint["model"].items()
    )


def class_rows(name: str, state: dict[str, torch.Tensor], count: int) -> torch.Tensor | None:
    """
    Find which rows of a parameter belong to which class, in detectron2's and transformers' heads.

    Args:
        name: of the parameter, e.g. "roi_heads.box_predictor.cls_score.bias".
        state: of the model, with that parameter.
        count: of the classes.

    Returns:
        Row numbers of shape (count, rows per class); None for a parameter that all classes share.
        The remaining rows are the background's.
    """
    layer, _, _ = name.rpartition(".")
    rows = len(state[name]) if state[name].ndim else 0
    is_convolution = state.get(f"{layer}.weight", state[name]).ndim == 4
    if layer.endswith("cls_score") and is_convolution:  # anchors × classes, for RetinaNet and FCOS
        if rows and rows % count == 0:
            return torch.arange(rows).view(-1, count).T
    elif layer.endswith("cls_score"):
        if rows == count + 1:  # the background comes last
            return torch.arange(count).view(count, 1)
    elif layer.endswith("bbox_pred") and not is_convolution:
        if rows == 4 * count:
            return torch.arange(rows).view(count, 4)
    elif layer.endswith("mask_head.predictor") and rows == count:
        return torch.arange(count).view(count, 1)
    elif _CLASS_ROWS.search(layer) and rows in (count, count + 1):
        return torch.arange(count).view(count, 1)
    return None


def map_class_rows(
    state: dict[str, torch.Tensor],
    own: dict[str, torch.Tensor],
    recorded: Sequence[str],
    wanted: Sequence[str],
) -> tuple[dict[str, torch.Tensor], set[str]]:
    """
    Move each class's rows to where the model has that class, by name.

    Args:
        state: weights from a checkpoint.
        own: the model's weights; kept for the classes that `recorded` lacks.
        recorded, wanted: the class names of checkpoint and model, in order.

    Returns:
        The weights with mapped parameters, and the names of the mapped parameters.
    """
    pairs = [(k, wanted.index(name)) for k, name in enumerate(recorded) if name in wanted]
    mapped = {}
    for name, value in state.items():
        if name not in own or value.shape[1:] != own[name].shape[1:]:
            continue
        source = class_rows(name, state, len(recorded))
        target = class_rows(name, own, len(wanted))
        if source is None or target is None:
            continue
        new = own[name].detach().cpu().clone()
        if pairs and source.shape[1] == target.shape[1]:
            of, to = (list(numbers) for numbers in zip(*pairs, strict=True))
            new[target[to].flatten()] = value[source[of].flatten()].to(new.dtype)
            if source.numel() < len(value):  # the background
                new[target.numel() :] = value[source.numel() :].to(new.dtype)
        mapped[name] = new
    return {**state, **mapped}, set(mapped)


def permuted(checkpoint: dict, model: torch.nn.Module, wanted: Sequence[str]) -> dict:
    """
    Reorder the checkpoint's classes to `wanted`, for inference.

    Raises:
        UserError: its classes have other names, or the model has no head with a known layout.
    """
    recorded = recorded_classes(checkpoint)
    if recorded is None or recorded == list(wanted):
        return checkpoint
    if sorted(recorded) != sorted(wanted):
        raise UserError(
            f"the checkpoint's {describe_lists(recorded, wanted)}; write its names into "
            "detection/classes.py and the data's categories, or name a checkpoint of these classes"
        )
    state, mapped = map_class_rows(checkpoint["model"], model.state_dict(), recorded, wanted)
    if not mapped:
        raise UserError(
            f"the checkpoint's {describe_lists(recorded, wanted)}, and the model has no head whose "
            "classes can be reordered; write them into detection/classes.py in that first order"
        )
    logger.info("the checkpoint has the classes in another order: its heads are reordered by name")
    return {**checkpoint, "model": state}


def require_same(checkpoint: dict, wanted: Sequence[str]) -> None:
    """
    Refuse to resume with other classes.

    Raises:
        UserError: the classes differ in name or order.
    """
    recorded = recorded_classes(checkpoint)
    if recorded is not None and recorded != list(wanted):
        raise UserError(
            f"the checkpoint's {describe_lists(recorded, wanted)}; to resume, write them into "
            "detection/classes.py as they were; or start a new training from this checkpoint, with "
            "train.init_checkpoint and another train.output_dir"
        )


def taken_by_name(checkpoint: dict, model: torch.nn.Module, wanted: Sequence[str]) -> dict:
    """Keep the rows of classes that the model has too, for fine-tuning."""
    recorded = recorded_classes(checkpoint)
    if recorded is None or recorded == list(wanted):
        return checkpoint
    state, mapped = map_class_rows(checkpoint["model"], model.state_dict(), recorded, wanted)
    if not mapped:
        return checkpoint
    taken = [name for name in wanted if name in recorded]
    fresh = [name for name in wanted if name not in recorded]
    left = [name for name in recorded if name not in wanted]
    logger.info(
        f"classes in the heads: {list_names(taken) or 'none'} taken from the checkpoint by name; "
        f"{list_names(fresh) or 'none'} start fresh"
        + (f"; {list_names(left)} not used" if left else "")
    )
    return {**checkpoint, "model": state}
