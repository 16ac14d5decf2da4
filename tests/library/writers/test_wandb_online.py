"""W&B runs and a loopback server: online, resumed, crashed, and with the server at its worst."""

import hashlib
import json
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb
from conftest import (
    PROJECT_ROOT,
    read_metrics,
    read_wandb_records,
    read_wandb_rows,
    train_command,
)
from detection.checkpoint import artifacts
from detection.engine.hooks import EvalHook, PeriodicWriter
from detection.engine.stopping import CleanStop, Stopped
from detection.utils.errors import UserError
from detection.utils.wandb_files import find_parts
from detection.utils.wandb_runs import CAPTURE, tear_down, time_limit, without_secrets
from detection.writers.files import JSONWriter
from detection.writers.metric_names import MetricNames
from detection.writers.wandb_writer import WandbWriter
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from omegaconf import OmegaConf
from tiny_training import tiny_trainer
from wandb.sdk.lib.run_stopping import RunStopChecker
from wandb_server import WandbServer

API_KEY = "0123456789abcdef" * 2 + "01234567"
MAX_ITER, PERIOD, EVAL_PERIOD = 30, 4, 7
CFG = OmegaConf.create({"train": {"log_period": PERIOD}, "lr": 0.1})
APS = {6: 10.0, 13: 30.0, 20: 20.0, 27: 25.0, 29: 5.0}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The only server that W&B knows, and a key for it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with WandbServer() as server:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        tear_down()  # it remembers the environment
        yield server
    tear_down()


@pytest.fixture
def output_dir(tmp_path) -> Path:
    folder = tmp_path / "output" / "tiny"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def names():
    MetadataCatalog.get("online test").set(thing_classes=["can", "x.y"])
    yield MetricNames("mmdet2", "online test")
    MetadataCatalog.remove("online test")


@pytest.fixture
def said(caplog):
    """What the user is told about W&B."""
    caplog.set_level(logging.INFO, logger="detection")
    return lambda: [m for m in caplog.messages if m.startswith("W&B")]


class At(HookBase):
    """Does something once, after the step of one iteration."""

    def __init__(self, iteration: int, action):
        self._iteration = iteration
        self._action = action

    def after_step(self):
        if self.trainer.iter == self._iteration:
            self._action()


class Slowly(HookBase):
    """Takes its time with each iteration."""

    def after_step(self):
        time.sleep(0.05)


@pytest.fixture
def train(output_dir, names):
    """Trains one parameter for real; the writers see an evaluation every EVAL_PERIOD."""

    def run(
        start_iter=0,
        max_iter=MAX_ITER,
        hooks=(),
        evaluate=APS.get,
        cfg=CFG,
        stoppable=False,
        **arguments,
    ):
        losses = [1 + 1 / (k + 1) for k in range(start_iter, max_iter)]
        writer = WandbWriter(
            str(output_dir),
            names,
            "project",
            period=PERIOD,
            window_size=1,  # a median would span a resume
            **{"init_timeout": 60, **arguments},
        )
        trainer = tiny_trainer(losses)

        def results():
            ap = evaluate(trainer.iter) or 0
            return {"bbox": {"AP": ap, "AP-x.y": ap / 2, "APl": math.nan}}

        if stoppable:
            checkpointer = DetectionCheckpointer(trainer.model, str(output_dir), trainer=trainer)
            hooks = [*hooks, CleanStop(checkpointer, [writer])]
        trainer.register_hooks(
            [
                *hooks,
                EvalHook(EVAL_PERIOD, results),
                PeriodicWriter(JSONWriter(str(output_dir / "metrics.json"), PERIOD, 1), cfg),
                PeriodicWriter(writer, cfg),
            ]
        )
        # as after loading a checkpoint, which a resumed schedule needs
        trainer.train(start_iter, max_iter)

    run.output_dir = output_dir
    return run


def fail(error=RuntimeError):
    raise error


def only_run(server):
    (run,) = server.runs.values()
    return run


def local_rows(output_dir: Path) -> list[dict]:
    """The rows in the files of all parts of the run."""
    return [row for part in find_parts(output_dir, "*") for row in read_wandb_rows(part)]


def check_rows(rows: list[dict], output_dir: Path, names, but_times=False) -> None:
    """The rows are those of metrics.json under the team's names, each once and in order."""
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps))
    assert [row["iter"] for row in rows] == steps
    expected = read_metrics(output_dir)
    assert steps == [row["iteration"] for row in expected]
    for row, line in zip(rows, expected, strict=True):
        line = dict(names(name, v) for name, v in line.items() if name != "iteration")
        row = {name: v for name, v in row.items() if name[0] != "_" and name != "iter"}
        assert row.keys() == line.keys()
        for name in row:
            if not (but_times and name.endswith("time")):
                assert row[name] == pytest.approx(line[name]), (line, name)


def test_online_run(server, train, output_dir, names, said, capfd):
    train()
    run = only_run(server)
    check_rows(run.rows, output_dir, names)
    assert run.exit_code == 0
    (run_id,) = server.runs
    assert json.loads((output_dir / "wandb_run.json").read_text()) == {"id": run_id}
    assert said() == [f"W&B: {server.url}/entity/project/runs/{run_id}"]
    assert "wandb" not in "".join(capfd.readouterr()).replace("runs/", "")

    summary = json.loads(run.summary)
    assert summary["val/bbox_mAP"] == {"max": pytest.approx(0.3), "last": pytest.approx(0.05)}
    assert json.loads(run.config)["lr"] == {"value": 0.1}
    sent = {k for upsert in run.upserts for k, v in upsert.items() if v is not None}
    assert sent == {"name", "project", "entity", "config", "displayName", "jobType"}
    assert sorted(set(run.uploads)) == ["config.yaml", "wandb-summary.json"]
    assert not any("otel" in request for request in server.requests)


def test_no_file_has_the_key(server, train, output_dir):
    train()
    for file in output_dir.rglob("*"):
        assert not file.is_file() or API_KEY.encode() not in file.read_bytes(), file


def test_resumed_run_goes_on(server, train, output_dir, names):
    with pytest.raises(RuntimeError):
        train(hooks=[At(18, fail)])
    (run_id,) = server.runs
    assert only_run(server).exit_code == 1
    assert [row["_step"] for row in only_run(server).rows] == [3, 6, 7, 11, 13, 15]
    train(start_iter=14)
    assert list(server.runs) == [run_id], "the same run"
    run = only_run(server)
    assert run.exit_code == 0
    check_rows(run.rows, output_dir, names, but_times=True)
    assert json.loads(run.summary)["val/bbox_mAP"]["max"] == pytest.approx(0.3), "of the first part"


def test_fresh_start_is_another_run(server, train):
    train(max_iter=7)
    train(max_iter=7)
    assert [len(run.rows) for run in server.runs.values()] == [2, 2]


@pytest.mark.parametrize("first", ["offline", "unsent"])
def test_resumed_run_sends_what_the_server_lacks(server, train, output_dir, names, first):
    server.status = 500 if first == "offline" else 200
    hooks = [At(5, lambda: setattr(server, "status", 401))] if first == "unsent" else []
    train(max_iter=14, hooks=hooks, **IMPATIENT)
    assert not [row for run in server.runs.values() for row in run.rows]
    server.status = 200
    tear_down()
    train(start_iter=14)
    check_rows(only_run(server).rows, output_dir, names, but_times=True)
    assert json.loads(only_run(server).summary)["val/bbox_mAP"]["max"] == pytest.approx(0.3)


def test_offline_parts_become_one_run(server, train, output_dir, names, said):
    with pytest.raises(RuntimeError):
        train(mode="offline", hooks=[At(18, fail)])
    time.sleep(1)  # W&B calls the parts' folders by the second
    train(mode="offline", start_iter=14)
    steps = [row["_step"] for row in local_rows(output_dir)]
    assert steps == sorted(set(steps)), "nothing is logged twice"
    for command in said():
        assert command.startswith("W&B: offline run; `wandb sync ")
    (command,) = [m.split("`")[1] for m in said()][1:]
    subprocess.run([sys.executable, "-m", *shlex.split(command)], check=True)
    check_rows(only_run(server).rows, output_dir, names, but_times=True)
    assert json.loads(only_run(server).summary)["val/bbox_mAP"]["max"] == pytest.approx(0.3)


@pytest.mark.parametrize("start_iter", [14, 12])
def test_crash_in_an_evaluation(server, train, output_dir, names, start_iter):
    """Whether the checkpoint was saved just before it or not."""
    with pytest.raises(RuntimeError):
        train(evaluate=lambda at: APS[at] if at < 13 else fail())
    assert max(row["_step"] for row in only_run(server).rows) == 11
    train(start_iter=start_iter)
    check_rows(only_run(server).rows, output_dir, names, but_times=True)
    (row,) = [row for row in only_run(server).rows if row["_step"] == 13]
    assert ("val/bbox_mAP" in row) == (start_iter == 12)


# much less than what W&B itself takes to give up, and enough for a busy machine
IMPATIENT = {"init_timeout": 3, "finish_timeout": 3}
BOUND = 40
FAILURES = {
    "refused": lambda server: server.stop(),
    "silent": lambda server: setattr(server, "status", None),
    "401": lambda server: setattr(server, "status", 401),
    "403": lambda server: setattr(server, "status", 403),
    "500": lambda server: setattr(server, "status", 500),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_server_fails_at_start(server, train, output_dir, names, said, failure, capfd):
    FAILURES[failure](server)
    started = []
    begin = time.monotonic()
    train(hooks=[At(0, lambda: started.append(time.monotonic()))], **IMPATIENT)
    assert started[0] - begin < BOUND and time.monotonic() - started[0] < BOUND
    check_rows(local_rows(output_dir), output_dir, names)
    (message,) = said()
    (part,) = find_parts(output_dir, "*")
    assert part.name.startswith("offline-")
    assert "going offline" in message and f"`wandb sync {os.path.relpath(part)}`" in message
    assert "wandb:" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("failure", FAILURES)
def test_server_fails_in_mid_run(server, train, output_dir, names, said, failure, capfd):
    broken = []

    def break_server():
        FAILURES[failure](server)
        broken.append(time.monotonic())

    train(hooks=[At(9, break_server)], **IMPATIENT)
    assert time.monotonic() - broken[0] < BOUND
    check_rows(local_rows(output_dir), output_dir, names)
    _, message = said()
    (part,) = find_parts(output_dir, "*")
    assert f"`wandb sync --include-online {os.path.relpath(part)}`" in message
    assert "wandb:" not in "".join(capfd.readouterr())


def test_no_key(server, train, output_dir, names, said, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    tear_down()
    train(mode="online")
    assert "going offline" in said()[0] and len(said()) == 1
    check_rows(local_rows(output_dir), output_dir, names)
    assert not server.requests


def signal_core(number: int) -> None:
    """Send a signal to W&B's own process."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    for pid in map(int, children):
        if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, number)
    time.sleep(0.5)


def test_death_of_wandb_itself(server, train, said):
    train(hooks=[At(9, lambda: signal_core(signal.SIGKILL))])
    _, message = said()
    assert message.endswith("it records no more")


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_frozen_wandb_holds_nothing_up(server, train, output_dir, said, mode):
    frozen = []

    def freeze():
        time.sleep(2)  # W&B has written what it was given
        signal_core(signal.SIGSTOP)
        frozen.append(time.monotonic())

    train(hooks=[At(9, freeze)], mode=mode, **IMPATIENT)
    tear_down()
    assert time.monotonic() - frozen[0] < BOUND
    assert [row["_step"] for row in local_rows(output_dir)] == [3, 6, 7]
    (part,) = find_parts(output_dir, "*")
    assert f"{os.path.relpath(part)}`" in said()[1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # W&B's own
def test_time_limit(server, train, said):
    """What W&B's own process does not take ends with that process, and the training goes on."""

    def freeze():
        signal_core(signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(ConnectionError), time_limit(2):
            wandb.run.config["long"] = "x" * 4_000_000
        assert time.monotonic() - begin < BOUND

    train(hooks=[At(9, freeze)])
    assert said()[1].endswith("it records no more")


def test_sweep_chooses_the_run(server, train, monkeypatch):
    for name, value in {"SWEEP_ID": "sweep", "RUN_ID": "chosen", "PROJECT": "swept"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    tear_down()
    train(max_iter=7)
    assert list(server.runs) == ["chosen"]
    upsert = only_run(server).upserts[0]
    assert upsert["sweep"] == "sweep" and upsert["project"] == "swept"


@pytest.mark.parametrize("what", CAPTURE)
def test_capture(server, train, what, monkeypatch):
    # as if it were not pytest that trains, which may lie inside the project or outside
    monkeypatch.setenv("WANDB_PROGRAM", str(PROJECT_ROOT / "train_net.py"))
    tear_down()

    def say_something():
        print("something")
        time.sleep(2)  # the machine is looked at in the background

    train(max_iter=2, capture=[what], hooks=[At(0, say_something)])
    run = only_run(server)
    assert run.exit_code == 0
    files = {name.split("/")[0] for name in run.uploads} - {"config.yaml", "wandb-summary.json"}
    assert files == {
        "code": {"code", "wandb-metadata.json"},
        "console": {"output.log"},
        "machine": {"wandb-metadata.json"},
        "requirements": {"requirements.txt"},
    }.get(what, set())
    has_host = any(upsert["host"] for upsert in run.upserts)
    assert has_host == (what in ("code", "git", "machine", "stats"))


def test_unknown_capture(output_dir, names):
    with pytest.raises(UserError, match="'everything'; there are code, console"):
        WandbWriter(str(output_dir), names, mode="disabled", capture=["everything"])


def test_without_secrets():
    config = {
        "keypoint_on": True,
        "api_key": "abc",
        "tokens": ["a", "b"],
        "num_tokens": [1, 2],
        "tokenizer": "bpe",
        "my_password": "x",
        "url": "https://me:pw@example.org/x",
        "weights": "https://example.org/model@2.pth",
        "nested": [{"secret": "x", "lr": 0.1}, "hf_abcdef", API_KEY],
    }
    assert without_secrets(config) == {
        "keypoint_on": True,
        "num_tokens": [1, 2],
        "tokenizer": "bpe",
        "weights": "https://example.org/model@2.pth",
        "nested": [{"lr": 0.1}],
    }


@pytest.mark.parametrize("way", ["button", "SIGUSR1", "SIGTERM in a sweep"])
def test_stop(server, train, output_dir, said, way, monkeypatch):
    """By the button on the run's page, and by signals."""
    server.is_stopped = way == "button"
    number = getattr(signal, way.split()[0], None)
    if "sweep" in way:
        monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
        monkeypatch.setenv("WANDB_RUN_ID", "chosen")
        tear_down()

    poll = RunStopChecker.__init__.__kwdefaults__
    monkeypatch.setitem(poll, "poll_interval", 0.2)  # in place of 15 s
    hooks = [At(5, lambda: signal.raise_signal(number))] if number else [Slowly()]
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        with pytest.raises(Stopped):
            train(max_iter=1000, hooks=hooks, stoppable=True, alerts=True)
    finally:
        for n, handler in handlers.items():
            signal.signal(n, handler)
    run = only_run(server)
    # a sweep's agent itself ends runs by SIGTERM, which must not start again
    assert run.is_preempting == (way == "SIGUSR1") and run.exit_code == 255
    (saved,) = output_dir.glob("model_*.pth")
    assert saved.name == "model_0000005.pth" or not number
    assert [alert["title"] for alert in run.alerts] == ["tiny: stopped"]
    assert len(said()) == 1, "nothing but where the run is"


def test_alerts(server, train, said):
    best = {"val_metric": "bbox/AP", "mode": "max"}
    train(alerts={"no_better_for": 2}, best=best)
    no_better, finished = only_run(server).alerts
    assert no_better["title"] == "tiny: no better for 2 evaluations"
    assert no_better["text"] == "best bbox/AP 30, at iteration 13, 25 now, at iteration 27"
    assert no_better["severity"] == "WARN"
    assert finished["title"] == "tiny: finished" and finished["severity"] == "INFO"


def test_alerts_count_on_after_a_resume_and_tell_of_crashes(server, train):
    best = {"val_metric": "bbox/AP", "mode": "min"}
    cfg = OmegaConf.merge(CFG, {"writers": {"json": {"json_file": "${output_dir}/metrics.json"}}})
    cfg.output_dir = str(train.output_dir)

    def not_finite():
        try:
            raise FloatingPointError("the loss is not finite (total_loss nan)")
        except FloatingPointError as e:
            raise UserError("iteration 28: the loss is not finite; the images were a.jpg") from e

    arguments = {"cfg": cfg, "alerts": {"no_better_for": 3}, "best": best}
    with pytest.raises(RuntimeError):
        train(hooks=[At(22, lambda: fail(RuntimeError("out of luck")))], **arguments)
    with pytest.raises(UserError):
        train(start_iter=21, hooks=[At(28, not_finite)], **arguments)
    alerts = {alert["title"]: alert for alert in only_run(server).alerts}
    assert list(alerts) == [
        "tiny: crashed",
        "tiny: no better for 3 evaluations",
        "tiny: the loss is not finite",
    ]
    assert alerts["tiny: crashed"]["text"] == "out of luck"
    assert alerts["tiny: crashed"]["severity"] == "ERROR"
    assert "a.jpg" in alerts["tiny: the loss is not finite"]["text"]


def test_no_alerts_by_default_and_no_unknown_ones(server, train):
    train(max_iter=7)
    assert not only_run(server).alerts
    with pytest.raises(UserError, match="no W&B alert 'done'; there are finished, crashed"):
        train(max_iter=7, alerts={"done": True})


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_run_uses_its_data_set_and_the_checkpoint_it_started_from(
    server, train, output_dir, tmp_path, monkeypatch, said, mode
):
    categories = [{"id": 3, "name": "캔"}, {"id": 7, "name": "x.y"}]
    boxes = [{"id": k, "image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]} for k in range(2)]
    coco = {"images": [{"id": 1}], "annotations": boxes, "categories": categories}
    content = json.dumps(coco, ensure_ascii=False).encode()
    (tmp_path / "train.json").write_bytes(content)
    (tmp_path / "val.json").write_bytes(content + b" ")
    start = "wandb-artifact://entity/project/model:best"
    monkeypatch.setitem(artifacts.versions, start, "entity/project/model:v3")
    splits = {s: {"json_file": str(tmp_path / f"{s}.json")} for s in ("train", "val")}
    data = {"fold": 2, **splits, "pseudo": {"json_file": None}}
    cfg = OmegaConf.merge(CFG, {"dataset": data, "train": {"init_checkpoint": start}})
    train(max_iter=7, cfg=cfg, mode=mode, dataset="files")
    hashes = {
        split: hashlib.sha256((tmp_path / f"{split}.json").read_bytes()).hexdigest()
        for split in ("train", "val")
    }
    if mode == "offline":
        tear_down()  # its process has written all
        (part,) = find_parts(output_dir, "*")
        (file,) = part.glob("*.wandb")
        records = read_wandb_records(file)
        (artifact,) = [r.artifact for r in records if r.HasField("artifact")]
        assert artifact.use_after_commit and artifact.type == "dataset"
        contents = {e.path: e.local_path for e in artifact.manifest.contents}
        assert contents.keys() == {"dataset.json", "train.json", "val.json"}
        assert not server.requests
        return
    run = only_run(server)
    config = json.loads(run.config)
    assert config["dataset_sha256"]["value"] == hashes
    assert config["init_artifact"]["value"] == "entity/project/model:v3"
    (id_,) = server.artifacts
    assert config["train"]["value"]["init_checkpoint"] == "entity/project/model:best"
    assert set(run.used) == {id_, "artifact-model"}
    metadata = server.artifacts[id_]["metadata"]
    assert server.artifacts[id_]["name"] == "dataset_fold2" and metadata["fold"] == 2
    assert metadata["train"] == {
        "file": "train.json",
        "sha256": hashes["train"],
        "images": 1,
        "annotations": 2,
        "classes": {"캔": 2, "x.y": 0},
    }
    assert len(said()) == 1


def test_data_set_that_cannot_be_read_costs_no_run(server, train, said):
    cfg = OmegaConf.merge(CFG, {"dataset": {"train": {"json_file": "/nowhere.json"}}})
    train(max_iter=7, cfg=cfg)
    assert len(only_run(server).rows) == 2 and not server.artifacts
    assert "the data set is not recorded" in said()[0]


@pytest.mark.slow
def test_interrupt(server, on_toy, output_dir):
    """Ctrl-C in a real training, whose run is then marked killed and goes on."""
    arguments = [
        f"train.output_dir={output_dir}",
        "train.eval_period=0",
        "train.log_period=2",
        "train.checkpointer.period=4",
    ]
    command = train_command(on_toy, *arguments, "train.max_iter=1000")
    process = subprocess.Popen(
        command,
        cwd=PROJECT_ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C works although the tests may run in the background, where it is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # by then the rows before it have been logged
    while not (output_dir / "model_0000007.pth").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume" in stderr.splitlines()[-1]
    assert only_run(server).exit_code == 255
    assert {1, 3, 5} <= {row["iter"] for row in only_run(server).rows}

    command = train_command(on_toy, *arguments, "train.max_iter=12", "--resume")
    subprocess.run(command, cwd=PROJECT_ROOT, check=True)
    run = only_run(server)
    steps = [row["iter"] for row in run.rows]
    assert steps == sorted(set(steps)) and set(range(1, 12, 2)) <= set(steps)
    assert run.exit_code == 0
