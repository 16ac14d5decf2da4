"""The signals by which a machine or a cluster stops a training."""

import signal
from collections.abc import Iterable

# SIGUSR1 is what `sbatch --signal` sends some time before the end; Windows has SIGTERM only
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGUSR1", "SIGTERM") if hasattr(signal, name)]
GRACE = 30  # seconds


def outlive_stop(worker_id: int = 0) -> None:
    """
    Let this process live on for GRACE seconds after a stop signal; a loader's `worker_init_fn`.

    A cluster sends the signal to all processes of a job, and the iteration or evaluation under way
    still needs those that load images.
    """
    if hasattr(signal, "alarm"):
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: signal.alarm(GRACE))


def outliving_stop(loader: Iterable) -> Iterable:
    """The loader, of which each process runs `outlive_stop` unless it has another beginning."""
    if getattr(loader, "worker_init_fn", outlive_stop) is None:
        loader.worker_init_fn = outlive_stop
    return loader
