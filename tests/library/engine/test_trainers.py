"""detection/engine/trainer.py and the hooks that need it, in real trainings of a few numbers."""

import errno
import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
from contextlib import contextmanager

import pytest
import torch
from detection.engine.checkpoint_hooks import BestCheckpointer, EarlyStopping
from detection.engine.hooks import EvalHook, PeriodicWriter
from detection.engine.launch import launch
from detection.engine.memory import require_no_exchange
from detection.engine.trainer import Trainer
from detection.modeling.build import to_device
from detection.modeling.freezing import freeze
from detection.solver.ema import EMAHook
from detection.solver.precision import amp_dtype
from detection.utils.arguments import parse_args
from detection.utils.errors import UserError
from detection.utils.failures import explained
from detection.utils.output_lock import locked_file, locked_output
from detection.writers.files import JSONWriter
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from omegaconf import OmegaConf


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
    with pytest.raises(UserError, match="early_stopping"):
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
    to_device(model, "cpu", chosen)
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


class Killed(torch.utils.data.Dataset):
    """Its process is killed when it loads the second image, as for want of memory."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return images(1.0)[0]


def test_killed_worker(tmp_path, capfd):
    loader = torch.utils.data.DataLoader(
        Killed(), num_workers=1, batch_size=1, collate_fn=list, prefetch_factor=2
    )
    with pytest.raises(UserError, match=r"/dev/shm; lower dataloader\.train\.num_workers") as e:
        make_trainer(loader, output_dir=str(tmp_path)).train(0, 4)
    assert "\n" not in str(e.value) and "--resume" in str(e.value)
    assert "Traceback" not in "".join(capfd.readouterr())


@contextmanager
def largest_file(size: int):
    """No file gets larger, as on a disk that is full at that point."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("saves", ["last", "best"])
def test_disk_full_while_saving(tmp_path, capfd, saves):
    trainer = make_trainer([images(1.0)] * 6, output_dir=str(tmp_path))
    model = torch.nn.Linear(1000, 1000)
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    if saves == "last":
        trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, 1)])
    else:
        evaluate = EvalHook(1, lambda: {"bbox": {"AP": float(trainer.iter)}})
        trainer.register_hooks([evaluate, BestCheckpointer(checkpointer, "bbox/AP")])
    trainer.train(0, 1)
    name = "model_0000000.pth" if saves == "last" else "model_best.pth"
    saved = (tmp_path / name).read_bytes()
    with largest_file(1_000_000), pytest.raises(UserError) as e:
        trainer.train(1, 6)
    assert str(tmp_path) in str(e.value) and "undamaged" in str(e.value)
    assert "\n" not in str(e.value) and "--resume" in str(e.value)
    assert (tmp_path / name).read_bytes() == saved
    assert "Traceback" not in "".join(capfd.readouterr())


def test_disk_full_while_writing_metrics(tmp_path):
    """`close` fails as well, with what is still to be written."""
    trainer = make_trainer([images(1.0)] * 6, output_dir=str(tmp_path))
    writer = JSONWriter(str(tmp_path / "metrics.json"), 1)
    cfg = OmegaConf.create({"train": {"log_period": 1}})
    trainer.register_hooks([PeriodicWriter(writer, cfg)])
    with largest_file(150), pytest.raises(UserError, match="--resume"):
        with explained(str(tmp_path)):
            trainer.train(0, 6)


def test_output_gone_in_mid_run(tmp_path):
    output_dir = tmp_path / "output"
    trainer = make_trainer([images(1.0)] * 6, output_dir=str(output_dir))
    checkpointer = DetectionCheckpointer(trainer.model, str(output_dir))
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, 1)])
    output_dir.mkdir()
    trainer.train(0, 1)
    shutil.rmtree(output_dir)
    with pytest.raises(UserError) as e:
        trainer.train(1, 6)
    assert str(output_dir) in str(e.value) and "--resume" in str(e.value)


def test_errors_of_the_code_stay_what_they_are(tmp_path):
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    with pytest.raises(ValueError), explained(str(tmp_path)):
        raise first
    with pytest.raises(FileNotFoundError), explained(str(tmp_path)):
        open("/nowhere/image.jpg")


@pytest.mark.parametrize("kind", ["file", "read-only"])
def test_output_that_cannot_be(tmp_path, kind):
    (tmp_path / "file").write_text("mine")
    output_dir = {"file": str(tmp_path / "file"), "read-only": "/proc/sys/output"}[kind]
    with pytest.raises(UserError) as e, locked_output(output_dir):
        pass
    assert output_dir in str(e.value) and "train.output_dir=" in str(e.value)
    assert (tmp_path / "file").read_text() == "mine"


def in_child(lock, path) -> str | None:
    """How a forked process is refused a lock; None: it gets it."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def take():
        try:
            with lock(path):
                sender.send(None)
        except UserError as e:
            sender.send(str(e))

    child = context.Process(target=take)
    child.start()
    assert receiver.poll(60)
    child.join(60)
    return receiver.recv()


@pytest.mark.parametrize("lock", [locked_output, locked_file])
def test_lock(tmp_path, lock):
    path = str(tmp_path / "output") if lock is locked_output else tmp_path / "results.json"
    with lock(path):
        refusal = in_child(lock, path)
        assert str(path) in refusal and f"process {os.getpid()} on" in refusal
        assert in_child(lock, type(path)(f"{path}2")) is None
    assert in_child(lock, path) is None


def test_forked_process_does_not_hold_the_lock(tmp_path):
    """A loader's worker may outlive a training that was killed."""
    context = multiprocessing.get_context("fork")
    with locked_output(str(tmp_path)):
        worker = context.Process(target=signal.pause, daemon=True)
        worker.start()
    try:
        assert in_child(locked_output, str(tmp_path)) is None and worker.is_alive()
    finally:
        worker.kill()


def test_disk_without_locks(tmp_path, monkeypatch, caplog):
    def lockf(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with locked_output(str(tmp_path)):
        pass
    assert str(tmp_path) in caplog.text


@pytest.mark.parametrize("dtype", [None, torch.float16])
@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_parts_of_a_batch_add_up(accumulate, dtype):
    """Gradients, clipping, losses and the number of steps are those of the whole batch."""

    class Mean(Line):
        """As detectron2's losses: a mean over the images."""

        def forward(self, batch):
            sizes.append(len(batch))
            return {name: loss / len(batch) for name, loss in super().forward(batch).items()}

    def train(parts: int) -> tuple[list, dict]:
        model = Mean()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        batches = [images(1.0, 2.0, 3.0, 6.0), images(2.0, 4.0, 4.0, 2.0)]
        trainer = Trainer(model, batches, optimizer, dtype, norm=2.5, accumulate=parts)
        trainer.train(0, 2)
        scalars = trainer.storage.latest()
        return model.weight.tolist(), {k: scalars[k][0] for k in ("total_loss", "grad_norm")}

    sizes = []
    whole, expected = train(1)
    assert sizes == [4, 4]
    weights, scalars = train(accumulate)
    assert len(sizes) == 2 + 2 * accumulate and max(sizes[2:]) == -(-4 // accumulate)
    assert weights == pytest.approx(whole, abs=1e-6)
    assert scalars == pytest.approx(expected, abs=1e-6)


def test_out_of_memory_repeats_the_iteration_in_more_parts(caplog):
    """With the same images and random numbers; the number of parts outlives a resume."""

    class Limited(Line):
        def forward(self, batch):
            drawn.append((len(batch), torch.rand(()).item()))
            if len(batch) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().forward(batch)

    def make() -> Trainer:
        model = Limited()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        return Trainer(model, [images(*range(8))] * 2, optimizer, accumulate="auto")

    drawn = []
    trainer = make()
    trainer.train(0, 2)
    assert [size for size, _ in drawn] == [8, 4] + 8 * [2]
    assert len({value for _, value in drawn[:3]}) == 1, "each attempt draws the same"
    assert sum("train.accumulate=" in record.message for record in caplog.records) == 2
    drawn.clear()
    resumed = make()
    resumed.load_state_dict(trainer.state_dict())
    resumed.train(2, 3)
    assert [size for size, _ in drawn] == 4 * [2]


def test_out_of_memory_of_a_single_image_is_one_line():
    class Full(Line):
        def forward(self, batch):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model = Full()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = Trainer(model, [images(1.0, 2.0)], optimizer, accumulate="auto")
    with pytest.raises(UserError, match="short_edge_length") as error:
        trainer.train(0, 1)
    assert "\n" not in str(error.value)


class OnlyFitsInParts(torch.nn.Module):
    """A mean over images; on one of the processes, more than two do not fit."""

    def __init__(self, most: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.unused = torch.nn.Parameter(torch.ones(1))
        self.most = most

    def forward(self, batch):
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return {"loss": torch.stack([image["slope"] for image in batch]).mean(0) @ self.weight}


def train_with_one_short_of_memory(args) -> None:
    rank = comm.get_rank()
    results = []
    for most in (4, 2 if rank else 4):  # enough everywhere, and too little on the second
        model = OnlyFitsInParts(most)
        ddp = create_ddp_model(model, find_unused_parameters=True, device_ids=None)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.1)
        batches = [images(*(rank + k * step for k in range(4))) for step in (1.0, 2.0)]
        trainer = Trainer(ddp, batches, optimizer, accumulate="auto")
        trainer.train(0, 2)
        results.append((trainer.accumulate, model.weight.tolist(), model.unused.item()))
    refused = []
    for layer in (torch.nn.SyncBatchNorm(1), torch.nn.Identity()):
        layer.reduces_losses = isinstance(layer, torch.nn.Identity)
        try:
            require_no_exchange(layer, {})
        except UserError as e:
            refused.append(str(e))
    model = OnlyFitsInParts(2 if rank else 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    try:
        ddp = create_ddp_model(model, find_unused_parameters=True, device_ids=None)
        Trainer(ddp, [images(1.0)], optimizer, accumulate="auto").train(0, 1)
    except UserError as e:
        refused.append(str(e))
    (args.folder / f"{rank}.json").write_text(json.dumps([results, refused]))


def test_processes_agree_that_memory_ran_out(tmp_path):
    """All of them repeat the iteration in more parts, and learn the same as with enough memory."""
    args = parse_args(["--num-gpus", "2"])
    args.folder = tmp_path
    launch(train_with_one_short_of_memory, args)
    (results, refused), (others, refused_too) = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)
    )
    assert results == others
    (parts, whole, unused), (more_parts, weights, _) = results
    assert (parts, more_parts, unused) == (1, 2, 1.0)
    assert weights == pytest.approx(whole, abs=1e-6)
    # the weight decay is of this optimizer; slopes are means over both processes
    assert whole[0] == pytest.approx((1 - 0.1 - 2.0) * 0.9 - 3.5)
    for messages in (refused, refused_too):
        assert len(messages) == 3 and "SyncBatchNorm" in messages[0] and "Identity" in messages[1]
        assert "short_edge_length" in messages[2] and "\n" not in messages[2]
