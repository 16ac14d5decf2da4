"""sweep.yaml: what W&B's agent makes of it, and that train_net.py takes it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT_ROOT, read_metrics, read_wandb_records
from detection.config import load_config
from detection.utils.arguments import parse_args
from detection.utils.errors import UserError
from tools.create_sweep import read_sweep
from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
from wandb.wandb_agent import Agent
from wandb_server import WandbServer

SWEEP = read_sweep("sweep.yaml")
CONFIG = SWEEP["command"][SWEEP["command"].index("--config-file") + 1]


def sample(parameter: dict) -> float | int:
    """A value that the parameter may have."""
    return parameter.get("value", parameter.get("min", parameter.get("values", [None])[0]))


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """W&B's agent for a sweep, as far as it goes without a server."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_SWEEP_ID": "sweep1",
        "WANDB_RUN_ID": "the run before",  # the agent sets these two itself
        "WANDB_SWEEP_PARAM_PATH": "",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(PROJECT_ROOT)
    return Agent(api=None, queue=None, sweep_id="sweep1")


def run_of(agent, run_id: str, command: list[str], values: dict) -> int:
    """What the agent does when the server tells it to run; returns the exit code."""
    agent._sweep_command = command
    args = {name: {"value": value} for name, value in values.items()}
    agent._command_run({"run_id": run_id, "program": SWEEP["program"], "args": args})
    return agent._run_processes[run_id].wait(timeout=300)


def test_wandb_takes_it():
    filled = _validate_config_and_fill_distribution(SWEEP)
    assert filled["parameters"].keys() == SWEEP["parameters"].keys()
    assert SWEEP["method"] in ("bayes", "random", "grid")
    for name, parameter in SWEEP["parameters"].items():
        for value in parameter.values():
            assert not isinstance(value, str) or value.startswith("log_"), f"{name}: YAML's 1e-5"


def test_what_the_file_says_goes_before_the_config(tmp_path):
    own = {"project": "mine", "entity": "us", "metric": {"name": "loss", "goal": "minimize"}}
    path = tmp_path / "other.yaml"
    text = (PROJECT_ROOT / "sweep.yaml").read_text(encoding="utf-8")
    path.write_text(text + yaml.safe_dump(own), encoding="utf-8")
    assert read_sweep(str(path)) == SWEEP | own


def test_server_gets_the_whole_sweep(tmp_path):
    with WandbServer() as server:
        env = {name: text for name, text in os.environ.items() if not name.startswith("WANDB_")}
        env |= {"HOME": str(tmp_path), "WANDB_CONFIG_DIR": str(tmp_path)}
        env |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0123456789" * 4}
        command = [sys.executable, "tools/create_sweep.py"]
        process = subprocess.run(
            command, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=250
        )
    output = process.stdout + process.stderr
    assert process.returncode == 0, output
    assert "/sweep1" in output, "what to run on each machine"
    (sent,) = server.sweeps
    assert sent["projectName"] == SWEEP["project"]
    assert (sent["entityName"] or None) == SWEEP.get("entity")
    config = yaml.safe_load(sent["config"])
    assert config["metric"] == SWEEP["metric"] and config["parameters"] == SWEEP["parameters"]


@pytest.mark.parametrize("text", ["command: [", "- a", "command: [--config-file]", "method: grid"])
def test_unusable_file_is_one_line(text, tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_sweep(str(path))
    assert str(path) in str(error.value)


def test_runs_are_compared_before_they_end():
    fixed = {k: v["value"] for k, v in SWEEP["parameters"].items() if "value" in v}
    evaluations = fixed["train.max_iter"] / fixed["train.eval_period"]
    assert 2 * SWEEP["early_terminate"]["min_iter"] <= evaluations


def test_arguments_of_two_runs(agent, tmp_path):
    """The command line that each run gets, printed instead of run."""
    values = {name: sample(parameter) for name, parameter in SWEEP["parameters"].items()}
    echo = "import os, sys; print(os.environ['WANDB_RUN_ID'], *sys.argv[2:], sep='\\n', "
    echo += "file=open(sys.argv[1] + os.environ['WANDB_RUN_ID'], 'w'))"
    file = tmp_path / "arguments"
    after_program = SWEEP["command"][SWEEP["command"].index("${program}") + 1 :]
    command = ["${env}", "${interpreter}", "-c", echo, str(file), *after_program]
    for run_id in ("run1", "run2"):
        assert run_of(agent, run_id, list(command), values) == 0
    folders = []
    for run_id in ("run1", "run2"):
        same_run_id, *argv = Path(f"{file}{run_id}").read_text().splitlines()
        assert same_run_id == run_id
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("WANDB_RUN_ID", run_id)
            args = parse_args(argv)
            cfg = load_config(args.config_file, args.opts)
            folders.append(cfg.train.output_dir)
        assert cfg.optimizer.lr == values["optimizer.lr"]
        assert cfg.train.max_iter == values["train.max_iter"]
    assert folders == ["output/sweep/run1", "output/sweep/run2"]


@pytest.mark.slow
def test_agent_trains(agent, on_toy, tmp_path):
    """The whole command of sweep.yaml, on toy data and with the small model."""
    command = [c.replace("output/sweep", str(tmp_path)) for c in SWEEP["command"]]
    command[command.index(CONFIG)] = "configs/debug/smoke.py"
    values = {name: sample(parameter) for name, parameter in SWEEP["parameters"].items()}
    values |= {"train.max_iter": 2, "train.eval_period": 2}
    command[-1:] = [*on_toy, command[-1]]
    assert run_of(agent, "run1", command, values) == 0
    assert read_metrics(tmp_path / "run1")[-1]["bbox/AP"] >= 0
    (run_dir,) = (tmp_path / "run1" / "wandb").glob("offline-run-*-run1")
    (run,) = [r.run for r in read_wandb_records(next(run_dir.glob("*.wandb"))) if r.HasField("run")]
    assert run.sweep_id == "sweep1"
    config = {item.key: item.value_json for item in run.config.update}
    assert config["optimizer.lr"] == str(values["optimizer.lr"]), "the sweep's own name for it"
