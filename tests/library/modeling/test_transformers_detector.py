"""detection/modeling/transformers_detector.py: what its detectors find, and what they learn."""

import shutil

import numpy as np
import pytest
import torch
from conftest import PROJECT_ROOT
from detection.config import load_config
from detection.data.resizing import ResizeShortestEdge, ResizeSquare
from detection.modeling.freezing import freeze
from detection.modeling.transformers_detector import TransformersDetector
from detection.solver.optimizer import layer_decayed_params
from detection.utils.errors import UserError
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from PIL import Image
from tiny_detectors import CONFIGS, tiny_detector

FAMILIES = ["rt_detr_v2", "d_fine", "rf_detr"]


def example(side: int = 96, boxes=((10.0, 20.0, 60.0, 70.0), (5.0, 5.0, 25.0, 30.0))) -> dict:
    instances = Instances((side, side))
    instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % 3
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    return {"image": image, "instances": instances}


def processor(family: str):
    from transformers import RfDetrImageProcessor, RTDetrImageProcessor

    size = {"height": 96, "width": 96}
    return (
        RfDetrImageProcessor(size=size) if family == "rf_detr" else RTDetrImageProcessor(size=size)
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(90, 160), (500, 310)], ids=str)
def test_predicts_what_transformers_does(family, size):
    height, width = size
    detector = tiny_detector(family).eval()
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.BICUBIC))

    resized = ResizeSquare(96).get_transform(pixels).apply_image(pixels)
    # RF-DETR's processor resizes without antialiasing, unlike its authors' evaluation
    inputs = processor(family)(
        images=resized if family == "rf_detr" else pixels, return_tensors="pt"
    )
    image = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
    with torch.no_grad():
        (found,) = detector([{"image": image, "height": height, "width": width}])
        outputs = detector.net(**inputs)
    # as many as there are queries
    (expected,) = processor(family).post_process_object_detection(
        outputs, threshold=0.0, target_sizes=[size]
    )
    found = found["instances"]
    wanted = Boxes(expected["boxes"])
    wanted.clip(size)
    count = len(wanted)
    assert 10 < count <= len(found)
    torch.testing.assert_close(found.scores[:count], expected["scores"], atol=1e-3, rtol=0)
    assert found.pred_classes[:count].tolist() == expected["labels"].tolist()
    torch.testing.assert_close(found.pred_boxes.tensor[:count], wanted.tensor, atol=0.5, rtol=0)


SIZES = [(100, 100), (37, 211), (480, 90), (2, 3), (3000, 4000)]


@pytest.mark.parametrize("takes_mask", [False, True])
@pytest.mark.parametrize(
    "resize",
    [
        ResizeSquare(128),
        ResizeSquare(128, letterbox=True),
        ResizeShortestEdge(128, max_size=256),
        ResizeSquare([96, 128, 160]),
    ],
    ids=["square", "letterbox", "shortest edge", "several"],
)
def test_planted_boxes_come_back_to_the_pixel(resize, takes_mask, monkeypatch):
    """What a perfect model predicts, from the labels it is given, is where the objects are."""
    detector = tiny_detector("rt_detr_v2", takes_mask=takes_mask)
    planted, batch = [], []
    for height, width in SIZES:
        box = np.array([[0.25 * width, 0.5 * height, 0.75 * width, height]])
        transform = resize.get_transform(np.zeros((height, width, 3), np.uint8))
        side = transform.apply_image(np.zeros((height, width, 3), np.uint8)).shape[:2]
        instances = Instances(side)
        instances.gt_boxes = Boxes(torch.from_numpy(transform.apply_box(box)).float())
        instances.gt_classes = torch.ones(1, dtype=torch.long)
        image = torch.zeros(3, *side, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": height, "width": width})
        planted.append(box[0])
    seen = []

    def perfect(pixels, mask, labels=None):
        if labels is not None:
            seen.extend(labels)
            raise StopIteration
        boxes = torch.stack([label["boxes"] for label in seen])
        logits = torch.full((*boxes.shape[:2], 3), -5.0)
        logits[..., 1] = 5.0
        return type("Outputs", (), {"logits": logits, "pred_boxes": boxes})

    monkeypatch.setattr(detector, "_run", perfect)
    with pytest.raises(StopIteration):
        detector.train()(batch)
    results = detector.eval()(batch)
    for result, box, size in zip(results, planted, SIZES, strict=True):
        found = result["instances"][result["instances"].scores > 0.5]
        assert found.image_size == size and found.pred_classes.tolist() == [1]
        tolerance = 1e-4 * max(size)
        assert np.abs(found.pred_boxes.tensor[0].numpy() - box).max() < max(tolerance, 1e-3)


@pytest.mark.parametrize("family", [*FAMILIES, "deformable_detr"])
def test_losses_add_up_to_what_transformers_trains(family):
    detector = tiny_detector(family, log_layers=True).train()
    batch = [example(), example(boxes=())]
    seen = {}

    def remember(module, args, kwargs, outputs):
        seen["loss"] = outputs.loss

    detector.net.register_forward_hook(remember, with_kwargs=True)
    with EventStorage() as storage:
        losses = detector(batch)
        stored = dict(storage.latest())
    assert sum(losses.values()).item() == pytest.approx(seen["loss"].item(), rel=1e-5)
    assert {"loss_cls", "loss_bbox", "loss_iou", "loss_aux"} <= losses.keys()
    assert all(loss.isfinite() for loss in losses.values())
    layers = [value for name, (value, _) in stored.items() if name.startswith("d0.loss_")]
    if family != "d_fine":  # whose first prediction is an auxiliary one too
        assert sum(layers) == pytest.approx(losses["loss_aux"].item(), rel=1e-5)
    assert "d0.loss_iou" in stored
    if family in ("rt_detr_v2", "d_fine"):
        dn = [value for name, (value, _) in stored.items() if "dn_" in name]
        assert sum(dn) == pytest.approx(losses["loss_dn"].item(), rel=1e-5)
    if family != "deformable_detr":
        enc = [value for name, (value, _) in stored.items() if name.startswith("enc_")]
        assert len(enc) == 3 and sum(enc) == pytest.approx(losses["loss_enc"].item(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_class_and_no_boxes_train(family):
    detector = tiny_detector(family, num_classes=1).train()
    image = example(boxes=())
    losses = detector([image, image])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert any(p.grad is not None and p.grad.any() for p in detector.backbone.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_float32_in_mixed_precision(family):
    detector = tiny_detector(family).train()
    seen = []
    loss = detector.net.loss_function
    inner = loss._loss

    def check(logits, *args, **kwargs):
        seen.append((logits.dtype, torch.is_autocast_enabled("cpu")))
        return inner(logits, *args, **kwargs)

    loss._loss = check
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector([example()])
    assert seen == [(torch.float32, False)]
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())


def test_diverged_weights_are_reported_as_for_other_models():
    detector = tiny_detector("d_fine").train()
    with torch.no_grad():
        next(iter(detector.backbone.parameters())).fill_(torch.nan)
    with pytest.raises(FloatingPointError):
        detector([example()])


def test_batches_get_one_of_several_sizes():
    detector = tiny_detector("rt_detr_v2", multi_scale=[64, 128]).train()
    seen = set()
    run = detector._run

    def remember(pixels, mask, **labels):
        seen.add(tuple(pixels.shape[2:]))
        return run(pixels, mask, **labels)

    detector._run = remember
    torch.manual_seed(0)
    for _ in range(6):
        detector([example(), example()])
    assert seen == {(64, 64), (128, 128)}
    for late in ({"is_late": True}, {}):  # the last part of a training, and an evaluation
        seen.clear()
        detector([{**example(), **late}, example()])
        assert seen == {(96, 96)}
        detector.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_backbones_are_frozen_and_slowed_by_name(family):
    detector = tiny_detector(family)
    groups = layer_decayed_params(detector, 1.0, backbone_lr_factor=0.1)
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    rate = {name: rates[p] for name, p in detector.named_parameters() if p in rates}
    assert {r for n, r in rate.items() if n.startswith("net.")} == {1.0}
    trunk = "backbone.backbone." if family == "rf_detr" else "backbone.model."
    assert {r for n, r in rate.items() if n.startswith(trunk)} == {0.1}
    rates = {g["lr"] for g in layer_decayed_params(detector, 1.0, layer_decay=0.5)}
    assert len(rates) > 3 and max(rates) == 1.0
    freeze(detector, ["backbone"])
    trained = {name.split(".")[0] for name, p in detector.named_parameters() if p.requires_grad}
    assert trained == {"net"}
    assert not any(name.startswith("net.model.backbone") for name in detector.state_dict())


def test_a_lower_rate_needs_a_backbone():
    with pytest.raises(UserError, match="backbone_lr_factor"):
        layer_decayed_params(torch.nn.Linear(2, 2), 1.0, backbone_lr_factor=0.1)


@pytest.mark.parametrize("leaf", ["d_fine_M", "rf_detr_L", "rt_detr_v2_X"])
def test_settings_that_a_config_leaves_out_can_be_overridden(leaf):
    wanted = {"log_layers": True, "gradient_checkpointing": True, "max_detections_per_image": 300}
    wanted |= {"test_score_thresh": 0.05, "size_divisibility": 64, "takes_mask": True}
    overrides = [f"model.{name}={value}" for name, value in wanted.items()]
    cfg = load_config(str(PROJECT_ROOT / f"configs/{leaf}.py"), overrides)
    assert {name: cfg.model[name] for name in wanted} == wanted
    with pytest.raises(UserError, match="multi_scale"):
        load_config(str(PROJECT_ROOT / f"configs/{leaf}.py"), ["model.multi_scales=[]"])


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for enabled in (False, True):
        detector = tiny_detector("rf_detr", gradient_checkpointing=enabled).train()
        sum(detector([example()]).values()).backward()
        gradients.append([p.grad for p in detector.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(UserError, match="gradient_checkpointing"):
        tiny_detector("rt_detr_v2", gradient_checkpointing=True)


@pytest.mark.parametrize(
    ("model_type", "config", "named"),
    [
        ("rt_detr_v3", {}, "rt_detr_v2"),
        ("d_fine", {"num_querys": 3}, "num_queries"),
        ("rt_detr_v2", {"d_model": 30}, "model.config"),
    ],
)
def test_what_cannot_be_built_is_one_line(model_type, config, named):
    with pytest.raises(UserError) as error:
        TransformersDetector(model_type, 3, config=config)
    assert named in str(error.value) and "\n" not in str(error.value)


def test_transformers_is_imported_only_where_a_model_is_built():
    folders = ("detection", "configs", "tools")
    files = [p for f in folders for p in (PROJECT_ROOT / f).rglob("*.py")]
    files += PROJECT_ROOT.glob("*.py")
    assert len(files) > 100
    for path in files:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [n for n in lines if n.startswith(("import transformers", "from transformers"))]


def _gradients(family: str, batch: list[dict], wrap=lambda model: model) -> torch.Tensor:
    """Of all weights, of a model without BatchNorm's statistics and without random queries."""
    detector = tiny_detector(family).train()
    detector.net.config.num_denoising = 0
    for module in detector.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    model = wrap(detector)
    for _ in range(2):  # gradients that are waited for in vain show in the second step
        model.zero_grad()
        sum(model(batch).values()).backward()
    with torch.no_grad():  # one process alone: validation losses
        if wrap is not torch.nn.parallel.DistributedDataParallel or not comm.get_rank():
            detector(batch)
    return torch.cat([_gradient(p).flatten() for p in detector.parameters() if p.requires_grad])


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _two_images() -> list[dict]:
    torch.manual_seed(7)
    return [example(), example(boxes=())]


def _train_apart(address: str, rank: int, results) -> None:
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    for family in FAMILIES:
        wrap = torch.nn.parallel.DistributedDataParallel
        results[rank][family] = _gradients(family, [_two_images()[rank]], wrap)


@pytest.mark.slow
def test_two_processes_train_as_one_though_a_batch_has_no_boxes(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = [manager.dict(), manager.dict()]
        address = f"file://{tmp_path}/meet"
        processes = [
            context.Process(target=_train_apart, args=(address, rank, results)) for rank in (0, 1)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        for family in FAMILIES:
            first, second = (result[family] for result in results)
            assert first.any() and torch.equal(first, second)
            if family != "d_fine":  # whose distillation is a mean over the queries of a process
                alone = _gradients(family, _two_images())
                assert (first - alone).norm() < 0.02 * alone.norm()  # large, and in float32


@pytest.fixture(scope="module")
def tiny_settings():
    """Overrides that make configs/d_fine_L.py what tiny_detector builds."""

    def text(value) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{k}:{text(v)}" for k, v in value.items()) + "}"
        return str(value).replace(" ", "")

    return [f"model.config={text(CONFIGS['d_fine'])}", "model.multi_scale=[64,96]"]


@pytest.mark.slow
def test_killed_and_resumed_training_has_the_same_weights(tiny_settings, train_net, tmp_path):
    settings = [
        *tiny_settings,
        "train.max_iter=4",
        "train.eval_period=2",
        "train.checkpointer.period=2",
        "train.amp.enabled=True",
        "train.amp.precision=bf16",
        "writers.wandb=null",
    ]
    config = "configs/d_fine_L.py"
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train_net(*settings, f"train.output_dir={whole}", config=config)
    resumed.mkdir()
    shutil.copy(whole / "model_0000001.pth", resumed)
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    train_net("--resume", *settings, f"train.output_dir={resumed}", config=config)
    one, other = (torch.load(f / "model_final.pth") for f in (whole, resumed))
    average = [c["trainer"]["hooks"]["EMAHook"]["model"] for c in (one, other)]
    for a, b in [(one["model"], other["model"]), average]:
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
