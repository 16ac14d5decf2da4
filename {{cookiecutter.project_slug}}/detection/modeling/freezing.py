"""Parts of a model that a training leaves as they are."""

import difflib
import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from detection.utils.errors import UserError

logger = logging.getLogger(__name__)


def freeze(model: torch.nn.Module, patterns: Sequence[str]) -> None:
    """
    Keep parameters, and the statistics of frozen BatchNorms, from being trained.

    Args:
        model: changed in place.
        patterns: names of modules or parameters, `*` for any part: "backbone", "*.bias".

    Raises:
        UserError: a pattern that matches nothing, or nothing is left to train.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    parameters = dict(model.named_parameters())
    frozen = set()
    for pattern in patterns:
        matched = {
            name
            for name in parameters
            if any(fnmatchcase(name, p) for p in (pattern, f"{pattern}.*"))
        }
        if not matched:
            modules = [name for name, _ in model.named_modules()]
            nearest = difflib.get_close_matches(pattern, modules, n=1, cutoff=0.0)[0]
            raise UserError(f"train.freeze: no parameter is called {pattern}; {nearest} is near")
        frozen |= matched
    for name in frozen:
        parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"train.freeze={list(patterns)} leaves nothing to train")
    keep_frozen_statistics(model)
    if frozen:
        count = sum(parameters[name].numel() for name in frozen)
        logger.info(f"frozen: {len(frozen)} of {len(parameters)} parameters, {count:,} numbers")


def keep_frozen_statistics(model: torch.nn.Module) -> None:
    """Let BatchNorms stay in evaluation of which no parameter is trained."""
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, _BatchNorm) and own and not any(p.requires_grad for p in own):
            module.eval()
            module.train = partial(_stay, module)  # which a copy of the module gets for itself


def _stay(module: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
    return module
