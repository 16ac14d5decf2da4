"""
W&B runs: what they record, whether they go to the server, how they start and end.

`wandb` is imported where a run is opened: without one, a project works without it installed.
"""

from __future__ import annotations

import atexit
import logging
import netrc
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from detection.utils.wandb_files import find_parts, sync_command

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)

_MACHINE = {"x_disable_machine_info": False, "x_disable_meta": False, "program": sys.argv[0]}
# what W&B may record beside metrics and config, and the settings that let it
CAPTURE = {
    "code": {"save_code": True, "disable_code": False, **_MACHINE},
    "console": {"console": "wrap"},
    "git": {"disable_git": False, "x_disable_machine_info": False},
    "machine": _MACHINE,
    "requirements": {"x_save_requirements": True},
    "stats": {"x_disable_stats": False, "x_disable_machine_info": False},
}
_CAPTURE_NOTHING = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "label_disable": True,
    "program": "",
    "save_code": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}

# seconds that `wandb.init` may take in addition to its time-out
_INIT_GRACE = 30
# seconds that W&B's own process gets to end; it has nothing left to do then
_END_TIMEOUT = 10

_SECRET_NAME = re.compile(r"(?i)(^|_)(api_?)?(key|token|secret|passw(or)?d|credential)s?($|_)")
# keys of W&B, Hugging Face, GitHub, AWS and OpenAI, and URLs with a password
_SECRET_VALUE = re.compile(
    r"[0-9a-f]{40}$|wandb_v\d|hf_|gh[a-z]_|github_pat_|AKIA|sk-|[a-z0-9+]+://[^/]*:[^/]*@"
)


def make_settings(capture: list[str], **settings) -> wandb.Settings:
    """Settings that keep W&B quiet and let it record no more than `capture`, keys of CAPTURE."""
    import wandb

    settings = {
        "silent": True,
        "finish_timeout": 60.0,  # W&B's own default is 0: no limit
        "finish_timeout_raises": True,
        "x_transaction_log_flush_interval": 1.0,  # what a kill may cost, in seconds
        **_CAPTURE_NOTHING,
        **settings,
    }
    for what in capture:
        settings |= CAPTURE[what]
    # those with an x_ may go in any release
    return wandb.Settings(**{k: v for k, v in settings.items() if k in wandb.Settings.model_fields})


def default_mode() -> str:
    """ "online" where an API key is configured (WANDB_API_KEY or `wandb login`), else "offline"."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "online"
    import wandb

    base_url = start_service().settings.base_url
    hosts = {urlsplit(base_url).netloc}
    if base_url == wandb.Settings().base_url:
        hosts.add("api.wandb.ai")  # the default server of other releases, whose keys still count
    configured = os.environ.get("NETRC")
    for path in [configured] if configured else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if any(netrc.netrc(path).authenticators(host) for host in hosts):
                return "online"
        except (OSError, netrc.NetrcParseError):
            continue
    return "offline"


def start_service(silent: bool = True) -> wandb.sdk.wandb_setup._WandbSetup:
    """
    Start W&B's own process, unless it runs; all that uses W&B comes through here first.

    W&B waits for that process without a bound, at the end of Python too, and it does not always
    end. It is killed then, and within `time_limit`; what it has written to the disk stays there.

    Returns:
        What `wandb.setup` does.
    """
    global _watch
    import wandb

    # its reports on itself could hold up the end of the training
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # a parent process's W&B service may still hold the run that this one resumes
    os.environ.pop("WANDB_SERVICE", None)
    setup = wandb.setup(wandb.Settings(silent=silent))
    try:
        process = setup._connection._proc._process
    except AttributeError:  # W&B is disabled
        return setup
    if _watch is None or _watch.process is not process:
        _watch = _Watch(process)
        _watch.start()
        # comes before W&B's own hook, which was registered earlier
        atexit.register(_watch.set, _END_TIMEOUT)
    return setup


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Kill W&B's own process if what is within takes longer: its waits fail or end then."""
    watch = _watch
    if watch:
        watch.set(seconds)
    try:
        yield
    finally:
        if watch:
            watch.set(None)


class _Watch(threading.Thread):
    """Kills a process at its time limit; made ahead, for Python starts no threads when it ends."""

    def __init__(self, process: subprocess.Popen):
        super().__init__(daemon=True)
        self.process = process
        self._limits = queue.SimpleQueue()

    def set(self, seconds: float | None) -> None:
        """Kill the process in that many seconds unless another limit is set before."""
        self._limits.put(seconds)

    def run(self) -> None:
        seconds = None
        with suppress(queue.Empty):
            while True:
                seconds = self._limits.get(timeout=seconds)
        self.process.kill()


_watch: _Watch | None = None


def open_run(
    output_dir: Path,
    run_id: str,
    mode: str,
    settings: wandb.Settings,
    warn_unsynced: Callable[[], None],
    **init,
) -> wandb.Run | None:
    """
    Start or continue a run, offline if the server does not answer, and log where it goes.

    Args:
        output_dir: its files go into `<output_dir>/wandb`.
        run_id: W&B's.
        mode: "online" or "offline".
        settings: as `make_settings` makes them.
        warn_unsynced: called when W&B could not send all that it was given.
        init: what else `wandb.init` takes.

    Returns:
        The run; None if W&B itself fails.
    """
    import wandb

    run = reason = None
    for attempt in dict.fromkeys((mode, "offline")):
        parts = find_parts(output_dir, run_id)
        try:
            start_service()
            wandb.termsetup(wandb.Settings(silent=True), _Messages(warn_unsynced))
            with time_limit(settings.init_timeout + _INIT_GRACE):
                run = wandb.init(
                    dir=output_dir,
                    id=run_id,
                    mode=attempt,
                    reinit="finish_previous",
                    settings=settings,
                    **init,
                )
            break
        except Exception as e:  # whatever it is, the training needs no W&B
            reason = str(e).partition("\n")[0]
            tear_down()  # else the run's id counts as in use
            for part in set(find_parts(output_dir, run_id)) - set(parts):
                shutil.rmtree(part, ignore_errors=True)
    if run is None:
        logger.warning(f"W&B: nothing is recorded ({reason})")
    elif reason:
        logger.warning(
            f"W&B: no connection ({reason}), going offline; `{sync_command(run)}` sends the run "
            "later"
        )
    elif run.offline:
        logger.info(f"W&B: offline run; `{sync_command(run)}` sends it")
    else:
        logger.info(f"W&B: {run.url}")
    return run


def finish_run(run: wandb.Run, exit_code: int = 0) -> bool:
    """
    End a run within its `finish_timeout`; what could not be sent stays on the disk.

    Returns:
        Whether W&B has taken all of it.
    """
    try:
        with time_limit(run.settings.finish_timeout + 1):  # W&B's own time-out comes first
            run.finish(exit_code)
        return True
    except Exception:  # TimeoutError, or W&B's own process is gone
        tear_down(timeout=1)  # else it tries on when Python ends
        return False


def tear_down(timeout: float = _END_TIMEOUT) -> None:
    """End W&B's own process, whatever state it is in."""
    import wandb

    with suppress(Exception, SystemExit), time_limit(timeout):
        wandb.teardown(exit_code=1)


def without_secrets(config: object) -> object:
    """The config, of dicts, lists and scalars, less all that is named like a secret or is one."""
    if isinstance(config, dict):
        return {
            name: without_secrets(value)
            for name, value in config.items()
            if not (_SECRET_NAME.search(name) and _has_text(value)) and not _is_secret(value)
        }
    if isinstance(config, list):
        return [without_secrets(value) for value in config if not _is_secret(value)]
    return config


def _has_text(value: object) -> bool:
    return any(map(_has_text, value)) if isinstance(value, list) else isinstance(value, str)


def _is_secret(value: object) -> bool:
    return isinstance(value, str) and bool(_SECRET_VALUE.match(value))


class _Messages:
    """Gets what W&B would print, and passes on only that data could not be sent."""

    def __init__(self, warn_unsynced: Callable[[], None]):
        self._warn_unsynced = warn_unsynced

    def info(self, message: str) -> None:
        pass

    def warning(self, message: str) -> None:
        if "wandb sync" in message:
            self._warn_unsynced()

    error = warning


def run_command(*args: str) -> None:
    """Run one of W&B's own commands, such as `wandb sweep`; ends Python, and W&B's process too."""
    from wandb.cli.cli import cli

    start_service(silent=False)
    cli(args, prog_name="wandb")
