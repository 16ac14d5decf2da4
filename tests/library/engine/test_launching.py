"""Several processes train as one would: the same losses, one output, and a resume."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter

import pytest
import torch
from conftest import PROJECT_ROOT, read_metrics, train_command
from detection.checkpoint.load import load_weights
from detection.config import load_config
from detection.engine.launch import TORCHRUN_VARIABLES, launch
from detection.utils.arguments import parse_args
from detection.utils.errors import UserError
from detectron2.config import instantiate
from detectron2.utils import comm
from train_net import do_test, do_train

pytestmark = pytest.mark.slow

ITERATIONS = 6
# Each process draws random numbers of its own, and averages its losses over its own proposals. So
# that two compute what one does: nothing is sampled, every image has equally many proposals, and
# no layer sees more than one image.
COMPARABLE = (
    "model.proposal_generator.batch_size_per_image=100000",
    "model.proposal_generator.nms_thresh=0.9",
    "model.proposal_generator.post_nms_topk=[20,20]",
    "model.roi_heads.batch_size_per_image=100000",
    "model.roi_heads.positive_fraction=1.0",
    "+model.roi_heads.proposal_append_gt=False",
    "model.backbone.norm=GN",
    "model.backbone.bottom_up.stem.norm=GN",
    "model.backbone.bottom_up.stages.norm=GN",
    "dataloader.train.total_batch_size=4",
    f"train.max_iter={ITERATIONS}",
    "train.log_period=1",
    "train.eval_period=0",
    "train.checkpointer.period=3",
)


@pytest.fixture(scope="module")
def one(train_net, tmp_path_factory):
    """The output of a training in one process."""
    output_dir = tmp_path_factory.mktemp("one")
    train_net(*COMPARABLE, f"train.output_dir={output_dir}")
    return output_dir


@pytest.fixture(scope="module")
def two(on_toy, tmp_path_factory):
    """The output of the same training in two processes that torchrun starts."""
    output_dir = tmp_path_factory.mktemp("two")
    command = train_command(on_toy, *COMPARABLE, f"train.output_dir={output_dir}")
    torchrun(*command[1:])
    return output_dir


def torchrun(*args: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    process = subprocess.run(
        [*command, "--nproc-per-node", "2", *args],
        cwd=PROJECT_ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stdout + process.stderr


def weights(checkpoint) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint)["model"]


def test_two_processes_learn_what_one_does(one, two):
    losses = [[r["total_loss"] for r in read_metrics(folder)] for folder in (one, two)]
    assert len(losses[0]) == ITERATIONS
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    expected = weights(one / "model_final.pth")
    for name, value in weights(two / "model_final.pth").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("processes", [1, 2])
def test_parts_of_a_batch_learn_what_the_batch_does(processes, one, on_toy, train_net, tmp_path):
    """`train.accumulate`, in one process and in two, which exchange gradients once per batch."""
    args = [*COMPARABLE, f"train.max_iter={ITERATIONS}", "train.accumulate=2"]
    args += ["train.checkpointer.period=100", f"train.output_dir={tmp_path}"]
    if processes == 1:
        train_net(*args)
    else:
        torchrun(*train_command(on_toy, *args)[1:])
    losses = [[r["total_loss"] for r in read_metrics(folder)] for folder in (one, tmp_path)]
    assert len(losses[1]) == ITERATIONS
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    expected = weights(one / "model_final.pth")
    for name, value in weights(tmp_path / "model_final.pth").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)


def test_only_the_first_process_writes(one, two):
    assert sorted(row["iteration"] for row in read_metrics(two)) == list(range(ITERATIONS))
    assert len(list(two.glob("events.out.tfevents.*"))) == 1
    assert len(list((two / "wandb").glob("offline-run-*"))) == 1
    only_two = {p.name for p in two.iterdir()} - {p.name for p in one.iterdir()}
    assert {name for name in only_two if not name.startswith("events.")} == {"log.txt.rank1"}


def test_evaluation_gathers_all_predictions(two, train_net, tmp_path):
    """One process finds with the checkpoint what two found with the weights that it holds."""
    checkpoint = f"train.init_checkpoint={two}/model_final.pth"
    train_net("--eval-only", *COMPARABLE, checkpoint, f"train.output_dir={tmp_path}")
    gathered, expected = (
        json.loads((folder / "inference/coco_instances_results.json").read_text())
        for folder in (two, tmp_path)
    )
    images = [Counter(r["image_id"] for r in results) for results in (gathered, expected)]
    assert images[0] == images[1] and len(images[0]) == 4
    scores = [sorted(r["score"] for r in results) for results in (gathered, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_resumes_to_the_same_weights(two, train_net, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in `two`: sums depend on it
    for name in ("model_0000002.pth", "metrics.json"):  # as a kill in the fourth iteration left it
        shutil.copy(two / name, tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    train_net(
        *("--resume", "--num-gpus", "2"),
        *COMPARABLE,
        f"train.output_dir={tmp_path}",
    )
    resumed, whole = (weights(folder / "model_final.pth") for folder in (tmp_path, two))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_evaluation_is_of_the_saved_batch_norm(on_toy, tmp_path):
    """Although each process has seen images of its own."""
    args = [*on_toy, "train.max_iter=2", f"train.output_dir={tmp_path}", "writers.wandb=null"]
    torchrun(*train_command(args)[1:])
    results = tmp_path / "inference/coco_instances_results.json"
    told = scores(results)
    results.unlink()
    cfg = load_config("configs/debug/smoke.py", args)
    model = instantiate(cfg.model)
    load_weights(model, str(tmp_path), "last")
    do_test(cfg, model.eval())
    expected = scores(results)
    assert len(expected) == 4
    for image, found in expected.items():
        assert told[image] == pytest.approx(found, abs=1e-5)


def scores(results) -> dict[int, list[float]]:
    """Those of each image, in order."""
    found = {}
    for result in json.loads(results.read_text()):
        found.setdefault(result["image_id"], []).append(result["score"])
    return {image: sorted(values) for image, values in found.items()}


def train_on_a_disk_of_its_own(args) -> None:
    cfg = load_config(args.config_file, args.opts)
    cfg.train.output_dir += f"/{comm.get_rank()}"
    do_train(args, cfg)


def test_resume_needs_one_disk(on_toy, tmp_path):
    (tmp_path / "0").mkdir()
    torch.save({"iteration": 4}, tmp_path / "0/model_0000004.pth")
    (tmp_path / "0/last_checkpoint").write_text("model_0000004.pth")
    argv = ["--config-file", "configs/debug/smoke.py", "--num-gpus", "2"]
    with pytest.raises(UserError) as error:
        launch(
            train_on_a_disk_of_its_own,
            parse_args([*argv, "--resume", *on_toy, f"train.output_dir={tmp_path}"]),
        )
    assert "different last checkpoints ([5, 0] iterations)" in str(error.value)
    assert "\n" not in str(error.value)


def load_odd_batch(args) -> None:
    cfg = load_config(args.config_file, args.opts)
    cfg.dataloader.train.total_batch_size = 3
    instantiate(cfg.dataloader.train)


def test_error_of_a_process_arrives_as_one_line(on_toy):
    """The processes meet although another training of the user holds upstream's default port."""
    argv = ["--config-file", "configs/debug/smoke.py", "--num-gpus", "2"]
    port = 2**15 + 2**14 + hash(os.getuid() if sys.platform != "win32" else 1) % 2**14
    with socket.socket() as held, pytest.raises(UserError) as error:
        held.bind(("127.0.0.1", port))
        held.listen()
        launch(load_odd_batch, parse_args([*argv, *on_toy]))
    said = "total_batch_size=3 is not divisible by the number of processes, 2; set "
    assert str(error.value) == said + "dataloader.train.total_batch_size"


def test_torchrun_and_num_gpus_do_not_mix(monkeypatch):
    for name in TORCHRUN_VARIABLES:
        monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match="leave out --num-gpus"):
        launch(load_odd_batch, parse_args(["--num-gpus", "2"]))


def test_several_machines_need_an_address():
    with pytest.raises(UserError, match="--dist-url tcp://"):
        launch(load_odd_batch, parse_args(["--num-machines", "2"]))
