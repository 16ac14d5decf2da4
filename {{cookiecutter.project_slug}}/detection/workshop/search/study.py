"""Optuna's study of a search: which trial a worker gets, and that each counts once."""

import json
import math
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TextIO

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from detection.utils.errors import UserError
from detection.utils.output_lock import try_lock
from detection.workshop.search.sampling import REPEATS, SURPLUS, GridSampler, rank_of

STUDY = "study.db"  # in the folder of a search
HEARTBEAT, GRACE = 60, 300  # seconds: a worker that has been silent for longer is dead
AS_IN = "as in postgresql+psycopg://USER@HOST/DATABASE"
_ATTEMPTS = 20  # at a database that another worker is creating

# user attributes of a trial
SCORES = "scores"  # {fold: value} of the folds that are done
ERROR = "error"  # why it failed

warnings.filterwarnings("ignore", category=ExperimentalWarning)
warnings.filterwarnings("ignore", message="Heartbeat of storage")
optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass
class Claim:
    """
    A trial that is this worker's.

    Attributes:
        trial: Optuna's.
        lock: its file, locked; None if the disk has no locks.
        is_resumed: another worker has begun it.
        reported: the steps of the evaluations that the study has.
    """

    trial: optuna.Trial
    lock: TextIO | None
    is_resumed: bool = False
    reported: set[int] = field(default_factory=set)


class Search:
    """
    A study, of which each worker claims one trial after another.

    A running trial is locked by its worker in the search's folder. One whose lock is free has lost
    its worker: it is resumed. If its files are on another machine, its heartbeat tells, and it is
    marked as failed and repeated. A repetition takes the place of the trial that it repeats.
    """

    def __init__(
        self,
        study: optuna.Study,
        folder: Path,
        trials: float,
        is_local: bool,
    ):
        """
        Args:
            study: as `open_study` opens it.
            folder: of the trials' output.
            trials: how many there are to be, of all workers together; may be infinite.
            is_local: the study is in this folder too.
        """
        self.study = study
        self._folder = folder
        self._is_local = is_local
        self._trials = trials
        if isinstance(study.sampler, GridSampler):
            self._trials = min(trials, study.sampler.size)
        self._beat = -math.inf

    def claim(self) -> Claim | None:
        """The next trial: one that lost its worker, or else a new one; None when all are taken."""
        for frozen in self.trials(TrialState.RUNNING):
            if claim := self._take_over(frozen):
                return claim
        optuna.storages.fail_stale_trials(self.study)  # and `_repeat` them
        while self.trials(TrialState.WAITING) or self.is_open:
            trial = self.study.ask()
            try:
                lock = try_lock(self._lock_path(trial.number))
            except BlockingIOError:  # another worker was quick to take it over
                continue
            self.beat(trial)
            is_new = REPEATS not in trial.user_attrs
            if is_new and rank_of(self.trials(), trial.number) >= self._trials:
                trial.set_user_attr(SURPLUS, True)
                self.study.tell(trial, state=TrialState.FAIL)
                self._release(trial.number, lock)
                continue
            return Claim(trial, lock)
        return None

    @property
    def is_open(self) -> bool:
        """Whether trials are left to be started."""
        return rank_of(self.trials(), math.inf) < self._trials

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in some states, or all; those that never were are left out."""
        found = self.study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in found if SURPLUS not in trial.user_attrs]

    def trial(self, number: int) -> FrozenTrial:
        """A trial as it is now."""
        return self.study.get_trials(deepcopy=False)[number]

    def beat(self, trial: optuna.Trial) -> None:
        """Show other machines that a trial's worker lives."""
        if not self._is_local and time.monotonic() > self._beat + HEARTBEAT:
            self._beat = time.monotonic()
            self.study._storage.record_heartbeat(trial._trial_id)

    def finish(
        self, claim: Claim, state: TrialState, value: float | None = None, error: str = ""
    ) -> None:
        """Record how a claimed trial ended, once; it may have been given to another machine."""
        self._beat = -math.inf
        with suppress(UpdateFinishedTrialError):
            if error:
                claim.trial.set_user_attr(ERROR, error)
            self.study.tell(claim.trial, value, state, skip_if_finished=True)
        self._release(claim.trial.number, claim.lock)

    def repeat(self, claim: Claim, error: str) -> None:
        """Mark a claimed trial as failed, and let it be done again from the start."""
        number = claim.trial.number
        self.finish(claim, TrialState.FAIL, error=error)
        _repeat(self.study, self.trial(number))

    def release(self, claim: Claim) -> None:
        """Leave a claimed trial as it is, to be resumed."""
        self._release(None, claim.lock)

    def _take_over(self, frozen: FrozenTrial) -> Claim | None:
        path = self._lock_path(frozen.number)
        if not path.exists():
            # its worker was killed before it could lock it, or is about to
            age = (datetime.now() - frozen.datetime_start).total_seconds()
            if not self._is_local or age < HEARTBEAT:
                return None
        try:
            lock = try_lock(path)
        except BlockingIOError:
            return None
        # it may have ended since
        if lock is None or self.trial(frozen.number).state != TrialState.RUNNING:
            self._release(None, lock)
            return None
        trial = optuna.Trial(self.study, frozen._trial_id)
        self.beat(trial)
        return Claim(trial, lock, True, set(frozen.intermediate_values))

    def _lock_path(self, number: int) -> Path:
        return self._folder / f"trial{number}.lock"

    def _release(self, number: int | None, lock: TextIO | None) -> None:
        if lock is not None:
            lock.close()
        if number is not None:
            with suppress(OSError):
                self._lock_path(number).unlink()


def open_study(
    name: str,
    storage: str | None,
    folder: Path,
    settings: dict,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
    direction: str,
) -> optuna.Study:
    """
    Create a study, or continue it.

    Args:
        name: of the study.
        storage: the URL of a database; None: a file in the folder.
        folder: of the search.
        settings: what has to be the same in all of its trials.
        sampler, pruner, direction: Optuna's.

    Raises:
        UserError: the database cannot be used, or the study has other settings.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(
            f"{folder}: cannot be created ({e.strerror}); --output names another place"
        ) from e
    for attempt in range(_ATTEMPTS):
        try:
            study = optuna.create_study(
                storage=_storage(storage, folder),
                study_name=name,
                sampler=sampler,
                pruner=pruner,
                direction=direction,
                load_if_exists=True,
            )
            break
        except ImportError as e:
            raise UserError(f"--storage: {e.__cause__ or e}; install that package") from e
        except (ArgumentError, NoSuchModuleError, ValueError) as e:
            raise UserError(f"--storage: {first_line(e)}; {AS_IN}") from e
        except SQLAlchemyError as e:
            # two workers that start at once create the same tables
            if attempt == _ATTEMPTS - 1 or (storage and attempt == 3):
                where = "--storage" if storage else str(folder / STUDY)
                raise UserError(f"{where}: cannot be used ({first_line(e)})") from e
            time.sleep(0.1 + 0.1 * attempt)
    settings = json.loads(json.dumps(settings, default=str))
    recorded = study.user_attrs.get("settings")
    if recorded is None:
        study.set_user_attr("settings", settings)
    elif recorded != settings:
        changed = [k for k in settings if settings[k] != recorded.get(k)]
        raise UserError(
            f"study {name}: was started with other settings ({', '.join(changed)}); --study NAME "
            "starts another study"
        )
    return study


def _storage(url: str | None, folder: Path) -> optuna.storages.RDBStorage:
    if url is None:
        return optuna.storages.RDBStorage(
            URL.create("sqlite", database=str(folder / STUDY)).render_as_string(),
            engine_kwargs={"connect_args": {"timeout": 60}},
        )
    return optuna.storages.RDBStorage(
        url,
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE,
        heartbeat_stale_trial_callback=_repeat,
    )


def _repeat(study: optuna.Study, failed: FrozenTrial) -> None:
    """Queue a trial like one that failed."""
    original = failed.user_attrs.get(REPEATS, failed.number)
    params = {**failed.system_attrs.get("fixed_params", {}), **failed.params}
    study.enqueue_trial(params, user_attrs={REPEATS: original})


def first_line(error: Exception) -> str:
    """An error's first line; a URL in it may have a password."""
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
