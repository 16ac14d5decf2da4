"""detection/trainers.py and the hooks that need it, in real trainings of a few numbers."""

import math

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, hooks

from detection.ema import EMAHook
from detection.errors import UserError
from detection.freezing import freeze
from detection.hooks import BestCheckpointer, EarlyStopping, EvalHook
from detection.trainers import Trainer, amp_dtype, on_device


class Line(torch.nn.Module):
    """Its loss is its weight times the images' `slope`; it takes as many `bytes` as they say."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, batch):
        if "bytes" in batch[0]:
            torch.empty(batch[0]["bytes"], dtype=torch.uint8)
        slopes = torch.stack([image["slope"] for image in batch])
        return {"loss_a": (slopes * self.weight).sum(), "loss_b": 0 * self.weight.sum()}


def images(*slopes: float, **other) -> list[dict]:
    return [
        {
            "file_name": f"{k}.jpg",
            "image": torch.zeros(3, 5, 7),
            "slope": torch.tensor([slope, 0.0]),
            **other,
        }
        for k, slope in enumerate(slopes)
    ]


def make_trainer(batches, hooks=(), **arguments) -> Trainer:
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = Trainer(model, batches, optimizer, **arguments)
    trainer.register_hooks(list(hooks))
    return trainer


@pytest.mark.parametrize("dtype", [None, torch.float16])
@pytest.mark.parametrize(
    ("limits", "step"),
    [({}, 4), ({"norm": 2.0}, 2), ({"norm": 9.0}, 4), ({"value": 0.5}, 0.5), ({"value": 8}, 4)],
)
def test_gradients_are_clipped_after_unscaling(limits, step, dtype):
    trainer = make_trainer([images(4.0)], dtype=dtype, **limits)
    trainer.train(0, 1)
    assert trainer.model.weight.tolist() == pytest.approx([1 - step, 1], abs=1e-4)
    if "norm" in limits:
        assert trainer.storage.latest()["grad_norm"][0] == pytest.approx(4)


def test_grad_scaler_outlives_a_resume():
    first = make_trainer([images(1.0)] * 3, dtype=torch.float16)
    first.train(0, 3)
    state = first.state_dict()
    assert state["grad_scaler"]["_growth_tracker"] == 3
    resumed = make_trainer([images(1.0)], dtype=torch.float16)
    resumed.load_state_dict(state)
    resumed.train(3, 4)
    assert resumed.state_dict()["grad_scaler"]["_growth_tracker"] == 4
    make_trainer([]).load_state_dict(state)  # a run may change its precision


@pytest.mark.parametrize(
    ("enabled", "precision", "expected"),
    [
        (False, "fp16", None),
        (True, "bf16", torch.bfloat16),
        (True, "fp16", "train.amp.precision"),
        (True, "int8", "fp16, bf16"),
    ],
)
def test_precision_on_a_cpu(enabled, precision, expected):
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            amp_dtype(enabled, precision, "cpu")
    else:
        assert amp_dtype(enabled, precision, "cpu") is expected


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_ends_the_training_in_one_line(value, tmp_path, caplog):
    trainer = make_trainer([images(1.0), images(2.0, value)])
    checkpointer = DetectionCheckpointer(trainer.model, str(tmp_path), trainer=trainer)
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, period=1)])
    with pytest.raises(UserError) as error:
        trainer.train(0, 5)
    message = str(error.value)
    assert "\n" not in message
    for part in ("iteration 1", "loss_a", "0.jpg, 1.jpg", "optimizer.lr", "make check"):
        assert part in message
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_0000000.pth"]
    assert trainer.model.weight.isfinite().all()
    assert not any(record.exc_info for record in caplog.records)


def test_gradient_that_is_not_finite_ends_the_training_in_one_line():
    trainer = make_trainer([images(1.0)] * 2, norm=1.0)
    spoil_gradients(trainer)
    with pytest.raises(UserError) as error:
        trainer.train(0, 2)
    message = str(error.value)
    assert "\n" not in message
    for part in ("iteration 0", "the gradients are not finite", "0.jpg", "optimizer.lr"):
        assert part in message
    assert trainer.model.weight.tolist() == [1, 1]


def test_fp16_leaves_out_a_step_whose_gradient_is_not_finite():
    trainer = make_trainer([images(1.0)] * 2, norm=1.0, dtype=torch.float16)
    scale = trainer.state_dict()["grad_scaler"]["scale"]
    spoil_gradients(trainer)
    trainer.train(0, 2)
    assert trainer.model.weight.tolist() == [1, 1]
    assert trainer.state_dict()["grad_scaler"]["scale"] == scale / 4


def spoil_gradients(trainer: Trainer) -> None:
    trainer.model.weight.register_hook(lambda gradient: gradient * math.nan)


def test_out_of_memory_says_what_to_lower():
    trainer = make_trainer([images(1.0, 2.0, bytes=2**60)])
    with pytest.raises(UserError) as error:
        trainer.train(0, 1)
    for part in ("2 images of 7×5, 7×5", "total_batch_size", "short_edge_length", "amp"):
        assert part in str(error.value)


def test_other_errors_stay_what_they_are(caplog):
    with pytest.raises(KeyError, match="slope"):
        make_trainer([[{}]]).train(0, 1)
    assert any(record.exc_info for record in caplog.records), "log.txt has the traceback"


class NoteIterations(HookBase):
    def __init__(self):
        self.seen = []

    def after_step(self):
        self.seen.append(self.trainer.iter)


def train(folder, values, start_iter=0, patience=2, period=2):
    """Evaluates every `period` iterations, to `values`; returns the iterations that ran."""
    evaluations = iter(values)
    trainer = make_trainer([images(0.0)] * 20)
    checkpointer = DetectionCheckpointer(trainer.model, str(folder), trainer=trainer)
    note = NoteIterations()
    trainer.register_hooks(
        [
            hooks.PeriodicCheckpointer(checkpointer, period=1),
            EvalHook(period, lambda: {"bbox": {"AP": next(evaluations)}}),
            BestCheckpointer(checkpointer, "bbox/AP"),
            EarlyStopping(checkpointer, "bbox/AP", period, patience),
            note,
        ]
    )
    trainer.train(start_iter, 20)
    return note.seen


def test_early_stopping(tmp_path):
    assert train(tmp_path, [1, 3, 2, 3]) == list(range(8)), "equal is not better"
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert torch.load(tmp_path / "model_final.pth")["iteration"] == 7
    with pytest.raises(UserError, match="patience goes on"):
        train(tmp_path, [], start_iter=8)
    assert train(tmp_path, [2, 2], start_iter=8, patience=4) == [8, 9, 10, 11]


def test_resumed_run_stops_where_an_uninterrupted_one_does(tmp_path):
    with pytest.raises(StopIteration):
        train(tmp_path, [1, 3, 2])  # killed in its fourth evaluation
    assert train(tmp_path, [3], start_iter=6) == [6, 7]


def test_no_early_stopping(tmp_path):
    assert train(tmp_path, [3] + [1] * 9, patience=None) == list(range(20))


@pytest.mark.parametrize(("patience", "period"), [(0, 2), (3, 0)])
def test_early_stopping_needs_evaluations(tmp_path, patience, period):
    with pytest.raises(UserError, match="eval_period"):
        train(tmp_path, [], patience=patience, period=period)


def test_average_of_the_weights():
    trainer = make_trainer([images(1.0)] * 4)
    ema = EMAHook(trainer.model, decay=0.5, warmup=4)
    trainer.register_hooks([ema])
    trainer.train(0, 4)
    average, weight = 1.0, 1.0
    for n in range(1, 5):
        weight -= 1
        decay = min(0.5, (1 + n) / (4 + n))
        average = decay * average + (1 - decay) * weight
    assert ema.model.weight.tolist() == pytest.approx([average, 1])
    assert trainer.model.weight.tolist() == [-3, 1], "the training goes on with its own"


def test_average_of_batch_norm():
    model = torch.nn.BatchNorm1d(1)
    ema = EMAHook(model, decay=0.75, warmup=0)
    model.running_mean.fill_(4.0)
    model.num_batches_tracked.fill_(9)
    ema.after_step()
    assert ema.model.running_mean == 1 and ema.model.num_batches_tracked == 9


def test_average_has_the_loss_normalizer():
    """RetinaNet's and FCOS's: an attribute, which the state has not."""
    model = torch.nn.Sequential(Line())
    model[0].loss_normalizer = 100.0
    ema = EMAHook(model)
    model[0].loss_normalizer = 7.0
    ema.after_step()
    assert ema.model[0].loss_normalizer == 7


def test_frozen_parts_stay_as_they_are():
    model = torch.nn.Sequential()
    model.add_module("body", torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1)))
    model.add_module("head", torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1)))
    freeze(model, ["body", "head.0.bias"])
    model.train()
    model(torch.randn(2, 1, 3, 3))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["head.0.weight", "head.1.weight", "head.1.bias"]
    assert model.body[1].running_mean == 0 and model.head[1].running_mean != 0


@pytest.mark.parametrize(("chosen", "is_last"), [(None, True), (True, True), (False, False)])
def test_layout_in_memory_changes_no_value(chosen, is_last):
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3), torch.nn.Linear(4, 4))
    before = model[0].weight.detach().clone()
    on_device(model, "cpu", chosen)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last) == is_last
    assert torch.equal(model[0].weight, before)


def test_one_name_freezes_as_a_list_of_it():
    model = torch.nn.Sequential()
    model.add_module("backbone", torch.nn.Linear(1, 1))
    model.add_module("head", torch.nn.Linear(1, 1))
    freeze(model, "backbone")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("patterns", "said"), [(["boddy"], "body is near"), (["*"], "nothing to train")]
)
def test_freezing_what_is_not_there_or_all_is_refused(patterns, said):
    model = torch.nn.Sequential()
    model.add_module("body", torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match=said):
        freeze(model, patterns)
