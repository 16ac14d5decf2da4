"""Runs the trials of a search: a training on each fold, stopped early where it falls behind."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from detection.config import fold_suffix
from detection.utils.errors import UserError
from detection.workshop.search.space import Parameter
from detection.workshop.search.study import SCORES, Claim, Search
from detection.workshop.search.training import (
    CONSOLE,
    Training,
    curve_of,
    is_done,
    last_lines,
    max_iter_of,
)

MOST_FAILURES = 5  # in a row


@dataclass(frozen=True)
class Plan:
    """
    What each trial trains.

    Attributes:
        space: the parameters, constants too.
        folds: `dataset.fold` of each training; [None]: one training, on the config's own data.
        metric: its name in metrics.json.
        is_min: whether less of it is better.
        folder: of the trials' output directories.
        command: gives the command for some overrides.
    """

    space: Sequence[Parameter]
    folds: Sequence[str | None]
    metric: str
    is_min: bool
    folder: Path
    command: Callable[[list[str]], list[str]]

    def output_dir(self, number: int, fold: str | None) -> Path:
        suffix = "" if fold is None else fold_suffix(fold)
        return self.folder / f"trial{number}{suffix}"

    def curve(self, number: int, fold: str | None) -> list[tuple[int, float]]:
        return curve_of(self.output_dir(number, fold), self.metric)

    def best(self, curve: list[tuple[int, float]]) -> float:
        return (min if self.is_min else max)(value for _, value in curve)

    def overrides(self, trial) -> list[str]:
        return [parameter.override(parameter.suggest(trial)) for parameter in self.space]


class _Failed(Exception):
    """A training has failed: (output directory, status, whether it had begun)."""


def run_trials(
    search: Search, plan: Plan, others: Sequence[str], say: Callable[[str], None]
) -> None:
    """
    Run trials until none is left, as one of any number of workers.

    Args:
        search: which trials.
        plan: what they train.
        others: overrides of all trainings beside the parameters.
        say: prints a line.

    Raises:
        UserError: a user's mistake ends the first training, or trials fail one after another.
    """
    failures = 0
    while claim := search.claim():
        title = f"trial {claim.trial.number}"
        overrides = plan.overrides(claim.trial)
        say(f"{title}{' resumes' if claim.is_resumed else ''}: {' '.join(overrides)}")
        started = time.monotonic()
        try:
            value = _run(search, plan, claim, [*overrides, *others], say)
        except _Failed as e:
            error = _fail(search, claim, *e.args, say)
            failures += 1
            if failures == MOST_FAILURES:
                raise UserError(
                    f"{failures} trials in a row have failed, the last with: {error}"
                ) from None
            continue
        except UpdateFinishedTrialError:  # this machine had been silent for minutes
            say(f"{title}: another machine repeats it")
            search.finish(claim, TrialState.FAIL)
            continue
        except UserError as e:
            search.repeat(claim, str(e))
            raise
        except KeyboardInterrupt:
            search.release(claim)
            raise
        failures = 0
        minutes = (time.monotonic() - started) / 60
        if value is None:
            say(f"{title}: stopped early, it falls behind; {minutes:.1f} minutes")
            search.finish(claim, TrialState.PRUNED)
        else:
            say(f"{title}: {plan.metric} {value:.4f}; {minutes:.1f} minutes")
            search.finish(claim, TrialState.COMPLETE, value)


def _fail(
    search: Search,
    claim: Claim,
    output_dir: Path,
    status: int,
    has_begun: bool,
    say: Callable[[str], None],
) -> str:
    """Record a failure and show why; UserError if it is a user's mistake, and the first trial."""
    lines = last_lines(output_dir)
    error = lines[-1] if lines else f"status {status}"
    # later on it is a loss that is not finite, or the machine
    is_mistake = status == 2 and not has_begun
    if is_mistake and not search.trials(TrialState.COMPLETE, TrialState.PRUNED):
        search.repeat(claim, error)
        raise UserError(error.partition(".py: ")[2] or error) from None
    say(f"trial {claim.trial.number} failed (status {status}); the end of {output_dir / CONSOLE}:")
    for line in lines:
        say(f"    {line}")
    search.finish(claim, TrialState.FAIL, error=error)
    return error


def _run(
    search: Search, plan: Plan, claim: Claim, overrides: list[str], say: Callable[[str], None]
) -> float | None:
    """The mean of the best scores on all folds; None if the trial is stopped early."""
    number = claim.trial.number
    scores = dict(claim.trial.user_attrs.get(SCORES, {}))
    steps = 0  # evaluations on earlier folds
    for fold in plan.folds:
        key, output_dir = str(fold), plan.output_dir(number, fold)
        if key not in scores:
            falls_behind = partial(_report, search, plan, claim, fold, scores, steps)
            if not (claim.is_resumed and is_done(output_dir)):
                command = plan.command(_of_training(plan, number, fold, overrides))
                command += ["--resume"] if claim.is_resumed else []
                with Training(command, output_dir) as training:
                    status = training.wait(falls_behind)
                if status is None:
                    return None
                if status:
                    raise _Failed(output_dir, status, training.has_begun)
            if falls_behind():
                return None
            curve = plan.curve(number, fold)
            if not curve:
                raise UserError(
                    f"{output_dir}: its evaluations have no {plan.metric}; metric.name of the "
                    "sweep has to be one of those in its metrics.json"
                )
            scores[key] = plan.best(curve)
            claim.trial.set_user_attr(SCORES, scores)
            if len(plan.folds) > 1:
                say(f"trial {number}, fold {fold}: {plan.metric} {scores[key]:.4f}")
        steps += len(plan.curve(number, fold))
    return _mean([scores[str(fold)] for fold in plan.folds])


def _report(
    search: Search,
    plan: Plan,
    claim: Claim,
    fold: str | None,
    scores: dict[str, float],
    steps: int,
) -> bool:
    """Report the new evaluations on a fold to the study; returns whether the trial is to stop."""
    trial = claim.trial
    search.beat(trial)
    curve = plan.curve(trial.number, fold)
    for k, (iteration, _) in enumerate(curve, start=1):
        if steps + k in claim.reported:
            continue
        claim.reported.add(steps + k)
        trial.report(_mean([*scores.values(), plan.best(curve[:k])]), steps + k)
        is_last = fold == plan.folds[-1]
        is_end = is_last and iteration + 1 >= max_iter_of(plan.output_dir(trial.number, fold))
        if not is_end and trial.should_prune():
            return True
    return False


def _of_training(plan: Plan, number: int, fold: str | None, overrides: list[str]) -> list[str]:
    fold_override = [] if fold is None else [f"dataset.fold={fold}"]
    return [*overrides, *fold_override, f"train.output_dir={plan.output_dir(number, fold)}"]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def table(plan: Plan, trials: list[FrozenTrial], most: int) -> tuple[list[str], list[list[str]]]:
    """
    The best trials, the best first.

    Args:
        plan: of the search.
        trials: all of it.
        most: how many to list.

    Returns:
        The head of the table, and its rows.
    """
    searched = [p for p in plan.space if p.distribution is not None]
    folds = [f for f in plan.folds if f is not None and len(plan.folds) > 1]
    head = ["trial", plan.metric, *(f"fold {f}" for f in folds), *(p.name for p in searched)]
    done = [t for t in trials if t.state == TrialState.COMPLETE]
    done.sort(key=lambda t: t.value if plan.is_min else -t.value)
    rows = []
    for trial in done[:most]:
        scores = trial.user_attrs.get(SCORES, {})
        row = [str(trial.number), f"{trial.value:.4f}"]
        row += [f"{scores[str(f)]:.4f}" if str(f) in scores else "-" for f in folds]
        values = [p.suggest(trial) for p in searched]
        row += [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
        rows.append(row)
    return head, rows
