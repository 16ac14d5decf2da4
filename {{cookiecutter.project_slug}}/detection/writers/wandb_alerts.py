"""W&B alerts, which reach the user by e-mail or Slack, as set at https://wandb.ai/settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from detection.utils.errors import UserError

if TYPE_CHECKING:
    import wandb

# with `alerts=True`; `finished`: or stopped
DEFAULTS = {"finished": True, "crashed": True, "not_finite": True, "no_better_for": 10}
_MAX_TITLE = 63  # characters
_MAX_TEXT = 500


class Alerts:
    """Sends alerts when a training ends, and when its evaluations no longer get better."""

    def __init__(self, alerts: bool | Mapping, val_metric: str | None = None, mode: str = "max"):
        """
        Args:
            alerts: whether there are any, or some of DEFAULTS; `no_better_for` is a number of
                evaluations, None for never.
            val_metric: the metric of evaluations, by detectron2's name; None: not watched.
            mode: "max" or "min", whichever is better.

        Raises:
            UserError: an unknown alert.
        """
        chosen = {} if isinstance(alerts, bool) else dict(alerts)
        if unknown := chosen.keys() - DEFAULTS.keys():
            raise UserError(f"no W&B alert {unknown.pop()!r}; there are {', '.join(DEFAULTS)}")
        self._on = {**DEFAULTS, **chosen} if alerts else dict.fromkeys(DEFAULTS)
        self._val_metric = val_metric
        self._sign = -1 if mode == "min" else 1
        self._best = None  # (value, iteration)
        self._worse = 0  # evaluations since then

    def see(self, iteration: int, scalars: Mapping[str, float], run: wandb.Run | None) -> None:
        """
        Look at the scalars of an iteration, by detectron2's names.

        Args:
            run: gets the alert; None: the iteration was before a resume.
        """
        value = scalars.get(self._val_metric, math.nan)
        if not math.isfinite(value):
            return
        if self._best is None or self._sign * (value - self._best[0]) > 0:
            self._best, self._worse = (value, iteration), 0
            return
        self._worse += 1
        if run is not None and self._worse == self._on["no_better_for"]:
            title = f"no better for {self._worse} evaluations"
            _send(
                run, title, f"{self._so_far()}, {value:.4g} now, at iteration {iteration}", "WARN"
            )

    def end(self, run: wandb.Run, error: BaseException | None) -> None:
        """Tell how the training ended, `error` being what ended it early."""
        if error is None or isinstance(error, KeyboardInterrupt | SystemExit):
            if self._on["finished"]:
                word, level = ("stopped", "WARN") if error else ("finished", "INFO")
                _send(run, word, self._so_far() or "without an evaluation", level)
            return
        is_not_finite = any(isinstance(e, FloatingPointError) for e in _causes(error))
        if self._on["not_finite" if is_not_finite else "crashed"]:
            title = "the loss is not finite" if is_not_finite else "crashed"
            _send(run, title, str(error) or type(error).__name__, "ERROR")

    def _so_far(self) -> str:
        if self._best is None:
            return ""
        return f"best {self._val_metric} {self._best[0]:.4g}, at iteration {self._best[1]}"


def _send(run: wandb.Run, what: str, text: str, level: str) -> None:
    room = _MAX_TITLE - len(what) - 2
    run.alert(f"{(run.name or run.id)[:room]}: {what}", text[:_MAX_TEXT], level)


def _causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
