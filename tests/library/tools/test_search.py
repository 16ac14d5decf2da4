"""A search without a server: its space, its trials, and what a kill, a mistake or a rival does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from conftest import PROJECT_ROOT, read_metrics, read_wandb_records
from detection.utils.errors import UserError
from detection.workshop.search.sampling import build_sampler
from detection.workshop.search.space import read_space
from detection.workshop.search.study import Search, open_study
from tools import search

METRIC = "competition/planted"
# trains by writing the scores that its file says, `lr` times 1, 2, 3 …
STAND_IN = """
import json, os, pathlib, signal, sys, time
given = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
folder = pathlib.Path(given["train.output_dir"])
folder.mkdir(parents=True, exist_ok=True)
lr, end = float(given["optimizer.lr"]), int(given["train.max_iter"])
note = {"pid": os.getpid(), "folder": folder.name, "resumed": "--resume" in sys.argv, "lr": lr}
log = pathlib.Path(__file__).with_name("log.jsonl")
with log.open("a") as f:
    f.write(json.dumps(note) + "\\n")
mistake = pathlib.Path(__file__).with_name("mistake")
if mistake.exists():
    sys.exit(print("train.py: " + mistake.read_text()) or 2)
if lr > 5:
    raise MemoryError("CUDA out of memory")
(folder / "config.yaml").write_text(f"train: {{max_iter: {end}}}")
fold = int(given.get("dataset.fold", 0))
for k in range(end):
    with (folder / "metrics.json").open("a") as f:
        f.write(json.dumps({"iteration": k, "METRIC": (k + 1) * lr + fold}) + "\\n")
    if lr > 1:
        sys.exit(print("train.py: iteration 0: the loss is not finite") or 2)
    time.sleep(float(given["train.log_period"]))
""".replace("METRIC", METRIC)


def distribution(kind: str, low: float, high: float, **others) -> dict:
    return {"distribution": kind, "min": low, "max": high, **others}


@pytest.fixture
def sweep(tmp_path):
    """Writes a sweep.yaml whose trials the stand-in trains; returns its path."""
    (tmp_path / "train.py").write_text(STAND_IN, encoding="utf-8")

    def write(parameters: dict, period: float = 0, **others) -> Path:
        path = tmp_path / "그리드 1.yaml"
        command = ["${env}", "${interpreter}", "${program}", "--config-file"]
        command += ["configs/debug/smoke.py", "train.output_dir=${oc.env:WANDB_RUN_ID}"]
        command += [f"train.log_period={period}", "train.max_iter=3", "${args_no_hyphens}"]
        given = {"program": str(tmp_path / "train.py"), "command": command, "method": "grid"}
        given |= {"metric": {"name": METRIC, "goal": "maximize"}, "parameters": parameters}
        path.write_text(yaml.safe_dump(given | others, allow_unicode=True), encoding="utf-8")
        return path

    return write


@pytest.fixture
def run(tmp_path):
    """Runs the tool in this process, or starts it; its output is in `tmp_path`."""

    def call(*args, start=False):
        argv = [*map(str, args), "--output", str(tmp_path / "studies")]
        if not start:
            return search.main(argv)
        command = [sys.executable, "tools/search.py", *argv]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen(
            command,
            cwd=PROJECT_ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # the tests may run in the background, where Ctrl-C is ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return call


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    (file,) = folder.glob("*/study.db")
    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{file}")
    return optuna.load_study(study_name=summary.study_name, storage=f"sqlite:///{file}").trials


def started(tmp_path: Path) -> list[dict]:
    """What the stand-in has been called with."""
    return [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]


def wait_for(condition, process: subprocess.Popen | None = None, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def drawn(parameter: dict, count: int = 400) -> list:
    parameters = {"x": parameter, "other": {"values": [1, 2]}}
    parameter, _ = read_space("sweep.yaml", {"method": "random", "parameters": parameters})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [parameter.suggest(study.ask()) for _ in range(count)]


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        ({"value": [1, "a"]}, [[1, "a"]]),
        ({"values": ["a", None, True, 2.5]}, ["a", None, True, 2.5]),
        ({"min": 1, "max": 4}, [1, 2, 3, 4]),
        (distribution("q_uniform", 500, 620, q=32), [512, 544, 576, 608]),
        (distribution("q_uniform", 0, 0.5, q=0.1), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (distribution("q_uniform", 0.2, 2.2), [0, 1, 2]),
        (distribution("q_log_uniform_values", 1, 10, q=3), [0, 3, 6, 9]),
        (distribution("q_log_uniform", 0, 2.3, q=2.5), [0.0, 2.5, 5.0, 7.5, 10.0]),
    ],
)
def test_countable_values_are_those_that_wandb_draws(parameter, values):
    """As W&B's own library, sweeps 0.3.0, has drawn them."""
    found = drawn(parameter)
    assert all(value in values for value in found) and all(value in found for value in values)
    assert {type(v) for v in found} == {type(v) for v in values}


@pytest.mark.parametrize(
    ("parameter", "quartiles"),
    [
        ({"min": 1.0, "max": 3}, [1, 1.5, 2, 2.5, 3]),
        (distribution("uniform", 1, 3), [1, 1.5, 2, 2.5, 3]),
        (distribution("log_uniform_values", 0.001, 0.1), 10 ** np.linspace(-3, -1, 5)),
        (distribution("log_uniform", -3, -1), np.exp(np.linspace(-3, -1, 5))),
        (distribution("inv_log_uniform_values", 0.001, 0.1), 10 ** np.linspace(-3, -1, 5)),
        (distribution("inv_log_uniform", 1, 3), np.exp(np.linspace(-3, -1, 5))),
    ],
)
def test_continuous_values_are_spread_as_wandb_spreads_them(parameter, quartiles):
    """As W&B's own library, sweeps 0.3.0, has spread them."""
    found = drawn(parameter, 1500)
    assert min(found) >= quartiles[0] and max(found) <= quartiles[-1]
    assert np.quantile(found, np.linspace(0, 1, 5)) == pytest.approx(quartiles, rel=0.1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1e-5", "x=1e-5"),
        (None, "x=null"),
        (True, "x=true"),
        ([640, "a'b"], "x=[640,'a\\'b']"),
        ({"Battery": 3}, "x={Battery:3}"),
    ],
)
def test_values_as_overrides(value, text):
    (parameter,) = read_space(
        "sweep.yaml", {"method": "random", "parameters": {"x": {"values": [value, 1]}}}
    )
    assert parameter.override(parameter.samples()[0]) == text


LR = {"optimizer.lr": {"values": [0.1, 0.2]}}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"parameters": {"a": {"distribution": "normal"}}}, "parameters.a: distribution: normal"),
        ({"parameters": {"a": {"values": [1], "probabilities": [1]}}}, "probabilities"),
        ({"parameters": {"a": {"parameters": {}}}}, "parameters.a: nested"),
        ({"parameters": {"a": {"min": "1e-5", "max": 1}}}, "parameters.a: min: '1e-5'"),
        ({"parameters": {"a": {"min": 1}}}, "parameters.a: max"),
        ({"parameters": {"a": {"min": 0.5, "max": 1}}}, "parameters.a: a grid"),
        ({"parameters": {"a": {"min": 2, "max": 1}}}, "parameters.a: min: 2"),
        ({"parameters": {"a": distribution("log_uniform_values", 0, 1)}}, "parameters.a: min"),
        ({"parameters": {"a": {"value": 1}}}, "all are constants"),
        ({"parameters": {"optimizer.lrr": {"values": [1, 2]}}}, "did you mean optimizer.lr"),
        ({"method": "custom"}, "method"),
        ({"scheduler": {}}, "scheduler"),
        ({"metric": {"name": "a", "target": 1}}, "metric.target"),
        ({"metric": {"name": "train/loss"}}, "metric.name: train/loss"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 1.5}}, "eta"),
        ({"run_cap": 0}, "run_cap"),
        ({"command": ["--config-file", "configs/debug/smoke.py"]}, "${args_no_hyphens}"),
    ],
)
def test_what_a_search_cannot_do_is_one_line(sweep, run, tmp_path, capsys, changes, named):
    assert run(sweep(**{"parameters": LR, **changes})) == 2
    line = capsys.readouterr().err
    assert named in line and "1.yaml" in line and line.count("\n") == 1
    assert not (tmp_path / "studies").exists()


def test_optuna_is_optional(sweep, run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert run(sweep(LR)) == 2
    assert "uv pip install --group search" in capsys.readouterr().err


def test_mean_over_the_folds_decides(sweep, run, toy, tmp_path, capsys):
    """A grid, once; the best trial as a command; nothing is left for a second call."""
    for fold in "01":
        (tmp_path / "folds" / fold).mkdir(parents=True)
        for name in ("train.json", "val.json"):
            (tmp_path / "folds" / fold / name).write_bytes((toy / name).read_bytes())
    constant = {"dataset.folds": {"value": str(tmp_path / "folds")}}
    path = sweep(LR | {"train.seed": {"min": 1, "max": 2}} | constant)
    assert run(path, "--folds", "0,1") == run(path, "--folds", "0,1", "--trials", 99) == 0
    trials = trials_of(tmp_path / "studies")
    points = {(t.params["optimizer.lr"], t.params["train.seed"]) for t in trials}
    assert len(trials) == 4 and points == {(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)}
    for trial in trials:
        best = 3 * trial.params["optimizer.lr"]  # plus the number of the fold
        assert trial.value == pytest.approx(best + 0.5)
        assert trial.user_attrs["scores"] == pytest.approx({"0": best, "1": best + 1})
    assert len(started(tmp_path)) == 8
    text = capsys.readouterr().out
    assert "train_as" not in text and "optimizer.lr=0.2" in text.splitlines()[-1]
    assert "train.max_iter=3" in text.splitlines()[-1] and "_best" in text.splitlines()[-1]
    assert run(path, "--folds", "0") == 2
    assert "other settings (folds)" in capsys.readouterr().err


def test_trials_that_fall_behind_stop(sweep, run, tmp_path, capsys):
    halving = {"type": "hyperband", "min_iter": 1, "eta": 2}
    rates = {"optimizer.lr": {"values": [0.5, 0.4, 0.9]}}
    assert run(sweep(rates, period=3, early_terminate=halving)) == 0
    states = {t.params["optimizer.lr"]: t for t in trials_of(tmp_path / "studies")}
    assert [states[lr].state.name for lr in (0.5, 0.4, 0.9)] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert len(states[0.4].intermediate_values) == 1
    text = capsys.readouterr().out
    assert "trial 1: stopped early" in text and "2 complete, 1 stopped early" in text


def test_failed_trial_is_not_the_end_of_the_search(sweep, run, tmp_path, capsys):
    assert run(sweep({"optimizer.lr": {"values": [7.0, 2.0, 0.4]}})) == 0
    *failed, other = trials_of(tmp_path / "studies")
    assert [t.state.name for t in failed] == ["FAIL", "FAIL"] and other.state.name == "COMPLETE"
    assert failed[0].user_attrs["error"] == "MemoryError: CUDA out of memory"
    assert failed[1].user_attrs["error"].endswith("the loss is not finite")
    text = capsys.readouterr().out
    assert "trial 0 failed (status 1)" in text and "    MemoryError: CUDA" in text
    assert "1 complete, 2 failed" in text


def test_failures_without_end_are_the_end(sweep, run, capsys):
    assert run(sweep({"optimizer.lr": {"values": [7.0, 8.0, 9.0, 10.0, 11.0, 0.1]}})) == 2
    assert "5 trials in a row have failed, the last with: MemoryError" in capsys.readouterr().err


def test_mistake_ends_the_search_at_once(sweep, run, tmp_path, capsys):
    (tmp_path / "mistake").write_text("datasets/train.json: cannot be read")
    path = sweep(LR)
    assert run(path) == 2
    line = capsys.readouterr().err
    assert line.endswith(": datasets/train.json: cannot be read\n") and line.count("\n") == 1
    (tmp_path / "mistake").unlink()
    assert run(path) == 0
    trials = trials_of(tmp_path / "studies")
    assert [t.state.name for t in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert [call["lr"] for call in started(tmp_path)] == [0.1, 0.1, 0.2]


def test_two_workers_share_a_study(sweep, run, tmp_path):
    """One is interrupted: the other resumes its trial; each point of the grid counts once."""
    path = sweep({"optimizer.lr": {"values": [0.1, 0.2, 0.3, 0.4]}}, period=2)
    workers = [run(path, start=True) for _ in range(2)]
    log = tmp_path / "log.jsonl"
    wait_for(lambda: log.exists() and len(started(tmp_path)) == 2, workers[0])
    first = {call["folder"]: call["pid"] for call in started(tmp_path)}
    workers[0].send_signal(signal.SIGINT)
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [130, 0], outputs
    assert "interrupted; the same command continues" in outputs[0]
    trials = trials_of(tmp_path / "studies")
    assert [t.state.name for t in trials] == ["COMPLETE"] * 4
    assert {t.params["optimizer.lr"] for t in trials} == {0.1, 0.2, 0.3, 0.4}
    calls = started(tmp_path)
    assert len(calls) == 5 and [c["folder"] in first for c in calls if c["resumed"]] == [True]


def test_trial_of_a_machine_that_is_gone_is_repeated(tmp_path, monkeypatch):
    space = read_space("sweep.yaml", {"method": "grid", "parameters": {"x": {"values": [1, 2]}}})
    monkeypatch.setattr("detection.workshop.search.study.GRACE", 1)
    url = f"sqlite:///{tmp_path}/shared.db"

    def worker(name: str) -> Search:
        settings = ("a", url, tmp_path / name, {}, build_sampler("grid", space))
        study = open_study(*settings, optuna.pruners.NopPruner(), "maximize")
        return Search(study, tmp_path / name, float("inf"), is_local=False)

    gone, here = worker("gone"), worker("here")
    claims = [gone.claim(), here.claim()]
    assert [space[0].suggest(claim.trial) for claim in claims] == [1, 2]
    here.finish(claims[1], optuna.trial.TrialState.COMPLETE, 5)
    assert here.claim() is None, "it may still live"
    time.sleep(2.1)
    again = here.claim()
    assert space[0].suggest(again.trial) == 1 and not again.is_resumed
    here.finish(again, optuna.trial.TrialState.COMPLETE, 6)
    gone.finish(claims[0], optuna.trial.TrialState.COMPLETE, 7)  # it lives after all: too late
    assert here.claim() is None and gone.claim() is None
    values = [(t.state.name, t.params["x"], t.value) for t in here.trials()]
    assert values == [("FAIL", 1, None), ("COMPLETE", 2, 5), ("COMPLETE", 1, 6)]


def test_unusable_database_is_one_line(tmp_path):
    for url in ("nonsense", "nothing://a/b", f"sqlite:///{tmp_path}/none/at/all.db"):
        with pytest.raises(UserError, match="--storage: ") as error:
            open_study("a", url, tmp_path, {}, None, None, "maximize")
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_killed_search_continues(on_toy, run, toy, tmp_path, capsys, monkeypatch):
    """Real trainings on two folds; the second is killed with its search, and resumed."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_ID", "not the trials'")
    for fold in "01":
        (tmp_path / "folds" / fold).mkdir(parents=True)
        for name in ("train.json", "val.json"):
            (tmp_path / "folds" / fold / name).write_bytes((toy / name).read_bytes())
    command = ["${interpreter}", "${program}", "--config-file", "configs/debug/smoke.py"]
    command += [word for word in on_toy if "json_file" not in word]
    command += [f"dataset.folds={tmp_path}/folds", "train.pictures.count=0"]
    command += ["train.checkpointer.period=2", "train.log_period=1", "${args_no_hyphens}"]
    parameters = {"optimizer.lr": distribution("log_uniform_values", 0.001, 0.01)}
    parameters |= {"train.max_iter": {"value": 12}, "train.eval_period": {"value": 6}}
    given = {"command": command, "method": "bayes", "run_cap": 1, "parameters": parameters}
    path = tmp_path / "real.yaml"
    path.write_text(yaml.safe_dump(given), encoding="utf-8")

    first, second = (tmp_path / f"studies/real/trial0_fold{fold}" for fold in "01")
    process = run(path, "--folds", "0,1", start=True)
    wait_for((second / "last_checkpoint").exists, process, 300)
    process.kill()
    process.communicate()
    lr = trials_of(tmp_path / "studies")[0].params["optimizer.lr"]
    done = (first / "model_final.pth").stat().st_mtime_ns
    assert not (second / "model_final.pth").exists()
    # its training has gone with it
    wait_for(lambda: subprocess.run(["pgrep", "-f", str(second)]).returncode, seconds=20)

    assert run(path, "--folds", "0,1") == 0
    (trial,) = trials_of(tmp_path / "studies")
    assert trial.state.name == "COMPLETE" and trial.params["optimizer.lr"] == lr
    assert trial.value == pytest.approx(np.mean(list(trial.user_attrs["scores"].values())))
    assert (first / "model_final.pth").stat().st_mtime_ns == done
    assert "resum" in (second / "log.txt").read_text()
    assert [row["iteration"] for row in read_metrics(second)] == list(range(12))
    best = max(row.get("competition/mAP50", -1) for row in read_metrics(second))
    assert trial.user_attrs["scores"]["1"] == pytest.approx(best)
    assert list(trial.intermediate_values) == [1, 2, 3, 4]
    (file,) = (first / "wandb").glob("offline-run-*/*.wandb")
    (record,) = [r.run for r in read_wandb_records(file) if r.HasField("run")]
    assert record.run_group == "real" and record.job_type == "train"
    assert {i.key: i.value_json for i in record.config.update}["optimizer"].count(repr(lr)[:8])
    assert "trial 0 resumes" in capsys.readouterr().out
