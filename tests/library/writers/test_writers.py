"""Every writer, fed by real trainings of one parameter and read back by its own reader."""

import fcntl
import json
import logging
import math
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
import wandb
from conftest import read_metrics, read_wandb_records, read_wandb_rows
from detection.engine.checkpoint_hooks import BestCheckpointer
from detection.engine.hooks import EvalHook, PeriodicWriter
from detection.utils.wandb_runs import default_mode, tear_down
from detection.writers.files import JSONWriter, TensorboardWriter
from detection.writers.metric_names import MetricNames
from detection.writers.terminal import TqdmMetricPrinter
from detection.writers.wandb_writer import WandbWriter
from detectron2.config import LazyCall as L
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase, hooks
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import LinearParamScheduler
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import tiny_trainer

pytestmark = pytest.mark.usefixtures("offline")

CLASSES = ["종이/팩", "x.y", "a*b", "can"]
MAX_ITER, PERIOD, WINDOW, EVAL_PERIOD = 50, 20, 10, 7
LOSSES = np.random.default_rng(0).uniform(1, 2, MAX_ITER).tolist()
CFG = OmegaConf.create(
    {
        "train": {"log_period": PERIOD, "max_iter": MAX_ITER},
        "optimizer": L(torch.optim.SGD)(lr=0.1, betas=(0.9, 0.99)),
        "lr": "${optimizer.lr}",
        "api_key": "s3cret",
        "nested": [{"wandb_token": "s3cret", "max_tokens": 5, "none": None}],
    },
    flags={"allow_objects": True},
)


class PutScalars(HookBase):
    """What a model or another hook might put: once only, or now and then."""

    def after_step(self):
        if self.trainer.iter == 3:
            self.trainer.storage.put_scalar("once", 7)
        if self.trainer.iter in (11, 31):
            self.trainer.storage.put_scalar("rare", self.trainer.iter, smoothing_hint=False)


def evaluation(count: int) -> dict:
    """The results of the `count`-th evaluation: up and down, and not all of them finite."""
    values = {"AP": 10 + 7 * count % 11, "APl": math.nan, "APs": math.inf if count == 2 else count}
    per_class = {f"AP-{name}": count + k for k, name in enumerate(CLASSES)}
    return {"bbox": {**values, **per_class}}


def train(
    writers,
    losses=LOSSES,
    start_iter=0,
    max_iter=MAX_ITER,
    eval_period=EVAL_PERIOD,
    cfg=CFG,
    best_in=None,
):
    """Trains with `writers`; the n-th evaluation of the run gives `evaluation(n)`."""
    trainer = tiny_trainer(losses)
    best = best_in and BestCheckpointer(
        Checkpointer(trainer.model, cfg.train.output_dir), "bbox/AP", best_in
    )
    multiplier = LinearParamScheduler(1.0, 0.0)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(trainer.optimizer, multiplier),
            EvalHook(eval_period, lambda: evaluation((trainer.iter + 1) // eval_period)),
            best,
            PutScalars(),
            *(PeriodicWriter(writer, cfg) for writer in writers),
        ]
    )
    trainer.train(start_iter, max_iter)


def expected_rows() -> dict[int, dict[str, float]]:
    """{iteration: {name: value}} of the whole run, but for times."""
    rows = {at: {} for at in (3, 6, 11, 13, 19, 20, 27, 31, 34, 39, 41, 48, 49)}
    for at in (6, 13, 20, 27, 34, 41, 48, 49):
        values = evaluation((at + 1) // EVAL_PERIOD)["bbox"]
        rows[at] |= {f"bbox/{k}": v for k, v in values.items() if math.isfinite(v)}
    for at in (19, 39, 49):
        median = float(np.median(np.float32(LOSSES)[at + 1 - WINDOW : at + 1]))
        rows[at] |= {"loss_a": median, "loss_b": median / 2, "total_loss": 1.5 * median}
        rows[at]["lr"] = 0.1 * (1 - at / MAX_ITER)
    rows[3]["once"] = 7
    rows[11]["rare"], rows[31]["rare"] = 11, 31
    return rows


def without_times(rows: dict[int, dict]) -> dict[int, dict]:
    """The rows less times, of which each must be at the written iterations and nowhere else."""
    for at, row in rows.items():
        row.pop("rank_data_time", None)  # of newer versions of detectron2
        for name in ("time", "data_time"):
            assert (row.pop(name, None) is not None) == (at in (19, 39, 49)), (at, name)
    return rows


@pytest.fixture(scope="module")
def names():
    MetadataCatalog.get("writers test").set(thing_classes=CLASSES)
    yield MetricNames("detectron2", "writers test")
    MetadataCatalog.remove("writers test")


@pytest.fixture(scope="module")
def run(tmp_path_factory, names):
    """The folder of a run that all writers have written, and what was logged."""
    folder = tmp_path_factory.mktemp("run")
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("detection")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    train(
        [
            JSONWriter(str(folder / "metrics.json"), PERIOD, WINDOW),
            TensorboardWriter(str(folder / "events"), PERIOD, WINDOW),
            WandbWriter(str(folder), names, "a project", period=PERIOD, window_size=WINDOW),
            TqdmMetricPrinter(MAX_ITER, PERIOD, WINDOW, bar=False),
        ]
    )
    logger.removeHandler(handler)
    return folder, messages


def test_metrics_json(run):
    lines = (run[0] / "metrics.json").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    iterations = [row.pop("iteration") for row in rows]
    assert iterations == sorted(set(iterations))
    rows = without_times(dict(zip(iterations, rows, strict=True)))
    assert rows == {at: pytest.approx(row) for at, row in expected_rows().items()}
    assert "bbox/AP-종이/팩" in lines[1], "class names are readable"


def read_tensorboard(folder: Path) -> list[tuple[int, str, float]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    return sorted((e.step, tag, e.value) for tag in tags for e in events.Scalars(tag))


def test_tensorboard(run):
    rows = {at: {} for at in expected_rows()}
    for at, name, value in read_tensorboard(run[0] / "events"):
        assert name not in rows[at], "every value once"
        rows[at][name] = value
    assert without_times(rows) == {at: pytest.approx(row) for at, row in expected_rows().items()}


def test_wandb(run, names):
    (run_dir,) = (run[0] / "wandb").glob("offline-run-*")
    rows = read_wandb_rows(run_dir)
    steps = [row.pop("_step") for row in rows]
    assert steps == sorted(set(steps)), "one row a step, ascending"
    assert [row.pop("iter") for row in rows] == steps
    for row in rows:
        del row["_runtime"], row["_timestamp"]
    rows = without_times(dict(zip(steps, rows, strict=True)))
    expected = {
        at: pytest.approx(dict(names(*item) for item in row.items()))
        for at, row in expected_rows().items()
    }
    assert rows == expected
    assert "bbox/AP-종이_팩" in rows[6]


def inspect_wandb(run_dir: Path) -> dict:
    (file,) = run_dir.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(file)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def test_wandb_summary_config_and_files(run):
    (run_dir,) = (run[0] / "wandb").glob("offline-run-*")
    inspected = inspect_wandb(run_dir)
    assert inspected["state"] == "finished" and inspected["exit_code"] == 0
    assert inspected["project"] == "a project"
    assert json.loads((run[0] / "wandb_run.json").read_text())["id"] == inspected["run_id"]

    history = [evaluation(n)["bbox"] for n in (1, 2, 3, 4, 5, 6, 7, 7)]
    for name in ("AP", "AP-x.y", "AP-can"):
        values = [row[name] for row in history]
        assert inspected["summary"][f"bbox/{name}"] == {"max": max(values), "last": values[-1]}
    assert inspected["summary"]["bbox/APs"] == {"max": 7, "last": 7}, "not infinity"
    assert inspected["summary"]["bbox/AP-a*b"] == history[-1]["AP-a*b"]

    assert isinstance(inspected["summary"]["total_loss"], float), "of evaluations alone"

    config = inspected["config"]
    assert config["optimizer"]["_target_"].endswith("SGD")
    assert config["optimizer"]["betas"] == [0.9, 0.99] and config["lr"] == 0.1
    assert config["nested"] == [{"max_tokens": 5, "none": None}]
    assert "s3cret" not in json.dumps(inspected)
    assert "s3cret" not in (next(run_dir.glob("*.wandb")).read_bytes()).decode(errors="ignore")
    assert not [p for p in (run_dir / "files").rglob("*") if p.is_file()], "nothing is captured"


def test_what_is_not_finite_is_said_once_by_all_writers(run):
    said = [m for m in run[1] if "not written" in m]
    assert sorted(m.split(" at iteration ")[0] for m in said) == [
        *("bbox/APl is nan", "bbox/APs is inf")
    ]


def test_plain_lines(run):
    lines = [m for m in run[1] if m.startswith("iter ")]
    assert [line.split("  ")[0] for line in lines] == ["iter 20/50", "iter 40/50", "iter 50/50"]
    parts = lines[1].split("  ")
    assert {"lr 0.022", "AP 12.0 (best 20.0)"} < set(parts)
    assert re.search(r"  eta 0:00:\d\d  \d+\.\d{3} s/it  ", lines[1])
    shown = dict(part.split() for part in parts if "loss" in part)
    expected = expected_rows()[39]
    for name in ("total_loss", "loss_a", "loss_b"):
        assert float(shown[name]) == pytest.approx(expected[name], abs=0.01)


def test_json_is_cut_back_on_resume_and_new_on_a_fresh_start(tmp_path):
    path = tmp_path / "metrics.json"
    train([JSONWriter(str(path), 4, WINDOW)], LOSSES[:30], max_iter=30)
    with path.open("a", encoding="utf-8") as f:
        f.write('{"iteration": 30, "total_lo')  # killed while writing
    before = [row for row in read_metrics_of(tmp_path, skip_last=True) if row["iteration"] < 14]

    train([JSONWriter(str(path), 4, WINDOW)], LOSSES[14:], start_iter=14)
    rows = read_metrics(tmp_path)
    assert rows[: len(before)] == before
    iterations = [row["iteration"] for row in rows]
    assert iterations == sorted(set(iterations)) and iterations[-1] == 49
    evaluated = [row["iteration"] for row in rows if "bbox/AP" in row]
    assert evaluated == [6, 13, 20, 27, 34, 41, 48, 49]

    train([JSONWriter(str(path), 4, WINDOW)], LOSSES[:8], max_iter=8)
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [3, 6, 7]


def read_metrics_of(folder: Path, skip_last: bool) -> list[dict]:
    lines = (folder / "metrics.json").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in (lines[:-1] if skip_last else lines)]


def test_json_line_without_its_end_is_cut_off_too(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 3, "a": 1}\n{"iteration": 6, "a": 1}')
    train([JSONWriter(str(path), 4, WINDOW)], LOSSES[8:12], start_iter=8, max_iter=12)
    assert [row["iteration"] for row in read_metrics(tmp_path)][:2] == [3, 11]


def test_json_cut_off_within_a_letter_goes_on(tmp_path):
    path = tmp_path / "metrics.json"
    whole = '{"iteration": 3, "AP-종이": 1}\n'.encode()
    path.write_bytes(whole + '{"iteration": 6, "AP-한'.encode()[:-1])
    assert path.read_bytes().endswith(b"\xed\x95")
    train([JSONWriter(str(path), 4, WINDOW)], LOSSES[8:12], start_iter=8, max_iter=12)
    assert path.read_bytes().startswith(whole)
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [3, 11]


def test_kill_while_the_json_is_cut_back_loses_no_row(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    train([JSONWriter(str(path), 4, WINDOW)], LOSSES[:30], max_iter=30)
    before = path.read_bytes()

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        JSONWriter(str(path), 4, WINDOW).start(14, CFG)
    assert path.read_bytes() == before


def test_tensorboard_is_cut_back_on_resume(tmp_path):
    TensorboardWriter(str(tmp_path / "refused"), 4, WINDOW).close()  # by a resume, before it starts
    assert not (tmp_path / "refused").exists()
    train([TensorboardWriter(str(tmp_path), 4, WINDOW)], LOSSES[:30], max_iter=30)
    time.sleep(1)  # the files are read in the order of the seconds in their names
    train([TensorboardWriter(str(tmp_path), 4, WINDOW)], LOSSES[14:], start_iter=14)
    points = [(at, name) for at, name, _ in read_tensorboard(tmp_path)]
    assert len(points) == len(set(points))
    assert [at for at, name in points if name == "total_loss"] == [
        *(3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47, 49)
    ]


def test_values_are_written_though_training_crashes(tmp_path):
    with pytest.raises(FloatingPointError):
        train([JSONWriter(str(tmp_path / "metrics.json"), PERIOD)], [*LOSSES[:10], math.nan])
    rows = read_metrics(tmp_path)
    assert [row["iteration"] for row in rows if "bbox/AP" in row] == [6]
    assert [row["iteration"] for row in rows if "total_loss" in row] == [9]


class Terminal:
    """A pseudo-terminal of 150 columns, and what it has shown."""

    def __init__(self):
        self._reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 150, 0, 0))
        self.file = os.fdopen(writer, "w", encoding="utf-8")
        self._received = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        try:
            while received := os.read(self._reader, 4096):
                self._received += received
        except OSError:  # closed at the other end
            pass

    def lines(self) -> tuple[list[str], int]:
        """The lines as they stand in the end, and how often the cursor went back in all."""
        self.file.close()
        self._thread.join()
        os.close(self._reader)
        text = self._received.decode().replace("\r\n", "\n")
        shown = []
        for line in text.split("\n"):
            screen = ""
            for part in line.split("\r"):  # each writes over what is there
                screen = part + screen[len(part) :]
            shown.append(screen.rstrip())
        return [line for line in shown if line], text.count("\r")


class LogAt(HookBase):
    """Logs in the middle of training, as evaluation and checkpoints do."""

    def __init__(self, logger, *iterations):
        self._logger = logger
        self._iterations = iterations

    def after_step(self):
        if self.trainer.iter in self._iterations:
            self._logger.info(f"said after {self.trainer.iter}")


def train_on_terminal(monkeypatch, losses, bar=None) -> tuple[list[str], int]:
    """Trains with stderr, and the log, on a terminal."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal.file)
    loggers = [logging.getLogger(name) for name in ("detection", "detectron2")]
    handler = logging.StreamHandler(terminal.file)
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    try:
        printer = TqdmMetricPrinter(len(losses), 10, WINDOW, bar=bar)
        log = LogAt(loggers[0], 4, 24)
        trainer = tiny_trainer(losses, [log, hooks.IterationTimer(), PeriodicWriter(printer, CFG)])
        try:
            trainer.train(0, len(losses))
        except FloatingPointError:
            pass
        assert all(logger.handlers == [handler] for logger in loggers), "as before"
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        monkeypatch.undo()
    return terminal.lines()


def test_bar_on_a_terminal(monkeypatch):
    lines, returns = train_on_terminal(monkeypatch, LOSSES)
    assert lines[0] == "Starting training from iteration 0"
    logged = [line for line in lines if line.startswith(("said", "Total", "Overall"))]
    assert logged[:2] == ["said after 4", "said after 24"]
    (bar,) = [line for line in lines if "%|" in line]
    assert bar.startswith("100%|") and "| 50/50" in bar
    assert "total_loss" in bar and "eta 0:00:00" in bar
    assert returns > 4, "it moved"
    assert not [line for line in lines if line.startswith("iter ")]


def test_crash_leaves_the_bar_where_it_was(monkeypatch):
    lines, _ = train_on_terminal(monkeypatch, [*LOSSES[:12], math.nan, *LOSSES[13:]])
    (bar,) = [line for line in lines if "%|" in line]
    assert "| 12/50" in bar


def test_no_bar_on_a_terminal_if_told_so(monkeypatch):
    lines, _ = train_on_terminal(monkeypatch, LOSSES[:20], bar=False)
    assert not [line for line in lines if "%|" in line]
    assert [line.split("  ")[0] for line in lines if "iter " in line] == [
        *("iter 10/20", "iter 20/20")
    ]


def test_crash_prints_no_line_for_the_iteration_that_failed(monkeypatch):
    lines, _ = train_on_terminal(monkeypatch, [*LOSSES[:12], math.nan, *LOSSES[13:]], bar=False)
    assert [line.split("  ")[0] for line in lines if line.startswith("iter ")] == ["iter 10/50"]


def test_no_terminal_no_bar(capsys):
    printer = TqdmMetricPrinter(5, 2)
    tiny_trainer(LOSSES[:5], [PeriodicWriter(printer, CFG)]).train(0, 5)
    captured = capsys.readouterr()
    assert "%|" not in captured.out + captured.err


@pytest.mark.parametrize(("mode", "before", "after"), [("max", 20, 20), ("min", 13, 12)])
def test_best_value_outlives_a_resume(tmp_path, caplog, mode, before, after):
    caplog.set_level(logging.INFO, logger="detection")
    cfg = OmegaConf.create({"train": {"log_period": 2, "output_dir": str(tmp_path)}})

    def lines(start_iter: int, stop: int) -> list[str]:
        caplog.clear()
        printer = TqdmMetricPrinter(MAX_ITER, 2, WINDOW, mode=mode, bar=False)
        losses = LOSSES[start_iter:stop]
        train([printer], losses, start_iter, stop, cfg=cfg, best_in=mode)
        return [m for m in caplog.messages if m.startswith("iter ")]

    assert f"AP 20.0 (best {before}.0)" in lines(0, 24)[-1]
    resumed = lines(24, MAX_ITER)
    assert f"AP best {before}.0" in resumed[0]
    assert f"AP 15.0 (best {after}.0)" in resumed[-1]


def wandb_runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"), key=lambda p: p.stat().st_ctime_ns)


def test_wandb_gets_from_metrics_json_what_a_kill_cost_it(tmp_path, names):
    cfg = OmegaConf.create({"writers": {"json": {"json_file": str(tmp_path / "metrics.json")}}})
    cfg.train = CFG.train

    def writers():
        return [
            JSONWriter(cfg.writers.json.json_file, PERIOD, WINDOW),
            WandbWriter(str(tmp_path), names, period=PERIOD, window_size=WINDOW),
        ]

    train(writers(), LOSSES[:24], max_iter=24, cfg=cfg)
    (lost,) = wandb_runs(tmp_path)
    shutil.rmtree(lost)
    train(writers(), LOSSES[24:], start_iter=24, cfg=cfg)
    (resumed,) = wandb_runs(tmp_path)
    rows = {row.pop("_step"): row for row in read_wandb_rows(resumed)}
    lines = (tmp_path / "metrics.json").read_text(encoding="utf-8").splitlines()
    expected = {row.pop("iteration"): row for row in map(json.loads, lines)}
    assert rows.keys() == expected.keys() and min(rows) == 3
    for at, row in expected.items():
        assert {names(k, v)[0]: v for k, v in row.items()}.items() <= rows[at].items()


def test_media_without_scalars_are_sent(tmp_path, names):
    writer = WandbWriter(str(tmp_path), names, period=4)
    writer.media[5] = {"note": wandb.Html("<p>5</p>")}
    train([writer], LOSSES[:12], max_iter=12)
    (run_dir,) = wandb_runs(tmp_path)
    noted = [row["_step"] for row in read_wandb_rows(run_dir) if "note.path" in row]
    assert noted == [5] and not writer.media


def test_wandb_crash_resume_and_a_fresh_start(tmp_path, names):
    """One process, three trainings, in one output directory: none runs into another."""

    def writer():
        return WandbWriter(str(tmp_path), names, period=4)

    with pytest.raises(FloatingPointError):
        train([writer()], [*LOSSES[:10], math.nan])
    first_id = json.loads((tmp_path / "wandb_run.json").read_text())["id"]
    (crashed,) = wandb_runs(tmp_path)
    train([writer()], LOSSES[8:20], start_iter=8, max_iter=20)
    assert json.loads((tmp_path / "wandb_run.json").read_text())["id"] == first_id
    (resumed,) = set(wandb_runs(tmp_path)) - {crashed}
    train([writer()], LOSSES[:3], max_iter=3)
    (fresh,) = set(wandb_runs(tmp_path)) - {crashed, resumed}
    fresh_id = json.loads((tmp_path / "wandb_run.json").read_text())["id"]

    inspected = [inspect_wandb(run_dir) for run_dir in (crashed, resumed, fresh)]
    assert [i["exit_code"] for i in inspected] == [1, 0, 0]
    assert [i["run_id"] for i in inspected] == [first_id, first_id, fresh_id]
    assert fresh_id != first_id
    steps = [
        [row["_step"] for row in read_wandb_rows(run_dir) if {"loss_a", "bbox/AP"} & row.keys()]
        for run_dir in (crashed, resumed, fresh)
    ]
    assert steps == [[3, 6, 7, 9], [11, 13, 15, 19], [2]]


@pytest.mark.parametrize("content", [b"", b"\xed\x95", b"[]", b'{"id": 5}', b"{}", None])
def test_damaged_record_starts_no_second_wandb_run(tmp_path, names, caplog, content):
    def writer():
        return WandbWriter(str(tmp_path), names, period=4)

    train([writer()], LOSSES[:8], max_iter=8)
    first_id = json.loads((tmp_path / "wandb_run.json").read_text())["id"]
    if content is None:
        (tmp_path / "wandb_run.json").unlink()
    else:
        (tmp_path / "wandb_run.json").write_bytes(content)
    train([writer()], LOSSES[8:12], start_iter=8, max_iter=12)
    assert json.loads((tmp_path / "wandb_run.json").read_text()) == {"id": first_id}
    rows = [row["_step"] for part in wandb_runs(tmp_path) for row in read_wandb_rows(part)]
    assert rows == [3, 6, 7, 11]
    assert len([m for m in caplog.messages if "wandb_run.json" in m]) == 1


def test_row_that_crashed_of_wrong_content_is_left_out(tmp_path, names):
    record = tmp_path / "wandb_run.json"
    record.write_text('{"id": "abcd1234", "unfinished": [{"iter": "x"}]}')
    train([WandbWriter(str(tmp_path), names, period=4)], LOSSES[8:12], start_iter=8, max_iter=12)
    assert json.loads(record.read_text()) == {"id": "abcd1234"}
    (part,) = wandb_runs(tmp_path)
    assert [row["_step"] for row in read_wandb_rows(part)] == [11]


@pytest.mark.parametrize(
    ("fold", "given", "group", "tags"),
    [
        (0, {}, "cascade", ["fold 0"]),
        ("holdout", {"tags": ["tta"]}, "cascade", ["fold holdout", "tta"]),
        (None, {"notes": "as last year"}, "", []),
        (0, {"group": "mine"}, "mine", ["fold 0"]),
    ],
)
def test_wandb_groups_the_folds_of_an_experiment(tmp_path, names, fold, given, group, tags):
    suffix = {None: "", 0: "_fold0"}.get(fold, f"_{fold}")
    writer = WandbWriter(str(tmp_path / f"cascade{suffix}"), names, **given)
    writer.start(0, OmegaConf.merge(CFG, {"dataset": {"fold": fold}}))
    writer.close()
    tear_down()  # W&B's own process writes the rest
    (folder,) = wandb_runs(tmp_path / f"cascade{suffix}")
    (run, *_) = [
        r.run for r in read_wandb_records(next(folder.glob("*.wandb"))) if r.HasField("run")
    ]
    assert (run.run_group, run.job_type, sorted(run.tags)) == (group, "train", tags)
    assert run.notes == given.get("notes", "")


def test_wandb_disabled(tmp_path, names):
    train([WandbWriter(str(tmp_path), names, mode="disabled")], LOSSES[:4], max_iter=4)
    assert not (tmp_path / "wandb").exists()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own, without any key."""
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    yield tmp_path
    tear_down()  # it remembers the environment


def set_environment(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tear_down()


def test_default_mode_without_a_key(home):
    assert default_mode() == "offline"
    (home / ".netrc").write_text("machine github.com\n  login me\n  password p\n")
    assert default_mode() == "offline"
    (home / ".netrc").write_text("machine ???\n broken")
    assert default_mode() == "offline"


def test_default_mode_with_a_key_in_the_environment(home, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert default_mode() == "online"
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert default_mode() == "offline"


def write_netrc(path: Path, host: str):
    path.write_text(f"machine {host}\n  login user\n  password {'k' * 40}\n")
    path.chmod(0o600)


DEFAULT_HOST = urlsplit(wandb.Settings().base_url).netloc


@pytest.mark.parametrize("host", sorted({DEFAULT_HOST, "api.wandb.ai"}))
@pytest.mark.parametrize("file", [".netrc", "_netrc", "elsewhere"])
def test_default_mode_with_a_key_in_netrc(home, file, host, monkeypatch):
    write_netrc(home / file, host)
    if file == "elsewhere":
        assert default_mode() == "offline"
        monkeypatch.setenv("NETRC", str(home / file))
    assert default_mode() == "online"
    set_environment(monkeypatch, WANDB_BASE_URL="https://wandb.example.org:8080")
    assert default_mode() == "offline", "the key is for another server"
    write_netrc(home / file, "wandb.example.org:8080")
    assert default_mode() == "online"


def test_a_file_named_by_NETRC_is_the_only_one(home, monkeypatch):
    write_netrc(home / ".netrc", DEFAULT_HOST)
    monkeypatch.setenv("NETRC", str(home / "nowhere"))
    assert default_mode() == "offline"


def test_mode_is_that_of_the_config_then_of_the_environment(home, monkeypatch, names):
    def mode(configured=None):
        return WandbWriter(str(home), names, mode=configured)._mode

    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode() == "disabled" and mode("offline") == "offline"
    monkeypatch.delenv("WANDB_MODE")
    assert mode() == "online"


def test_server_that_refuses_means_offline(home, monkeypatch, names, caplog):
    set_environment(
        monkeypatch,
        WANDB_API_KEY="k" * 40,
        WANDB_BASE_URL="http://127.0.0.1:9",  # nobody listens
        WANDB_ERROR_REPORTING="false",
    )
    (home / "wandb_run.json").write_text('{"id": "of-before"}')
    writer = WandbWriter(str(home), names, mode="online", period=2, init_timeout=1)
    with caplog.at_level(logging.INFO, logger="detection"):
        train([writer], LOSSES[:4], start_iter=4, max_iter=8)
    assert "going offline" in caplog.text and "wandb sync" in caplog.text
    (run_dir,) = wandb_runs(home)
    assert run_dir.name.endswith("-of-before")
    assert [row["_step"] for row in read_wandb_rows(run_dir)] == [5, 6, 7]
