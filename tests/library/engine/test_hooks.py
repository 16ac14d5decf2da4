"""detection/engine/hooks.py, in real trainings of one parameter."""

import json
import logging
import math
import signal
from pathlib import Path

import pytest
import torch
from conftest import read_metrics
from detection.checkpoint.checkpointer import WholeFileCheckpointer, last_checkpoint
from detection.engine.checkpoint_hooks import BestCheckpointer, EarlyStopping, PeriodicCheckpointer
from detection.engine.completion import Completion
from detection.engine.hooks import EvalHook, PeriodicWriter
from detection.engine.trainer import Trainer
from detection.utils.errors import UserError
from detection.writers.files import JSONWriter
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import EventWriter
from omegaconf import OmegaConf
from tiny_training import TinyModel, tiny_trainer

CFG = OmegaConf.create({"train": {"log_period": 5}})


class CountSteps(HookBase):
    """Makes the model's weight the number of iterations done."""

    def after_step(self):
        self.trainer.model.weight.data.fill_(self.trainer.iter + 1)


def train(folder, values, start_iter=0, metric="AP", mode="max", last_hook=None) -> None:
    """Trains with one evaluation an iteration, whose results are `values`."""
    evaluations = iter(values)
    trainer = tiny_trainer([1.0] * len(values))
    checkpointer = DetectionCheckpointer(trainer.model, str(folder), trainer=trainer)
    trainer.register_hooks(
        [
            CountSteps(),
            hooks.PeriodicCheckpointer(checkpointer, period=1),
            EvalHook(1, lambda: {"bbox": {"AP": next(evaluations)}}),
            BestCheckpointer(checkpointer, f"bbox/{metric}", mode),
            last_hook,
        ]
    )
    trainer.train(start_iter, start_iter + len(values))


def best(folder) -> tuple[float, int, int]:
    """(value, iteration, weight) of the best checkpoint, by its record and by itself."""
    record = json.loads((folder / "model_best.json").read_text())
    checkpoint = torch.load(folder / "model_best.pth", weights_only=True)
    assert checkpoint["value"] == record["value"]
    assert checkpoint["iteration"] == record["iteration"]
    return record["value"], record["iteration"], int(checkpoint["model"]["weight"])


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("max", [1, 5, 3, 5], (5, 1, 2)),
        ("min", [4, 2, 3, 2], (2, 1, 2)),
        ("max", [0, 0], (0, 0, 1)),
        ("max", [math.nan, -1, math.inf, math.nan], (-1, 1, 2)),
        ("min", [math.nan, 3, -math.inf, 4], (3, 1, 2)),
    ],
)
def test_best_checkpoint(tmp_path, mode, values, expected):
    train(tmp_path, values, mode=mode)
    assert best(tmp_path) == expected
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert not list(tmp_path.glob("*partial*"))


def test_best_checkpoint_loads_as_any_other(tmp_path):
    train(tmp_path, [1, 5, 3])
    trainer = tiny_trainer([1.0])
    DetectionCheckpointer(trainer.model).load(str(tmp_path / "model_best.pth"))
    assert trainer.model.weight == 2


def test_best_value_outlives_a_resume(tmp_path):
    train(tmp_path, [1, 5])
    train(tmp_path, [4, 3], start_iter=2)
    assert best(tmp_path) == (5, 1, 2)
    train(tmp_path, [6, 2], start_iter=4)
    assert best(tmp_path) == (6, 4, 5)


def test_fresh_start_forgets_the_best_value(tmp_path):
    train(tmp_path, [9])
    train(tmp_path, [1, 2])
    assert best(tmp_path) == (2, 1, 2)


def test_best_value_of_another_metric_does_not_count(tmp_path):
    train(tmp_path, [50])
    record = json.loads((tmp_path / "model_best.json").read_text())
    (tmp_path / "model_best.json").write_text(json.dumps({**record, "metric": "bbox/AP50"}))
    train(tmp_path, [20], start_iter=1)
    assert best(tmp_path) == (20, 1, 2)


def test_metric_that_no_evaluation_has_is_told_at_the_first(tmp_path, caplog):
    train(tmp_path, [1, 2, 3], metric="AP5O")
    told = [r.message for r in caplog.records if "bbox/AP5O" in r.message]
    assert told == ["the evaluation has no bbox/AP5O: no model_best.pth"]
    assert not (tmp_path / "model_best.pth").exists()


def test_kill_amid_saving_leaves_the_best_model(tmp_path, monkeypatch):
    train(tmp_path, [5])
    save = torch.save

    def killed(state, path):
        if "best" in str(path):
            path.write_bytes(b"half a file")
            raise KeyboardInterrupt
        save(state, path)

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, [6], start_iter=1)
    monkeypatch.undo()
    assert best(tmp_path) == (5, 0, 1)
    train(tmp_path, [6], start_iter=1)
    assert best(tmp_path) == (6, 1, 2)
    assert not list(tmp_path.glob("*partial*"))


class NoteCheckpoints(HookBase):
    """Notes after each iteration which periodic checkpoints there are."""

    def __init__(self, folder):
        self.seen = []
        self._folder = folder

    def after_step(self):
        self.seen.append(sorted(int(p.stem[6:]) for p in self._folder.glob("model_00000??.pth")))


def test_checkpoints_from_before_a_resume_make_way_for_new_ones(tmp_path):
    others = ["model_0000900.pth", "model_0000001_mine.pth"]  # of no part of this run
    for name in others:
        (tmp_path / name).touch()
    seen = []
    for start in (0, 3):
        trainer = tiny_trainer([1.0] * 3)
        checkpointer = DetectionCheckpointer(trainer.model, str(tmp_path))
        note = NoteCheckpoints(tmp_path)
        trainer.register_hooks([PeriodicCheckpointer(checkpointer, 1, max_to_keep=2), note])
        trainer.train(start, start + 3)
        seen += note.seen
    assert seen == [[0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]
    assert all((tmp_path / name).exists() for name in others)


def checkpoint(folder, iteration: int, name="") -> None:
    torch.save(
        {"iteration": iteration, "model": {}}, folder / (name or f"model_{iteration:07}.pth")
    )


@pytest.mark.parametrize(
    "content",
    [
        *(None, b"", b"\0\xff\xfe", b"x" * 3000, b"a\nb", b"."),
        *(b"model_0000099.pth", b"model_0000029.pth", b"half", b"dir.pth", b"empty.pth"),
        *(b"other.pth", b"model_best.pth"),
    ],
)
def test_resumes_from_the_latest_checkpoint_that_loads(tmp_path, caplog, content):
    for iteration in (9, 19):
        checkpoint(tmp_path, iteration)
    checkpoint(tmp_path, 14, "model_final.pth")
    (tmp_path / "model_0000029.pth").write_bytes((tmp_path / "model_0000019.pth").read_bytes()[:99])
    (tmp_path / "half").write_bytes((tmp_path / "model_0000019.pth").read_bytes()[:-30])
    (tmp_path / "dir.pth").mkdir()
    (tmp_path / "empty.pth").touch()
    (tmp_path / "other.pth").write_text("not of torch")
    torch.save({"model": {}, "metric": "bbox/AP"}, tmp_path / "model_best.pth")
    if content is not None:
        (tmp_path / "last_checkpoint").write_bytes(content)
    found = last_checkpoint(tmp_path)
    assert (found.path.name, found.iteration) == ("model_0000019.pth", 19)
    (said,) = caplog.messages
    assert "last_checkpoint" in said and "model_0000019.pth" in said and "\n" not in said


def test_resumes_from_the_checkpoint_that_is_named(tmp_path, caplog):
    for iteration in (9, 19):
        checkpoint(tmp_path, iteration)
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth\n")
    assert last_checkpoint(tmp_path).iteration == 9
    assert not caplog.messages


def test_no_checkpoint_that_loads_is_an_error_of_one_line(tmp_path):
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "model_0000009.pth").touch()
    with pytest.raises(UserError) as error:
        last_checkpoint(tmp_path)
    assert "last_checkpoint" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model_0000000.pth", "last_checkpoint"])
def test_kill_amid_saving_leaves_the_files_as_they_were(tmp_path, monkeypatch, name):
    """A file is emptied when it is opened, or written in part, and then comes the kill."""
    checkpointer = WholeFileCheckpointer(TinyModel(), str(tmp_path))
    checkpointer.save("model_0000000", iteration=0)
    before = (tmp_path / name).read_bytes()
    replace = Path.replace

    def killed(self, target):
        if Path(target).name == name:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model_0000000", iteration=1)
    assert (tmp_path / name).read_bytes() == before


def test_what_kills_have_left_goes(tmp_path):
    for iteration in (1, 3, 5, 7):
        checkpoint(tmp_path, iteration)
    for name in ("model_0000009.pth.partial", "model_best.pth.partial", "last_checkpoint.partial"):
        (tmp_path / name).touch()
    (tmp_path / "mine.partial").touch()
    trainer = tiny_trainer([1.0])
    checkpointer = WholeFileCheckpointer(trainer.model, str(tmp_path))
    trainer.register_hooks([PeriodicCheckpointer(checkpointer, 100, max_to_keep=2)])
    trainer.train(8, 9)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("model_0000005.pth", "model_0000007.pth", "model_final.pth", "last_checkpoint"),
        "mine.partial",
    }


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"metric": 5}', b"\xed\x95", b'"text"', b"{"])
def test_damaged_record_of_the_best_model_is_repaired(tmp_path, content):
    train(tmp_path, [1, 5])
    (tmp_path / "model_best.json").write_bytes(content)
    train(tmp_path, [4], start_iter=2)
    assert best(tmp_path) == (5, 1, 2)
    (tmp_path / "model_best.json").write_bytes(content)
    (tmp_path / "model_best.pth").write_bytes(content)
    train(tmp_path, [4], start_iter=3)
    assert best(tmp_path) == (4, 3, 4)


class Crash(HookBase):
    """Stands for a kill at an iteration."""

    def __init__(self, at):
        self.at = at

    def after_step(self):
        if self.trainer.iter == self.at:
            raise RuntimeError("killed")


def run_until(folder, values, behind=None, at=None, max_iter=6, patience=None) -> list[int]:
    """
    Trains, or resumes, with a checkpoint and an evaluation every second iteration.

    `values` are by iteration; it crashes at iteration `at`, behind the hook `behind`. Returns the
    iterations at which it evaluated.
    """
    saved = last_checkpoint(folder)
    start, is_cut_off = (saved.iteration + 1, saved.is_cut_off) if saved else (0, False)
    tiny = tiny_trainer([float(k * k % 7) for k in range(start, max_iter)])
    trainer = Trainer(tiny.model, tiny.data_loader, tiny.optimizer)  # which may end early
    checkpointer = WholeFileCheckpointer(trainer.model, str(folder), trainer=trainer)
    evaluated = []

    def evaluate() -> dict:
        evaluated.append(trainer.iter)
        return {"bbox": {"AP": values[trainer.iter]}}

    cfg = OmegaConf.create({"train": {"log_period": 4, "eval_period": 2}})
    results = [
        PeriodicCheckpointer(checkpointer, 2, max_to_keep=2),
        EvalHook(2, evaluate),
        BestCheckpointer(checkpointer, "bbox/AP"),
        EarlyStopping(checkpointer, "bbox/AP", 2, patience),
        PeriodicWriter(JSONWriter(str(folder / "metrics.json"), 4, 3), cfg),
    ]
    results = [h for hook in results for h in (hook, Crash(at) if type(hook) is behind else None)]
    completion = Completion(results, str(folder))
    trainer.register_hooks([CountSteps(), *results, completion])
    if saved:
        checkpointer.load_or_resume("", last=saved.path)
    try:
        trainer.train(start, max_iter, is_cut_off)
    except RuntimeError as e:
        assert str(e) == "killed"
    return evaluated


def state(folder) -> tuple:
    """All that a training leaves, less times."""
    weights = {p.name: int(torch.load(p)["model"]["weight"]) for p in folder.glob("*.pth")}
    rows = [{k: v for k, v in row.items() if "time" not in k} for row in read_metrics(folder)]
    texts = {p.name: p.read_text() for p in folder.iterdir() if p.suffix not in (".pth", ".json")}
    return weights, rows, texts, best(folder), (folder / "last_complete.json").read_text()


@pytest.mark.parametrize(("at", "patience"), [(1, None), (3, None), (5, None), (1, 1), (3, 1)])
@pytest.mark.parametrize(
    "behind", [PeriodicCheckpointer, EvalHook, BestCheckpointer, EarlyStopping, PeriodicWriter]
)
def test_what_was_cut_off_behind_a_checkpoint_is_made_up_for(tmp_path, behind, at, patience):
    values, whole, killed = {1: 5, 3: 4, 5: 6}, tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    run_until(whole, values, patience=patience)
    for content in (b"", b'{"iteration": "a"}'):  # killed once more while it is made up for
        run_until(killed, values, behind, at, patience=patience)
        if at == 1:
            (killed / "last_complete.json").write_bytes(content)
    run_until(killed, values, patience=patience)
    assert state(killed) == state(whole)
    end = 4 if patience else 6
    saved = last_checkpoint(killed)
    assert (saved.iteration, saved.is_cut_off) == (end - 1, False), "all of it is done"


class Record(HookBase):
    """Notes at which iteration which evaluation was stored."""

    def __init__(self):
        self.stored = []

    def after_train(self):
        history = self.trainer.storage.histories().get("bbox/AP")
        self.stored = history.values() if history else []


@pytest.mark.parametrize(
    ("period", "max_iter", "expected"),
    [
        (4, 10, [3, 7, 9]),
        (5, 10, [4, 9]),
        (1, 3, [0, 1, 2]),
        (0, 10, [9]),
        (50, 10, [9]),
    ],
)
def test_evaluations_and_their_iterations(period, max_iter, expected):
    calls = []
    record = Record()

    def evaluate() -> dict:
        calls.append(None)
        return {"bbox": {"AP": len(calls)}}

    tiny_trainer([1.0] * max_iter, [EvalHook(period, evaluate), record]).train(0, max_iter)
    assert record.stored == [(n, at) for n, at in enumerate(expected, start=1)]
    assert len(calls) == len(expected)


def test_evaluation_without_results():
    record = Record()
    tiny_trainer([1.0], [EvalHook(1, dict), record]).train(0, 1)
    assert record.stored == []


@pytest.mark.parametrize("crash_at", [0, 6, 9])
def test_crash_is_not_followed_by_an_evaluation(crash_at):
    losses = [1.0] * crash_at + [math.nan]
    record = Record()
    trainer = tiny_trainer(losses, [EvalHook(4, lambda: {"bbox": {"AP": 1}}), record])
    with pytest.raises(FloatingPointError):
        trainer.train(0, 10)
    assert [at for _, at in record.stored] == [k for k in (3, 7) if k < crash_at]


class NoteWriter(EventWriter):
    """Notes its calls."""

    def __init__(self, **attributes):
        self.calls = []
        self.__dict__.update(attributes)

    def start(self, start_iter, cfg):
        self.calls.append(("start", start_iter, cfg))

    def write(self):
        self.calls.append("write")

    def close(self):
        self.calls.append("close")


class FailAtStart(HookBase):
    def before_train(self):
        raise ValueError("no such thing")


@pytest.mark.parametrize(("attributes", "writes"), [({}, 4), ({"period": 3}, 5)])
def test_writer_is_started_written_and_closed(attributes, writes):
    writer = NoteWriter(**attributes)
    tiny_trainer([1.0] * 11, [PeriodicWriter(writer, CFG)]).train(7, 18)
    # the last write is that of upstream's after_train
    assert writer.calls == [("start", 7, CFG), *["write"] * writes, "close"]


def test_upstream_writer_without_start_or_period():
    class Plain(EventWriter):
        written = 0

        def write(self):
            self.written += 1

    writer = Plain()
    tiny_trainer([1.0] * 10, [PeriodicWriter(writer, CFG)]).train(0, 10)
    assert writer.written == 3


def test_hook_that_fails_before_training_is_the_only_error(caplog):
    before, after = NoteWriter(), NoteWriter()
    trainer = tiny_trainer(
        [1.0], [PeriodicWriter(before, CFG), FailAtStart(), PeriodicWriter(after, CFG)]
    )
    with caplog.at_level(logging.CRITICAL), pytest.raises(ValueError, match="no such") as error:
        trainer.train(0, 1)
    assert error.value.__context__ is None
    assert [call[0] for call in before.calls if call != "write"] == ["start", "c"]
    assert after.calls == []


def test_writer_is_closed_after_a_crash():
    writer = NoteWriter()
    with pytest.raises(FloatingPointError):
        tiny_trainer([1.0, math.nan], [PeriodicWriter(writer, CFG)]).train(0, 9)
    assert writer.calls[-1] == "close"


@pytest.fixture
def interruptible():
    """Ctrl-C works, although the tests may run in the background, where it is ignored."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def test_interrupt_waits_for_the_checkpoint(tmp_path, interruptible):
    """Ctrl-C amid a save: the file is whole, and then the training ends."""

    class Interrupted(torch.nn.Linear):
        def state_dict(self, *args, **kwargs):
            signal.raise_signal(signal.SIGINT)
            return super().state_dict(*args, **kwargs)

    checkpointer = WholeFileCheckpointer(Interrupted(2, 2), str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model", iteration=3)
    saved = torch.load(tmp_path / "model.pth")
    assert saved["iteration"] == 3 and saved["model"]["weight"].shape == (2, 2)
    assert (tmp_path / "last_checkpoint").read_text() == "model.pth"
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
