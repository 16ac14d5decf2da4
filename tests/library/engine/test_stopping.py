"""Trainings that a signal stops: they save, end with a status of their own, and resume exactly."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import train_net
from conftest import PROJECT_ROOT, read_metrics, read_wandb_records, train_command
from detection.engine.hooks import SeedIterations, SyncStatistics
from detection.engine.launch import launch
from detection.engine.stopping import STOPPED, Stopped
from detection.utils.arguments import parse_args
from detection.utils.signals import STOP_SIGNALS
from detectron2.utils import comm
from test_training import SMOKE, _numbers, _wandb_history

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")

SHORT = (
    *("train.max_iter=11", "train.eval_period=7", "train.checkpointer.period=100"),
    *("train.log_period=3", "train.pictures.count=0", "train.ema.enabled=True"),
)
# iterations, by the number of processes: when an evaluation is due, and when the processes differ
STOP_AFTER = {1: 7, 2: 5}


class Signalled(SeedIterations):
    """Has the process that started the training, or else this one, receive a signal."""

    def before_step(self):
        super().before_step()
        processes = comm.get_world_size()
        is_due = self.trainer.iter + 1 == STOP_AFTER[processes]
        if is_due and comm.get_rank() == processes - 1:
            is_child = multiprocessing.parent_process() is not None
            os.kill(os.getppid() if is_child else os.getpid(), signal.SIGTERM)
            time.sleep(0.5 if is_child else 0)  # until it has been passed on


def stop_resume_compare(args) -> None:
    """Train in `<output>/whole`, and in `<output>/stopped` with a stop; ends as the stop did."""
    folder = Path(args.opts.pop())
    whole, stopped = ([*args.opts, f"train.output_dir={folder / n}"] for n in ("whole", "stopped"))
    train_net.main(Namespace(**{**vars(args), "opts": whole}))
    train_net.SeedIterations = Signalled
    with pytest.raises(Stopped) as stop:
        train_net.main(Namespace(**{**vars(args), "opts": stopped}))
    train_net.SeedIterations = SeedIterations
    train_net.main(Namespace(**{**vars(args), "opts": stopped, "resume": True}))
    raise stop.value


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_stopped_training_resumes_as_if_it_had_not_been(processes, on_toy, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # sums depend on it
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    argv = ["--config-file", SMOKE, "--num-gpus", str(processes), *on_toy, *SHORT, str(tmp_path)]
    try:
        with pytest.raises(Stopped) as stop:
            launch(stop_resume_compare, parse_args(argv))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert stop.value.code == STOPPED == 143

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    log = (stopped / "log.txt").read_text()
    done = STOP_AFTER[processes]
    assert f"stopped by SIGTERM after {done} iterations; --resume continues" in log
    assert f"from iteration {done}" in log and "Traceback" not in log
    assert (stopped / f"model_{done - 1:07d}.pth").exists()
    for name in ("model_final.pth", "model_best.pth"):
        one, other = (torch.load(folder / name)["model"] for folder in (whole, stopped))
        assert all(torch.equal(one[k], other[k]) for k in one), name
    one, other = (list(map(_numbers, read_metrics(folder))) for folder in (whole, stopped))
    assert one == other
    assert _wandb_history(whole) == _wandb_history(stopped)


def test_cluster_signals_all_processes_of_a_job(on_toy, tmp_path):
    """Those that load images, and W&B's own, too."""
    output_dir, log = tmp_path / "output", tmp_path / "log"
    args = ["train.max_iter=10000", "dataloader.train.num_workers=1", "train.log_period=1"]
    process = subprocess.Popen(
        train_command(on_toy, *args, f"train.output_dir={output_dir}"),
        cwd=PROJECT_ROOT,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    metrics = output_dir / "metrics.json"
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGUSR1)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) == STOPPED
    said = log.read_text()
    done = int(re.search(r"stopped by SIGTERM after (\d+) iterations", said)[1])
    assert "Traceback" not in said and "W&B: ConnectionError" not in said
    assert (output_dir / f"model_{done - 1:07d}.pth").exists()
    (file,) = output_dir.glob("wandb/offline-run-*/*.wandb")
    kinds = {record.WhichOneof("record_type"): record for record in read_wandb_records(file)}
    assert "preempting" in kinds and kinds["exit"].exit.exit_code == 255


def test_each_process_keeps_its_own_statistics(monkeypatch):
    """A checkpoint at a stop has those of all; any other, of the main one, which are all alike."""

    def model() -> torch.nn.Module:
        model = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Identity())
        model[1].loss_normalizer = 1.0
        return model

    ranks = [model(), model()]
    for rank, one in enumerate(ranks):
        one[0].running_mean.fill_(rank)
        one[1].loss_normalizer = 10.0 + rank
    parts = [SyncStatistics([one], 0) for one in ranks]
    gathered = []
    for part in parts:
        part.gather()
        gathered += part.state_dict()["processes"]
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        resumed = model()
        SyncStatistics([resumed], 0).load_state_dict({"processes": gathered})
        assert resumed[0].running_mean.item() == rank
        assert resumed[1].loss_normalizer == 10 + rank


OUTLIVING = """
import os, signal, sys
from detection.utils import signals
signals.GRACE = 2
signals.outlive_stop()
for number in signals.STOP_SIGNALS:
    os.kill(os.getpid(), number)
print("alive", flush=True)
while True:
    signal.pause()
"""


def test_loading_process_lives_on_for_a_while_only():
    process = subprocess.run(
        [sys.executable, "-c", OUTLIVING],
        capture_output=True,
        text=True,
        cwd=PROJECT_ROOT,
        timeout=60,
    )
    assert process.stdout == "alive\n" and process.returncode == -signal.SIGALRM
