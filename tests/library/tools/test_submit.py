"""A job as a cluster runs it: submitted, preempted, queued again, and done."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import PROJECT_ROOT, read_metrics
from tools import submit

CONFIG = ["--config-file", str(PROJECT_ROOT / "configs/debug/smoke.py")]


def test_dry_run_shows_the_job(capsys):
    job = ["--partition", "a100", "--gpus", "4", "--nodes", "2", "--hours", "1.5"]
    submit.main([*job, "--dry-run", *CONFIG, "train.max_iter=9"])
    first, *others = capsys.readouterr().out.splitlines()
    assert first.endswith(" ".join([*CONFIG, "train.max_iter=9"]))
    shown = dict(line.split(maxsplit=1) for line in others)
    assert shown["partition"] == "a100" and shown["timeout_min"] == "90"
    assert shown["tasks_per_node"] == shown["gpus_per_node"] == "4" and shown["nodes"] == "2"


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("train.max_itr=9",), "train.max_iter"),
        (("--num-gpus", "4"), "--gpus"),
        (("--slurm", "exclusive"), "KEY=VALUE"),
        ((), "--cluster local"),
    ],
)
def test_mistakes_are_reported_at_once(args, named, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")  # without srun
    assert submit.main([*CONFIG, *args]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["", "--resume", "--eval-only", "--fast-dev-run"])
def test_queued_again_with_the_same_command_line_or_resume(flag):
    argv = [flag, *CONFIG] if flag else CONFIG
    again = submit.Training(argv).checkpoint().function
    assert submit.resumed(argv) == again._argv == (argv if flag else [*argv, "--resume"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SLURM's signals are POSIX's")
def test_preempted_job_goes_on(on_toy, tmp_path):
    output_dir = tmp_path / "output"
    command = [
        sys.executable,
        "tools/submit.py",
        "--cluster",
        "local",
        "--gpus",
        "0",
        "--logs",
        str(tmp_path / "jobs"),
    ]
    command += [*CONFIG, *on_toy, f"train.output_dir={output_dir}", "train.max_iter=20"]
    command += ["train.checkpointer.period=100", "train.eval_period=0", "train.log_period=1"]
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True)
    job = process.stdout.readline().split()[1].rstrip(":")
    deadline = time.monotonic() + 120
    metrics = output_dir / "metrics.json"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", job], capture_output=True, text=True).stdout.split()
    for child in children:
        os.kill(int(child), signal.SIGUSR2)  # as SLURM does before it takes the machine away
    assert process.wait(timeout=300) == 0

    log = (output_dir / "log.txt").read_text()
    starts = [int(line.split()[-1]) for line in log.splitlines() if "from iteration" in line]
    assert len(starts) == 2 and 3 <= starts[1] < 20, "saved when it was told to end"
    assert torch.load(output_dir / "model_final.pth")["iteration"] == 19
    assert [row["iteration"] for row in read_metrics(output_dir)] == list(range(20))
