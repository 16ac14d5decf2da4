"""What an optimizer gets: a learning rate that suits the batch, and parameters in groups."""

import re
from collections import defaultdict
from collections.abc import Sequence

import torch
from detectron2.config import instantiate
from detectron2.solver.build import get_default_optimizer_params
from omegaconf import DictConfig

from detection.utils.errors import UserError

# what a name's part that counts blocks begins with: res2.0, layer1.0, blocks.3, stages_0.blocks.1
_COUNTS = re.compile(
    r"((res|layers?_?|stages?_?|blocks?_?|features_|s|b)\d+|layers|stages|blocks|features)\Z"
)
# a backbone under a pyramid, under a ViT's, two in `transformers`, or one alone
_TRUNKS = (
    "backbone.bottom_up.",
    "backbone.net.",
    "backbone.backbone.",
    "backbone.model.",
    "backbone.",
)


def build_optimizer(cfg: DictConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Build `cfg.optimizer` for the parameters of `model`."""
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    cfg.optimizer.params.pop("model")
    return optimizer


def scaled_lr(base_lr: float, base_batch_size: int, total_batch_size: int, power: float) -> float:
    """
    Scale a learning rate from one batch size to another.

    Args:
        base_lr: the rate for `base_batch_size` images.
        base_batch_size: images per iteration, over all processes.
        total_batch_size: images per iteration of this training, over all processes.
        power: 1 for SGD (Goyal et al., arXiv:1706.02677); 0.5 for Adam (Malladi et al.,
            arXiv:2205.10287).
    """
    return base_lr * (total_batch_size / base_batch_size) ** power


def adamw(
    params: list[dict],
    lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    amsgrad: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
) -> torch.optim.AdamW:
    """PyTorch's AdamW; `betas` become a tuple, since they go into checkpoints as they are."""
    return torch.optim.AdamW(
        params, lr, tuple(betas), eps, weight_decay, amsgrad, foreach=foreach, fused=fused
    )


def layer_decayed_params(
    model: torch.nn.Module,
    lr: float,
    layer_decay: float = 1.0,
    backbone_lr_factor: float = 1.0,
    **defaults,
) -> list[dict]:
    """
    Parameter groups with lower learning rates for a pretrained backbone, and for its first blocks.

    Args:
        model: frozen parameters are left out.
        lr: of what follows the backbone.
        layer_decay: the factor from each block to the one before it (Bao et al.,
            arXiv:2106.08254); 1 gives all the same rate.
        backbone_lr_factor: of the whole backbone, but for a pyramid's own layers.
        defaults: of `get_default_optimizer_params`, e.g. `weight_decay_norm`.

    Raises:
        UserError: the names of the backbone's parameters do not tell its blocks apart.
    """
    factors = _lr_factors(model, layer_decay, backbone_lr_factor)
    groups = defaultdict(list)
    defaults = get_default_optimizer_params(model, base_lr=lr, **defaults)
    for number, group in enumerate(defaults):
        for parameter in group["params"]:
            groups[number, factors[parameter]].append(parameter)
    return [
        {**defaults[number], "params": parameters, "lr": defaults[number]["lr"] * factor}
        for (number, factor), parameters in groups.items()
    ]


def _lr_factors(
    model: torch.nn.Module, decay: float, backbone: float
) -> dict[torch.nn.Parameter, float]:
    depths = block_depths(model)
    example = _example(model)
    if backbone != 1 and not depths:
        raise UserError(
            f"optimizer.params.backbone_lr_factor={backbone}: the model has no backbone "
            f"({example}); set it to 1.0"
        )
    if decay != 1 and not any(depths.values()):
        raise UserError(
            f"optimizer.params.layer_decay={decay}: no blocks are numbered in the names of the "
            f"backbone's parameters ({example}); set it to 1.0, or add these names to _COUNTS in "
            "detection/solver/optimizer.py"
        )
    top = 1 + max(depths.values(), default=0)
    return {
        p: backbone * decay ** (top - depths[name]) if name in depths else 1.0
        for name, p in model.named_parameters()
    }


def _example(model: torch.nn.Module) -> str:
    names = [name for name, _ in model.named_parameters() if name.startswith("backbone.")]
    return f"such as {names[len(names) // 2]}" if names else "none is called backbone.…"


def block_depths(model: torch.nn.Module) -> dict[str, int]:
    """
    The block of each parameter of the backbone: 0 is the stem, what follows a block counts to it.

    A stage's own layers, such as a down-sampling, count to its first block, or to its last one if
    they come after it. A pyramid's own layers, trained from scratch, are left out.
    """
    names = [name for name, _ in model.named_parameters()]
    trunk = next((trunk for trunk in _TRUNKS if any(n.startswith(trunk) for n in names)), None)
    if trunk is None:
        return {}
    depth, last = 0, None
    depths = {}
    for name in names:
        if name.startswith(trunk):
            block = _block(name.removeprefix(trunk))
            if block is not None and not _is_part(block, of=last):
                if last is None or not _is_part(last, of=block):
                    depth += 1
                last = block
            depths[name] = depth
    return depths


def _block(name: str) -> str | None:
    """The part of a parameter's name that numbers its block, e.g. "res2.0"; None outside of one."""
    block = []
    for part in name.split("."):
        is_first = part == "layer" and not block  # in a ViT of `transformers`, but not in a ResNet
        if is_first or _COUNTS.match(part) or (block and part.isdigit()):
            block.append(part)
        elif block:
            break
    return ".".join(block) if any(character.isdigit() for character in "".join(block)) else None


def _is_part(block: str, of: str | None) -> bool:
    """Whether one name is the other's beginning, as a stage's is of its blocks'."""
    return of is not None and f"{of}.".startswith(f"{block}.")
