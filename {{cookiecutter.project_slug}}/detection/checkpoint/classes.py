"""Maps the rows of a checkpoint's heads to the model's classes by name."""

import logging
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch

from detection.checks.class_names import describe_lists, list_names
from detection.utils.errors import UserError

logger = logging.getLogger(__name__)

KEY = "thing_classes"  # in a checkpoint, as in a data set's metadata


class _Layout(NamedTuple):
    """How the rows of a layer belong to classes."""

    layer: str  # the end of its name
    is_convolution: bool
    per_class: int | None  # rows; None: they are anchors × classes
    others: tuple[int, ...] = (0,)  # how many rows of no class may follow


# of detectron2's heads and of those of transformers and DINO
_LAYOUTS = (
    _Layout(r"cls_score", False, 1, (1,)),  # the background's
    _Layout(r"cls_score", True, None),  # RetinaNet's and FCOS's
    _Layout(r"bbox_pred", False, 4),
    _Layout(r"mask_head\.predictor", True, 1),
    _Layout(r"class_embed(\.\d+)?", False, 1, (0, 1)),  # denoising_class_embed too
    _Layout(r"enc_score_head", False, 1, (0, 1)),
    _Layout(r"class_labels_classifier", False, 1, (0, 1)),
)


def is_of_classes(name: str) -> bool:
    """Whether a parameter is of a layer whose rows are counted in classes, by its name."""
    return any(_is_in(layout, name) for layout in _LAYOUTS)


def _is_in(layout: _Layout, name: str) -> bool:
    return bool(re.search(rf"{layout.layer}\.(weight|bias)\Z", name))


def _layout_of(name: str, state: dict[str, torch.Tensor]) -> _Layout | None:
    weight = state.get(f"{name.rpartition('.')[0]}.weight", state[name])
    found = (x for x in _LAYOUTS if _is_in(x, name) and x.is_convolution == (weight.ndim == 4))
    return next(found, None)


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
    own, state = model.state_dict(), checkpoint["model"]
    # box layers that all classes share have four rows too
    layers = [n for n in state if (layout := _layout_of(n, state)) and layout.per_class != 4]
    return any(name in own and state[name].shape == own[name].shape for name in layers)


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
    layout, rows = _layout_of(name, state), len(state[name]) if state[name].ndim else 0
    if layout is None or not rows:
        return None
    if layout.per_class is None:
        return torch.arange(rows).view(-1, count).T if rows % count == 0 else None
    of_classes = count * layout.per_class
    if rows - of_classes not in layout.others:
        return None
    return torch.arange(of_classes).view(count, layout.per_class)


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
