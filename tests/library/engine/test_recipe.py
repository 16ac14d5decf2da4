"""The settings of configs/common/{train,optim,schedule}.py, in whole trainings on toy data."""

import io
import pickle
import re
import shutil
import warnings
from copy import deepcopy

import pytest
import timm
import torch
from conftest import PROJECT_ROOT, read_metrics
from detection.checkpoint.load import load_weights
from detection.config import load_config
from detection.engine.setup import set_max_iter
from detection.evaluation.validation_loss import with_validation_losses
from detection.modeling.build import without_pretrained_download
from detection.modeling.freezing import freeze
from detection.modeling.timm_backbone import TimmBackbone
from detection.solver.ema import EMAHook
from detection.solver.optimizer import block_depths, layer_decayed_params
from detection.utils.errors import UserError
from detectron2 import modeling
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

SMOKE = str(PROJECT_ROOT / "configs/debug/smoke.py")
LEAF = str(PROJECT_ROOT / "configs/faster_rcnn_R_50_FPN.py")

ALL = (
    "train.epochs=3",  # of 8 images, 2 a batch: 12 iterations
    "train.eval_period=4",
    "train.checkpointer.period=6",
    "train.log_period=1",
    "train.ema.enabled=True",
    "train.val_loss.enabled=True",
    "train.precise_bn.enabled=True",
    "train.precise_bn.num_iter=3",
    "train.clip_grad.norm=5",
    "train.amp.enabled=True",
    "train.amp.precision=bf16",
    "train.freeze=[backbone.bottom_up.stem]",
    "lr_multiplier.warmup=0.25",
    "writers.wandb=null",
    "writers.json.window_size=1",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, train_net):
    """A training with all of it, uninterrupted."""
    folder = tmp_path_factory.mktemp("recipe") / "whole"
    process = train_net(*ALL, f"train.output_dir={folder}")
    assert "3 epochs of 8 images are 12 iterations of 2" in process.stdout
    return folder


@pytest.fixture(scope="module")
def resumed(whole, train_net):
    """The same, killed behind its checkpoint of iteration 5 and resumed."""
    folder = whole.parent / "resumed"
    folder.mkdir()
    shutil.copy(whole / "model_0000005.pth", folder)
    (folder / "last_checkpoint").write_text("model_0000005.pth")
    train_net("--resume", *ALL, f"train.output_dir={folder}")
    return folder


def load(folder, name="model_final.pth") -> dict:
    return torch.load(folder / name, weights_only=True)


def losses(folder) -> dict[int, dict]:
    """{iteration: losses}, those on validation images too."""
    return {
        row["iteration"]: {k: v for k, v in row.items() if "loss" in k}
        for row in read_metrics(folder)
    }


def test_epochs_become_iterations(whole):
    assert list(losses(whole)) == list(range(12))
    assert LazyConfig.load(str(whole / "config.yaml")).train.max_iter == 12
    rates = [row["lr"] for row in read_metrics(whole)]
    assert rates.index(max(rates)) == 3, "warm-up is a quarter"


@pytest.mark.slow
def test_resumed_run_is_bit_identical(whole, resumed):
    assert losses(resumed) == {k: v for k, v in losses(whole).items() if k >= 5}
    one, other = load(whole), load(resumed)
    for part in ("model", "average", "momentum"):
        a, b = (_tensors(checkpoint, part) for checkpoint in (one, other))
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), part


def _tensors(checkpoint: dict, part: str) -> dict:
    trainer = checkpoint["trainer"]
    return {
        "model": checkpoint["model"],
        "average": trainer["hooks"]["EMAHook"]["model"],
        "momentum": {k: v["momentum_buffer"] for k, v in trainer["optimizer"]["state"].items()},
    }[part]


@pytest.mark.slow
def test_same_seed_gives_the_same_losses(whole, train_net, tmp_path):
    train_net(*ALL, "train.val_loss.enabled=False", f"train.output_dir={tmp_path}")
    again = losses(tmp_path)
    for iteration, expected in losses(whole).items():
        assert again[iteration] == {k: v for k, v in expected.items() if "val_loss" not in k}


def test_frozen_weights_stay(whole):
    before, after = load(whole, "model_0000005.pth")["model"], load(whole)["model"]
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    stem = {name for name in after if name.startswith("backbone.bottom_up.stem.")}
    assert stem and changed == set(after) - stem


def test_average_is_evaluated_kept_as_the_best_and_loaded(whole, on_toy):
    """The last evaluation's validation loss is that of the averaged weights, and of no others."""
    cfg = load_config(SMOKE, [*on_toy, *ALL])
    model = instantiate(cfg.model)
    told = losses(whole)[11]["val_loss/total_loss"]
    evaluate = with_validation_losses(cfg, model, dict)
    model.load_state_dict(load(whole)["model"])
    assert evaluate()["val_loss"]["total_loss"] != pytest.approx(told, rel=1e-3)
    load_weights(model, str(whole), "last")
    model.eval()
    assert evaluate()["val_loss"]["total_loss"] == pytest.approx(told, rel=1e-6)
    assert not any(module.training for module in model.modules())

    best = load(whole, "model_best.pth")
    load_weights(model, str(whole), "best")
    told = losses(whole)[best["iteration"]]["val_loss/total_loss"]
    assert evaluate()["val_loss"]["total_loss"] == pytest.approx(told, rel=1e-6)


def test_validation_losses_come_with_each_evaluation(whole):
    told = {k for k, v in losses(whole).items() if "val_loss/total_loss" in v}
    assert told == {3, 7, 11}
    last = losses(whole)[11]
    parts = [v for k, v in last.items() if k.startswith("val_loss/loss_")]
    assert len(parts) == 4 and sum(parts) == pytest.approx(last["val_loss/total_loss"])


# its BatchNorms have layers of their own
MOBILENET = LazyCall(TimmBackbone)(
    model_name="mobilenetv3_small_050",
    out_features=["res2", "res3", "res4"],
    pretrained=False,
    freeze_norm=False,
)


@pytest.mark.parametrize("bottom_up", [None, MOBILENET], ids=["detectron2", "timm"])
def test_validation_losses_leave_batch_norm_and_random_numbers_alone(bottom_up, on_toy):
    cfg = load_config(SMOKE, [*on_toy, *ALL])
    if bottom_up:
        cfg.model.backbone.bottom_up = bottom_up
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    drawn = torch.get_rng_state()
    evaluate = with_validation_losses(cfg, model, dict)
    assert evaluate() == evaluate(), "the same weights, the same losses"
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(module.training for module in model.modules())

    model.proposal_generator.rpn_head.anchor_deltas.bias.data.fill_(torch.nan)
    with pytest.raises(UserError, match="a lower optimizer"):
        evaluate()


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        ([], 0.01),
        (["dataloader.train.total_batch_size=4"], 0.005),
        (["dataloader.train.total_batch_size=4", "optimizer.lr=0.02"], 0.02),
        (["dataloader.train.total_batch_size=32", "optimizer.lr.base_lr=0.01"], 0.02),
    ],
)
def test_learning_rate_follows_the_batch(overrides, rate):
    assert load_config(LEAF, overrides).optimizer.lr == pytest.approx(rate)
    # as upstream's lazyconfig_train_net.py reads it
    cfg = LazyConfig.apply_overrides(LazyConfig.load(LEAF), overrides)
    cfg.optimizer.params.model = torch.nn.Linear(1, 1)
    assert instantiate(cfg.optimizer).param_groups[0]["lr"] == pytest.approx(rate)


def test_adamw_with_layer_decay():
    optimizer = LazyConfig.load(str(PROJECT_ROOT / "configs/common/optim.py")).AdamW
    cfg = OmegaConf.create(
        {"optimizer": optimizer, "dataloader": {"train": {"total_batch_size": 4}}},
        flags={"allow_objects": True},
    )
    model = instantiate(load_config(LEAF).model)
    cfg.optimizer.params.model = model
    cfg.optimizer.params.layer_decay = 0.5
    optimizer = instantiate(cfg.optimizer)
    groups = optimizer.param_groups
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    rate = {name: rates[p] for name, p in model.named_parameters() if p in rates}
    base = 1e-4 / 2  # a quarter of the batch: by its square root
    assert rate["roi_heads.box_head.fc1.weight"] == rate["backbone.fpn_output2.weight"] == base
    assert rate["backbone.bottom_up.res5.2.conv3.weight"] == base / 2
    assert rate["backbone.bottom_up.res5.0.shortcut.weight"] == base / 2**3
    assert rate["backbone.bottom_up.res3.0.conv1.weight"] == base / 2**13
    assert rate["backbone.bottom_up.stem.conv1.weight"] == base / 2**17
    assert len(groups) == 18, "few groups, so that the optimizer is fast"
    torch.save(optimizer.state_dict(), saved := io.BytesIO())
    saved.seek(0)
    read = torch.load(saved, weights_only=True)["param_groups"]
    assert all(type(group["betas"]) is tuple for group in [*groups, *read])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", {"conv1.weight": 0, "layer1.0.conv1.weight": 1, "layer4.1.bn2.weight": 8}),
        ("vit_tiny_patch16_224", {"pos_embed": 0, "blocks.0.norm1.weight": 1, "norm.weight": 12}),
        ("convnext_atto", {"stem.0.weight": 0, "stages.3.blocks.1.norm.weight": 12}),
        (
            "swin_tiny_patch4_window7_224",
            {
                "layers.0.blocks.1.norm1.weight": 2,
                "layers.1.downsample.norm.weight": 3,  # goes before its stage's blocks
                "layers.1.blocks.0.norm1.weight": 3,
                "norm.bias": 12,
            },
        ),
        ("pvt_v2_b0", {"stages.0.norm.weight": 2, "stages.1.downsample.norm.weight": 3}),
        ("efficientnet_b0", {"blocks.0.0.bn1.weight": 1, "blocks.1.1.bn1.weight": 3}),
        ("regnety_002", {"stem.conv.weight": 0, "s1.b1.conv1.conv.weight": 1}),
    ],
)
def test_blocks_of_other_backbones(name, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backbone = timm.create_model(name, pretrained=False)
    depths = block_depths(torch.nn.ModuleDict({"backbone": backbone}))
    assert {k: depths[f"backbone.{k}"] for k in expected} == expected


def test_blocks_of_detectron2s_swin():
    """Its down-sampling comes after a stage's blocks, and counts to the last of them."""
    if hasattr(modeling, "SwinTransformer"):
        swin = modeling.SwinTransformer(
            depths=[2, 1], embed_dim=24, num_heads=[1, 2], out_indices=(0, 1)
        )
    else:  # its names
        layer = torch.nn.Linear(2, 2)
        norm = torch.nn.ModuleDict({"norm1": layer})
        swin = torch.nn.Module()
        swin.patch_embed = torch.nn.ModuleDict({"proj": layer})
        swin.layers = torch.nn.ModuleList([torch.nn.Module(), torch.nn.Module()])
        for stage, count in zip(swin.layers, (2, 1), strict=True):
            stage.blocks = torch.nn.ModuleList([deepcopy(norm) for _ in range(count)])
        swin.layers[0].downsample = torch.nn.ModuleDict({"reduction": deepcopy(layer)})
    depths = block_depths(torch.nn.ModuleDict({"backbone": torch.nn.ModuleDict({"net": swin})}))
    expected = {
        "patch_embed.proj.weight": 0,
        "layers.0.blocks.1.norm1.weight": 2,
        "layers.0.downsample.reduction.weight": 2,
        "layers.1.blocks.0.norm1.weight": 3,
    }
    assert {name: depths[f"backbone.net.{name}"] for name in expected} == expected


@pytest.mark.parametrize("path", sorted(PROJECT_ROOT.glob("configs/*.py")), ids=lambda p: p.stem)
def test_layer_decay_knows_the_backbone_of_each_config(path):
    cfg = load_config(str(path))
    # upstream's transformers compute rates of drop path, which have no value on "meta"
    is_transformer = re.search("swin_b|mvitv2|vitdet", path.stem)
    with warnings.catch_warnings(), torch.device("cpu" if is_transformer else "meta"):
        warnings.simplefilter("ignore")
        model = instantiate(without_pretrained_download(cfg.model))
    rates = {group["lr"] for group in layer_decayed_params(model, lr=1.0, layer_decay=0.5)}
    assert len(rates) > 4 and max(rates) == 1.0
    assert max(block_depths(model).values()) >= 10


@pytest.mark.parametrize("name", ["densenet121", "dla34", "inception_v3"])
def test_layer_decay_without_known_blocks_is_refused(name):
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        backbone = timm.create_model(name, pretrained=False, features_only=True)
    model = torch.nn.ModuleDict({"backbone": backbone, "head": torch.nn.Linear(2, 2)})
    with pytest.raises(UserError, match=r"optimizer\.params\.layer_decay=0\.7") as error:
        layer_decayed_params(model, lr=1.0, layer_decay=0.7)
    assert "backbone." in str(error.value) and "\n" not in str(error.value)
    (group,) = {g["lr"] for g in layer_decayed_params(model, lr=1.0, layer_decay=1.0)}
    assert group == 1.0
    with pytest.raises(UserError):
        layer_decayed_params(torch.nn.Linear(2, 2), lr=1.0, layer_decay=0.7)


class Tied(torch.nn.Module):
    """Two layers with one weight, one statistic and one counter."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.norm = self.same_norm = torch.nn.BatchNorm1d(3)


def test_average_of_tied_weights_moves_once_a_step():
    model = Tied()
    ema = EMAHook(model, decay=0.75, warmup=1)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.full_like(value, 4))
    for value in ema.model.state_dict().values():
        value.zero_()
    ema.after_step()
    state = ema.state_dict()["model"]
    assert state.keys() == model.state_dict().keys()
    for name, value in state.items():
        expected = 4 if name.endswith("num_batches_tracked") else 1  # counters are copied
        assert torch.all(value == expected), name


@pytest.mark.parametrize("config", ["faster_rcnn_R_50_FPN", "fcos_R_50_FPN"])
def test_average_of_todays_models_is_as_it_was(config):
    """No weight of theirs is tied: each is averaged, and once."""
    model = instantiate(load_config(str(PROJECT_ROOT / f"configs/{config}.py")).model)
    ema = EMAHook(model, decay=0.5, warmup=1)
    before = {name: value.clone() for name, value in ema.model.state_dict().items()}
    with torch.no_grad():
        for value in model.state_dict().values():
            value += 1
    ema.after_step()
    for name, value in ema.model.state_dict().items():
        assert torch.allclose(value, before[name] + 0.5, atol=1e-6), name


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save"])
def test_frozen_statistics_stay_frozen_in_copies(copied, tmp_path):
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 4, 1))
    freeze(model, ["0"])
    if copied == "deepcopy":
        copy = deepcopy(model)
    elif copied == "pickle":
        copy = pickle.loads(pickle.dumps(model))
    else:
        torch.save(model, tmp_path / "model.pth")
        copy = torch.load(tmp_path / "model.pth", weights_only=False)
    assert copy.train()[0] is not model[0]
    assert copy[0].train() is copy[0] and not copy[0].training and copy[1].training
    before = copy[0].running_mean.clone()
    copy(torch.rand(2, 3, 4, 4))
    assert torch.equal(copy[0].running_mean, before)
    copy[0].running_mean.fill_(7)
    assert not torch.any(model[0].running_mean == 7)


def test_fcos_in_mixed_precision(on_toy):
    cfg = load_config(str(PROJECT_ROOT / "configs/fcos_R_50_FPN.py"), on_toy)
    model = instantiate(cfg.model)
    with EventStorage(), torch.autocast("cpu", torch.bfloat16):
        total = sum(model(next(iter(instantiate(cfg.dataloader.train)))).values())
    total.backward()
    assert total.isfinite()


@pytest.mark.parametrize("config", ["mask_rcnn_R_50_FPN", "faster_rcnn_R_50_FPN_augmented"])
def test_validation_losses_of_other_mappers(config, on_toy):
    """Masks come along, mosaic and colour jitter do not."""
    cfg = load_config(
        str(PROJECT_ROOT / f"configs/{config}.py"), [*on_toy, "train.val_loss.enabled=True"]
    )
    model = instantiate(cfg.model)
    losses = with_validation_losses(cfg, model, dict)()["val_loss"]
    assert ("loss_mask" in losses) == (config == "mask_rcnn_R_50_FPN")
    assert with_validation_losses(cfg, model, dict)()["val_loss"] == losses


def test_epochs_count_repeated_images(on_toy, tmp_path):
    """An epoch is longer where rare classes come more often; another loader cannot tell."""
    cfg = load_config(
        SMOKE,
        [
            *on_toy,
            "train.epochs=2",
            "dataloader.train.repeat_threshold=1.0",
            f"train.output_dir={tmp_path}",
        ],
    )
    loader = instantiate(cfg.dataloader.train)
    set_max_iter(cfg, loader)
    assert cfg.train.max_iter > 8
    with pytest.raises(UserError, match="build_train_loader"):
        set_max_iter(cfg, [])
