"""Runs that are killed in an evaluation, resumed from damaged files, or share a folder."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import PROJECT_ROOT, read_metrics, read_wandb_rows, train_command
from detection.classes import CLASSES
from detection.config import load_config
from detection.utils.arguments import parse_args
from detection.utils.errors import UserError
from train_net import do_train, main

SMOKE = str(PROJECT_ROOT / "configs/debug/smoke.py")


@pytest.fixture(scope="module")
def terminal() -> list[str]:
    """Filled by `output_dir`: what its training printed."""
    return []


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory, train_net, terminal) -> Path:
    """The folder of a training that has come to its end."""
    output_dir = tmp_path_factory.mktemp("output")
    args = ["train.max_iter=30", "train.eval_period=0", "train.pictures.count=0"]
    terminal += train_net(
        *args, f"train.output_dir={output_dir}", "writers.wandb=null"
    ).stdout.splitlines()
    return output_dir


def test_log_has_the_learning_rate_in_force(output_dir):
    log = (output_dir / "log.txt").read_text(encoding="utf-8")
    assert len(re.findall("learning rate.* 0.03", log)) == 1


def test_log_has_each_line_of_the_terminal_once_and_the_config_besides(output_dir, terminal):
    log = (output_dir / "log.txt").read_text(encoding="utf-8")
    shown = [line.split("]: ")[1].removeprefix("\x1b[0m") for line in terminal if "]: " in line]
    assert [line for line in shown if "iter " in line], "the progress"
    assert {line: log.count(line) for line in shown if "iter " in line or "saving" in line}
    for line in shown:
        assert log.count(f": {line}\n") == shown.count(line), line
    assert "sys.platform" in log and "dataloader" in log
    assert not any("sys.platform" in line for line in terminal)


def cut_off(checkpoint) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("damage", "override", "said"),
    [
        (Path.unlink, "train.max_iter=40", "model_final.pth, which is missing"),
        (cut_off, "train.max_iter=40", "model_final.pth, which is truncated"),
        (None, "train.freeze=[backbone]", "another optimizer or train.freeze"),
        (
            None,
            f"model.roi_heads.num_classes={len(CLASSES) + 1}",
            "another model than the config: roi_heads.",
        ),
        (None, "train.max_iter=30", "already trained for 30 iterations"),
    ],
)
def test_what_cannot_be_resumed_is_one_line(damage, override, said, output_dir, on_toy, tmp_path):
    for name in ("model_final.pth", "last_checkpoint", "last_complete.json"):
        shutil.copy(output_dir / name, tmp_path)
    if damage:
        damage(tmp_path / "model_final.pth")
    overrides = [*on_toy, "train.max_iter=40", f"train.output_dir={tmp_path}", override]
    with pytest.raises(UserError) as error:
        do_train(parse_args(["--resume"]), load_config(SMOKE, overrides))
    assert said in str(error.value) and "\n" not in str(error.value)


KILL_IN_EVALUATION = """
import os, signal, sys
import train_net
from detection.engine import hooks
from detection.utils.arguments import parse_args

def evaluate(self, rest=[int(sys.argv[1])]):
    rest[0] -= 1
    if rest[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self)

original, hooks.EvalHook._do_eval = hooks.EvalHook._do_eval, evaluate
train_net.main(parse_args(sys.argv[2:]))
"""
EQUAL_PERIODS = (
    *("train.max_iter=20", "train.eval_period=10", "train.checkpointer.period=10"),
    *("train.log_period=4", "train.pictures.count=1", "train.val_loss.enabled=True"),
)


def test_evaluations_that_kills_cut_off_are_made_up_for(on_toy, train_net, tmp_path):
    """Each comes right after a checkpoint; the second is the last."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_net(*EQUAL_PERIODS, f"train.output_dir={whole}")
    arguments = train_command(on_toy, *EQUAL_PERIODS, f"train.output_dir={killed}")[2:]
    for evaluation, flags in (("1", []), ("1", ["--resume"]), ("2", ["--resume"])):
        command = [sys.executable, "-c", KILL_IN_EVALUATION, evaluation, *flags, *arguments]
        process = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True)
        assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    train_net("--resume", *EQUAL_PERIODS, f"train.output_dir={killed}")

    for name in ("model_final.pth", "model_best.pth"):
        one, other = (torch.load(folder / name)["model"] for folder in (whole, killed))
        assert all(torch.equal(one[k], other[k]) for k in one), name
    for name in ("model_best.json", "last_checkpoint"):
        assert (killed / name).read_text() == (whole / name).read_text()
    one, other = (list(map(_numbers, read_metrics(folder))) for folder in (whole, killed))
    assert one == other and [9, 19] == [r["iteration"] for r in one if "val_loss/loss_cls" in r]
    one, other = map(_wandb_history, (whole, killed))
    assert one == other and [9, 19] == [r["_step"] for r in one if "pictures._type" in r]
    again = train_net("--resume", *EQUAL_PERIODS, f"train.output_dir={killed}", check=False)
    assert again.returncode == 2 and "already trained for 20 iterations" in again.stderr


def _numbers(row: dict) -> dict:
    """A row less times, and what names files."""
    return {k: v for k, v in row.items() if "time" not in k and "eta" not in k and "." not in k} | {
        k: v for k, v in row.items() if k.endswith("_type")
    }


def _wandb_history(folder: Path) -> list[dict]:
    parts = sorted((folder / "wandb").glob("offline-run-*"))
    assert len({part.name.split("-")[-1] for part in parts}) == 1, "one run, one id"
    return [_numbers(row) for part in parts for row in read_wandb_rows(part)]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.checkpointer.period=0", "train.checkpointer.period must be 1 or more"),
        ("train.device=cuda", "train.device=cpu"),
    ],
)
def test_refused_before_anything_is_written(override, said, on_toy, tmp_path):
    output = f"train.output_dir={tmp_path}/output"
    with pytest.raises(UserError) as error:
        main(parse_args(["--config-file", SMOKE, *on_toy, output, override]))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_overfit_config_trains_and_evaluates(train_net, tmp_path):
    train_net(
        *("train.max_iter=2", "train.log_period=1", f"train.output_dir={tmp_path}"),
        config="configs/debug/overfit.py",
    )
    assert "bbox/AP" in read_metrics(tmp_path)[-1]


def test_one_training_in_a_folder(on_toy, train_net, tmp_path):
    """Neither a fresh start nor a resume goes beside one that runs; after a kill one does."""
    args = [f"train.output_dir={tmp_path}", "train.eval_period=0", "train.checkpointer.period=2"]
    args += ["train.log_period=1", "dataloader.train.num_workers=1"]
    process = subprocess.Popen(
        train_command(on_toy, *args, "train.max_iter=10000"),
        cwd=PROJECT_ROOT,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "model_0000003.pth").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        for resume in ([], ["--resume"]):
            refused = train_net(*args, "train.max_iter=6", *resume, check=False)
            assert refused.returncode == 2
            assert refused.stderr.strip().splitlines()[-1].startswith(f"train_net.py: {tmp_path}: ")
            assert f"process {process.pid} on " in refused.stderr
        files = [path for path in tmp_path.rglob("*") if path not in tmp_path.glob("wandb/**/*")]
        assert all(before.get(path) == path.stat().st_mtime_ns for path in files)
    finally:
        process.kill()
        process.wait()
    resumed = train_net(*args, "train.max_iter=40", "--resume")
    assert "from iteration" in resumed.stdout


def test_log_that_cannot_be_written(train_net, tmp_path):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    process = train_net("train.max_iter=1", "train.eval_period=0", f"train.output_dir={tmp_path}")
    said = process.stdout + process.stderr
    assert said.count("the log ends here") == 1 and "Traceback" not in said
    assert (tmp_path / "model_final.pth").exists()
