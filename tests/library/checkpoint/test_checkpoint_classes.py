"""Checkpoints know their classes: another order changes no detection, other names are refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import PROJECT_ROOT
from detection import classes
from detection.checkpoint.checkpointer import WholeFileCheckpointer
from detection.checkpoint.load import load_weights
from detection.config import load_config
from detection.inference.predictor import set_thresholds
from detection.utils.arguments import parse_args
from detection.utils.errors import UserError
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from train_net import do_train, main

SMOKE = str(PROJECT_ROOT / "configs/debug/smoke.py")
ORDER = ["can", "종이", "a/b", "glass", "bag"]
SORTED = sorted(ORDER)
NAMES_OF_HEADS = ("cls_score", "bbox_pred", "mask_head.predictor")
ARCHITECTURES = ["faster_rcnn", "cascade_rcnn", "mask_rcnn", "retinanet", "fcos"]


@pytest.fixture(autouse=True)
def project_classes():
    """Sets the project's class list, for as long as a test runs."""
    before = list(classes.CLASSES)

    def put(names: list[str]) -> None:
        classes.CLASSES[:] = names

    yield put
    put(before)


def build(architecture: str) -> torch.nn.Module:
    """A small model with heads of the project's classes, whose weights tell them apart."""
    torch.manual_seed(5)
    cfg = load_config(str(PROJECT_ROOT / f"configs/{architecture}_R_50_FPN.py"), [])
    cfg.model.backbone.bottom_up.stages.depth = 18
    del cfg.model.backbone.bottom_up.stages.stride_in_1x1
    if architecture == "retinanet":
        cfg.model.backbone.top_block.in_channels = 512
    model = instantiate(cfg.model).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(head in name for head in NAMES_OF_HEADS):
                parameter += (0.1 if parameter.ndim == 1 else 0.005) * torch.randn_like(parameter)
    set_thresholds(cfg, model, 0.0, 100)
    return model


def detections(model: torch.nn.Module) -> list[tuple]:
    """(class name, score, box, area of the mask) of a fixed image's detections."""
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(0, 255, (3, 96, 128), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        (output,) = model.eval()([{"image": image}])
    found = output["instances"]
    masks = found.pred_masks.sum((1, 2)) if found.has("pred_masks") else torch.zeros(len(found))
    numbers = torch.cat([found.scores[:, None], found.pred_boxes.tensor, masks[:, None]], dim=1)
    names = [classes.CLASSES[k] for k in found.pred_classes]
    return list(zip(names, numbers.tolist(), strict=True))


def save(model: torch.nn.Module, folder, name="model") -> str:
    WholeFileCheckpointer(model, str(folder)).save(name, iteration=3)
    return f"{folder}/{name}.pth"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_another_order_of_classes_finds_the_same(architecture, project_classes, tmp_path, lines):
    project_classes(ORDER)
    model = build(architecture)
    path = save(model, tmp_path)
    before = detections(model)
    assert len({name for name, _ in before}) > 1

    project_classes(SORTED)
    other = build(architecture)
    load_weights(other, str(tmp_path), path)
    after = detections(other)
    same = [
        any(name == other and np.allclose(row, found, 1e-3, 1e-3) for other, found in after)
        for name, row in before
    ]
    assert len(after) == len(before) and np.mean(same) > 0.95, "equal scores change places"
    assert sum("another order" in line for line in lines()) == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fine_tuning_takes_the_classes_that_both_have(
    architecture, project_classes, tmp_path, lines
):
    project_classes(ORDER)
    trained = build(architecture).state_dict()
    path = save(build(architecture), tmp_path)

    project_classes(["new", "종이", "can", "newer", "newest", "bag", "last"])
    torch.manual_seed(0)
    model = build(architecture)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    WholeFileCheckpointer(model, "").resume_or_load(path, resume=False)
    loaded = model.state_dict()
    of_classes = [name for name in own if trained[name].shape != own[name].shape]
    assert of_classes
    for name in own:
        if name not in of_classes:
            assert torch.equal(loaded[name], trained[name]), name
            continue
        now, was, old = (rows_by_class(name, state) for state in (loaded, own, trained))
        assert now.keys() == {*classes.CLASSES} | (now.keys() & {"background"})
        for key, rows in now.items():
            expected = old if key in old else was
            assert torch.equal(rows, expected[key]), (name, key)
    (line,) = [line for line in lines() if "taken from the checkpoint" in line]
    assert all(name in line for name in ["'종이'", "'newest'", "'glass'"])
    assert not any("number of classes" in line for line in lines())


def rows_by_class(name: str, state: dict) -> dict[str, torch.Tensor]:
    """The rows of a head's layer by class name, as detectron2's own heads read its outputs."""
    rows = state[name]
    names = ORDER if len(rows) in (5, 6, 20, 9 * 5) else list(classes.CLASSES)
    if "roi_heads" not in name:  # detectron2: (anchors × classes)
        return dict(zip(names, rows.view(-1, len(names), *rows.shape[1:]).unbind(1), strict=True))
    if "bbox_pred" in name:
        return dict(zip(names, rows.view(len(names), 4, *rows.shape[1:]), strict=True))
    return dict(zip([*names, "background"], rows, strict=False))


def test_fine_tuning_on_other_classes_starts_the_heads_fresh(project_classes, tmp_path, lines):
    project_classes(ORDER)
    path = save(smoke(), tmp_path)
    project_classes(["v", "w", "x", "y", "z"])  # as many: the shapes fit
    model = smoke()
    own = model.roi_heads.box_predictor.cls_score.weight.clone()
    WholeFileCheckpointer(model, "").resume_or_load(path, resume=False)
    assert torch.equal(model.roi_heads.box_predictor.cls_score.weight, own)
    assert any("'v'" in line and "'종이'" in line for line in lines())


def smoke(*overrides: str) -> torch.nn.Module:
    return instantiate(load_config(SMOKE, list(overrides)).model)


@pytest.mark.parametrize(
    "names", [[*ORDER[:4], "renamed"], ORDER[:4], [*ORDER, "one more"], [*ORDER[:4], "Bag"]]
)
def test_other_names_are_not_evaluated(names, project_classes, tmp_path):
    project_classes(ORDER)
    path = save(smoke(), tmp_path)
    project_classes(names)
    with pytest.raises(UserError) as error:
        load_weights(smoke(), str(tmp_path), path)
    message = str(error.value)
    assert all(repr(name) in message for name in [*ORDER, *names]) and "\n" not in message
    assert "detection/classes.py" in message


def test_long_lists_are_shown_from_where_they_differ(project_classes, tmp_path):
    names = [f"class {k}" for k in range(300)]
    project_classes(names)
    path = save(smoke(), tmp_path)
    project_classes([*names[:200], "x" * 10_000, *names[201:]])
    with pytest.raises(UserError) as error:
        load_weights(smoke(), str(tmp_path), path)
    message = str(error.value)
    assert "'class 200'" in message and "'xxx" in message and len(message) < 2000


@pytest.mark.parametrize("write", ["old", "malformed"])
def test_checkpoints_without_names_still_load(write, project_classes, tmp_path, lines):
    project_classes(ORDER)
    model = smoke()
    content = {"model": model.state_dict(), "iteration": 3}
    if write == "malformed":
        content["thing_classes"] = [1, None]
    torch.save(content, tmp_path / "model.pth")
    load_weights(other := smoke(), str(tmp_path), str(tmp_path / "model.pth"))
    loaded = other.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in content["model"].items())
    assert sum("do not record" in line for line in lines()) == 1


def test_every_checkpoint_of_a_training_has_the_names(trained, tmp_path):
    names = list(classes.CLASSES)
    files = sorted(path.name for path in trained.glob("*.pth"))
    assert files == [
        *("model_0000001.pth", "model_0000003.pth", "model_best.pth", "model_final.pth")
    ]
    for name in files:
        content = torch.load(trained / name, weights_only=True)
        assert content["thing_classes"] == names, name
    assert json.loads((trained / "model_best.json").read_text())["thing_classes"] == names
    for name in files:
        DetectionCheckpointer(smoke()).load(str(trained / name))  # upstream's still reads it


@pytest.fixture(scope="module")
def trained(tmp_path_factory, train_net):
    """A training of four iterations, with averaged weights."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_net(*SHORT, f"train.output_dir={folder}")
    return folder


SHORT = (
    "train.max_iter=4",
    "train.eval_period=2",
    "train.checkpointer.period=2",
    "train.ema.enabled=True",
    "writers.wandb=null",
    "train.pictures.count=0",
)


def test_evaluation_of_another_order_gives_the_same_results(
    trained, on_toy, project_classes, tmp_path, monkeypatch
):
    """The averaged weights are reordered too; a renamed class is refused."""
    names = list(classes.CLASSES)

    def evaluate(order: list[str]) -> list[dict]:
        project_classes(order)
        output = tmp_path / "evaluated"
        main(
            parse_args(
                [
                    *("--eval-only", "--config-file", SMOKE, *on_toy, *SHORT),
                    f"train.init_checkpoint={trained}/model_final.pth",
                    f"train.output_dir={output}",
                    "model.roi_heads.box_predictor.test_score_thresh=0.0",
                ]
            )
        )
        results = json.loads((output / "inference/coco_instances_results.json").read_text())
        return sorted(
            (r["image_id"], r["category_id"], *np.round(r["bbox"], 1), round(r["score"], 4))
            for r in results
        )

    before = evaluate(names)
    assert len({row[1] for row in before}) > 1
    after = evaluate(names[::-1])
    assert len(after) == len(before)
    same = len(set(after) & set(before))
    assert same > 0.95 * len(before), "up to the last digit"
    with pytest.raises(UserError, match="'renamed'"):
        evaluate([*names[:-1], "renamed"])


@pytest.mark.parametrize("change", ["order", "name"])
def test_other_classes_are_not_resumed(change, trained, toy, on_toy, project_classes, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    names = list(classes.CLASSES)
    project_classes(names[::-1] if change == "order" else [*names[:-1], "renamed"])
    for split in ("train", "val"):  # the data follow the class list
        coco = json.loads((toy / f"{split}.json").read_text())
        for category in coco["categories"]:
            if change == "name" and category["name"] == names[-1]:
                category["name"] = "renamed"
        (tmp_path / f"{split}.json").write_text(json.dumps(coco))
    overrides = [
        *(*on_toy, *SHORT, "train.max_iter=8", f"train.output_dir={folder}"),
        *(f"dataset.{split}.json_file={tmp_path}/{split}.json" for split in ("train", "val")),
    ]
    before = {path.name: path.read_bytes() for path in folder.glob("m*")}
    with pytest.raises(UserError) as error:
        do_train(parse_args(["--resume"]), load_config(SMOKE, overrides))
    message = str(error.value)
    assert "train.init_checkpoint" in message and "\n" not in message
    assert all(repr(name) in message for name in {*names, *classes.CLASSES})
    assert {path.name: path.read_bytes() for path in folder.glob("m*")} == before
