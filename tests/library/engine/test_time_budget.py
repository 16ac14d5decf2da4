"""`train.hours`, in real trainings of a few seconds; a slow machine ends them earlier."""

import json
import math
import time

import pytest
import torch
from conftest import PROJECT_ROOT, read_metrics
from detection.checkpoint.checkpointer import WholeFileCheckpointer, last_checkpoint
from detection.config import load_config
from detection.data.loader import SeededMapDataset
from detection.engine import time_budget
from detection.engine.checkpoint_hooks import PeriodicCheckpointer
from detection.engine.completion import Completion
from detection.engine.dev_run import shorten
from detection.engine.hooks import EvalHook, PeriodicWriter
from detection.engine.launch import launch
from detection.engine.setup import check
from detection.engine.time_budget import TimeBudget
from detection.engine.trainer import Trainer
from detection.solver.schedule import cosine, multistep
from detection.utils.arguments import parse_args
from detection.utils.errors import UserError
from detection.writers.files import JSONWriter
from detectron2.config import LazyConfig
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from omegaconf import OmegaConf
from train_net import do_train

SMOKE = str(PROJECT_ROOT / "configs/debug/smoke.py")
LATE = 4  # seconds beyond the budget that a busy machine may take in a last step


class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, batch):
        return {"loss": self.weight * len(batch)}


class Sleep(HookBase):
    """Makes each iteration take `seconds`, and `later` from the k-th on; ends the k-th's run."""

    def __init__(self, seconds, later=None, at=math.inf, crash_at=math.inf):
        self.seconds, self.later, self.at, self.crash_at = seconds, later, at, crash_at

    def before_step(self):
        is_late = self.trainer.iter >= self.at
        time.sleep(self.later if is_late else self.seconds)
        if self.trainer.iter == self.crash_at:
            raise RuntimeError("killed")


def train(folder, seconds, *extra, schedule=None, evaluation=0.02, **settings):
    """A training with `seconds` of time, resumed if the folder has a checkpoint."""
    started = time.monotonic()
    train = {
        "hours": seconds / 3600,
        "max_iter": 7,
        "output_dir": str(folder),
        "eval_period": 0,
        "log_period": 1,
        "checkpointer": {"period": 25},
        **settings,
    }
    cfg = OmegaConf.create({"train": train})
    saved = last_checkpoint(folder)
    start = saved.iteration + 1 if saved else 0
    model = Mean()
    optimizer = torch.optim.SGD([{"params": model.parameters(), "initial_lr": 1.0}], lr=1.0)
    trainer = Trainer(model, iter(lambda: [{}], None), optimizer, output_dir=str(folder))
    checkpointer = WholeFileCheckpointer(model, str(folder), classes=["a"], trainer=trainer)

    def evaluate():
        time.sleep(evaluation)
        return {"bbox": {"AP": 1.0}}

    budget = TimeBudget(cfg, started, checkpointer, evaluate)
    results = [
        PeriodicCheckpointer(checkpointer, cfg.train.checkpointer.period),
        EvalHook(cfg.train.eval_period, evaluate),
    ]
    if comm.is_main_process():
        results.append(PeriodicWriter(JSONWriter(str(folder / "metrics.json"), 1, 1), cfg))
    schedule = budget.paced(schedule or cosine(warmup=0))
    trainer.register_hooks(
        [
            *(budget, hooks.LRScheduler(scheduler=schedule), *extra),
            *(*results, Completion(results, str(folder))),
        ]
    )
    checkpointer.load_or_resume("", last=saved and saved.path)
    trainer.train(start, cfg.train.max_iter, bool(saved and saved.is_cut_off))
    return trainer, time.monotonic() - started


def rates(folder) -> dict[int, float]:
    return {row["iteration"]: row["lr"] for row in read_metrics(folder)}


def assert_clean_end(folder, trainer, last_rate=0.05):
    """Evaluated and saved after the last iteration, at the end of the learning rate."""
    last = trainer.max_iter - 1
    assert torch.load(folder / "model_final.pth")["iteration"] == last
    rows = read_metrics(folder)
    assert rows[-1]["iteration"] == last and rows[-1]["bbox/AP"] == 1.0
    assert rows[-1]["lr"] <= last_rate
    assert LazyConfig.load(str(folder / "config.yaml")).train.max_iter == last + 1


def test_ends_in_time(tmp_path, caplog):
    trainer, seconds = train(tmp_path, 2, Sleep(0.005), eval_period=20)
    assert seconds < 2 + LATE
    assert trainer.max_iter > 20, "it was planned"
    assert_clean_end(tmp_path, trainer)
    assert all("slower" not in r.message or r.levelname == "WARNING" for r in caplog.records)
    assert "bbox/AP" in next(row for row in read_metrics(tmp_path) if row["iteration"] == 19)
    with pytest.raises(UserError, match=r"train\.init_checkpoint"):
        train(tmp_path, 2, Sleep(0.005), eval_period=20)


def test_slower_than_planned_ends_clean(tmp_path, caplog):
    slow = Sleep(0.005, later=0.05, at=60)
    trainer, seconds = train(tmp_path, 2.5, slow, schedule=multistep([0.5, 0.8], warmup=0))
    assert seconds < 2.5 + LATE
    assert_clean_end(tmp_path, trainer, last_rate=0.0101)
    plans = [
        int(r.message.split(": ")[1].split()[0]) for r in caplog.records if "in all" in r.message
    ]
    assert plans == sorted(plans, reverse=True) and plans[-1] == trainer.max_iter < plans[0]
    values = list(rates(tmp_path).values())
    assert values == sorted(values, reverse=True), "the schedule is compressed, not restarted"


def test_resume_counts_the_time_used(tmp_path, monkeypatch):
    monkeypatch.setattr(time_budget, "CHECKS", 1)  # else a busy machine may change the plan
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, 3, Sleep(0.005, crash_at=90))
    before = last_checkpoint(tmp_path)
    state = torch.load(before.path)["trainer"]["hooks"]["TimeBudget"]
    assert 0.3 < state["used"] < 3
    expected = rates(tmp_path)
    trainer, seconds = train(tmp_path, 3, Sleep(0.005))
    assert state["used"] + seconds < 3 + LATE
    assert_clean_end(tmp_path, trainer)
    resumed = rates(tmp_path)
    repeated = range(before.iteration + 1, min(before.iteration + 10, 90))
    assert [resumed[i] for i in repeated] == [expected[i] for i in repeated]
    assert state["plan"][2] >= trainer.max_iter


def test_too_short_says_what_fits(tmp_path):
    with pytest.raises(UserError) as error:
        train(tmp_path, 0.5, Sleep(0.005), evaluation=1.0)
    assert "too short" in str(error.value) and "\n" not in str(error.value)
    fits = float(str(error.value).split("train.hours=")[2].split()[0])
    trainer, seconds = train(tmp_path, fits * 3600, Sleep(0.005), evaluation=1.0)
    assert seconds < fits * 3600 + LATE
    assert_clean_end(tmp_path, trainer)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("train.hours=0", "train.hours=0"),
        ("train.hours=-1", "train.hours=-1"),
        ("train.hours=long", "train.hours=long"),
        ("train.epochs=3", "train.epochs=3"),
    ],
)
def test_hours_that_are_none(override, named):
    args = parse_args(["--config-file", SMOKE])
    cfg = load_config(SMOKE, ["train.device=cpu", "train.hours=1", override])
    with pytest.raises(UserError, match=named) as error:
        check(args, cfg)
    assert "\n" not in str(error.value)


def test_dev_run_has_no_budget(on_toy):
    cfg = load_config(SMOKE, [*on_toy, "train.hours=1"])
    shorten(cfg)
    assert cfg.train.hours is None and cfg.train.max_iter == 4


def test_whole_config_ends_in_time(on_toy, tmp_path):
    """With mixing, averaged weights and loading processes; as long as two short trainings."""

    def run(*overrides):
        settings = ["writers.wandb=null", "train.pictures.count=0", "train.log_period=1"]
        cfg = load_config(SMOKE, [*on_toy, *settings, *overrides])
        args = parse_args([])
        do_train(args, cfg)
        return cfg, time.monotonic() - args.started

    (tmp_path / "first").mkdir(), (tmp_path / "second").mkdir()
    _, seconds = run("train.max_iter=10", f"train.output_dir={tmp_path}/first")
    budget = 2 * seconds + 1
    cfg, seconds = run(
        f"train.output_dir={tmp_path}/second",
        f"train.hours={budget / 3600}",
        "train.ema.enabled=True",
        "dataloader.train.num_workers=1",
    )
    assert seconds < 2 * budget  # a busy machine's last evaluation may take longer
    rows = read_metrics(tmp_path / "second")
    last = cfg.train.max_iter - 1
    assert torch.load(tmp_path / "second" / "model_final.pth")["iteration"] == last
    assert rows[-1]["iteration"] == last and "bbox/AP" in rows[-1]
    assert rows[-1]["lr"] < 0.2 * max(row["lr"] for row in rows)
    assert json.loads((tmp_path / "second" / "model_best.json").read_text())


def follow(args) -> None:
    trainer, _ = train(args.folder, 2.5, Sleep(0.005, later=0.03, at=50 + 50 * comm.get_rank()))
    (args.folder / f"{comm.get_rank()}.txt").write_text(str(trainer.max_iter))


@pytest.mark.slow
def test_clock_of_the_main_process_decides(tmp_path):
    args = parse_args(["--num-gpus", "2"])
    args.folder = tmp_path
    launch(follow, args)
    one, other = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert one == other and len(rates(tmp_path)) == int(one)


class Progress:
    progress = 0.0

    def __call__(self, index: int) -> float:
        return self.progress


def test_loading_processes_follow_the_plan():
    dataset = SeededMapDataset(range(4), Progress(), seed=0, total_batch_size=1)
    dataset.set_max_iter(100)
    batches = [[(position, 0)] for position in range(50)]
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=batches, num_workers=1, collate_fn=list, prefetch_factor=2
    )
    images = iter(loader)
    assert next(images) == [0.0]
    dataset.set_max_iter(200)
    assert list(images)[-1] == [49 / 200]
