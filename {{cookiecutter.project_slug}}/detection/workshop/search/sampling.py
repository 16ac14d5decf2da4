"""How a study chooses the values of its trials, and which trials it stops."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from detection.utils.errors import UserError
from detection.workshop.search.space import Parameter

# user attributes of a trial
REPEATS = "repeats"  # the number of the trial that a kill cut off
SURPLUS = "surplus"  # it came when another worker had taken the last


def rank_of(trials: Sequence[FrozenTrial], number: float) -> int:
    """How many trials came before a trial; those that repeat another do not count."""
    attributes = [trial.user_attrs for trial in trials if trial.number < number]
    return sum(REPEATS not in a and SURPLUS not in a for a in attributes)


class GridSampler(optuna.samplers.BaseSampler):
    """
    Goes through a grid once.

    Optuna's own counts a trial that is repeated twice, and lets workers that have nothing left
    to do repeat those of others.
    """

    def __init__(self, space: Sequence[Parameter]):
        self._points = {p.name: p.grid() for p in space if p.distribution is not None}

    @property
    def size(self) -> int:
        """The number of its points."""
        return math.prod(map(len, self._points.values()))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> object:
        number = trial.user_attrs.get(REPEATS, trial.number)
        rank = rank_of(study.get_trials(deepcopy=False), number)
        shape = [len(values) for values in self._points.values()]
        place = np.unravel_index(rank % self.size, shape)
        return self._points[param_name][place[list(self._points).index(param_name)]]


def build_sampler(method: str, space: Sequence[Parameter]) -> optuna.samplers.BaseSampler:
    """Optuna's counterpart of W&B's method: "grid", "random" or "bayes"."""
    if method == "grid":
        return GridSampler(space)
    if method == "random":
        return optuna.samplers.RandomSampler()
    return optuna.samplers.TPESampler(constant_liar=True)  # for several workers


def read_pruner(path: str, sweep: dict) -> optuna.pruners.BasePruner:
    """
    Optuna's counterpart of W&B's hyperband, which is successive halving, or one that stops nothing.

    Args:
        path: of the sweep, for errors.
        sweep: of it. The steps of `early_terminate` are evaluations, over all folds.

    Raises:
        UserError: a malformed `early_terminate`.
    """
    given = sweep.get("early_terminate")
    if given is None:
        return optuna.pruners.NopPruner()
    where = f"{path}: early_terminate"
    if not isinstance(given, dict) or given.get("type") != "hyperband":
        raise UserError(f"{where}.type: has to be hyperband")
    if unknown := given.keys() - {"type", "min_iter", "max_iter", "s", "eta"}:
        key = sorted(unknown)[0]
        raise UserError(f"{where}.{key}: a search without W&B has none; remove it")
    values = {"eta": 3, **given}
    needed = ("min_iter",) if "min_iter" in given else ("max_iter", "s")
    for key, lowest in (("eta", 2), *((key, 1) for key in needed)):
        if type(values.get(key)) is not int or values[key] < lowest:
            raise UserError(f"{where}.{key}: has to be a whole number from {lowest} up")
    first = values.get("min_iter") or max(1, values["max_iter"] // values["eta"] ** values["s"])
    return optuna.pruners.SuccessiveHalvingPruner(first, reduction_factor=values["eta"])
