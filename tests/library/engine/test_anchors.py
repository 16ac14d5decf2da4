"""configs/common/anchors.py: written by explore, taken by every model with anchors."""

import json
import shutil
from pathlib import Path

import explore_dataset
import numpy as np
import pytest
import torch
from conftest import PROJECT_ROOT
from detection.checkpoint.files import SafeCheckpointer
from detection.config import load_config
from detection.utils.errors import UserError
from detection.workshop.analysis.anchors import find_anchors, shapes_of
from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from omegaconf import OmegaConf

SMOKE = "debug/smoke"
LEAVES = sorted(path.stem for path in (PROJECT_ROOT / "configs").glob("*.py"))
WITH_ANCHORS = [name for name in LEAVES if name.split("_")[0] in ("faster", "cascade", "mask")]
WITH_ANCHORS += [name for name in LEAVES if name.startswith("retinanet")]
WITHOUT = sorted(set(LEAVES) - set(WITH_ANCHORS))


@pytest.fixture
def configs(tmp_path) -> Path:
    shutil.copytree(PROJECT_ROOT / "configs", tmp_path / "configs")
    return tmp_path / "configs"


def write(configs: Path, text: str) -> None:
    (configs / "common/anchors.py").write_text(f"anchors = dict({text})\n", encoding="utf-8")


def load(configs: Path, name: str):
    return load_config(str(configs / f"{name}.py"))


def head_of(cfg):
    return (cfg.model.get("proposal_generator") or cfg.model).head


def explore(configs: Path, tmp_path: Path, name: str, *options: str) -> int:
    """On 40 images with boxes of 10 to 30 by 50 to 150 pixels."""
    rng = np.random.default_rng(0)
    widths = rng.uniform(10, 30, 200)
    coco = {
        "categories": [{"id": 0, "name": "a"}],
        "images": [
            {"id": k, "file_name": f"{k}.jpg", "width": 512, "height": 512} for k in range(40)
        ],
        "annotations": [
            {"id": k, "image_id": k % 40, "category_id": 0, "bbox": [5.0, 5.0, w, 5 * w]}
            for k, w in enumerate(widths.tolist())
        ],
    }
    (tmp_path / "train.json").write_text(json.dumps(coco), encoding="utf-8")
    arguments = [str(tmp_path / "train.json"), "--config-file", str(configs / f"{name}.py")]
    arguments += ["--count", "0", "--sample", "0", "--output", str(tmp_path / "page.html")]
    return explore_dataset.main([*arguments, *options])


@pytest.mark.parametrize("name", WITH_ANCHORS)
def test_without_it_anchors_are_those_of_detectron2(name):
    of = "retinanet" if name.startswith("retinanet") else "mask_rcnn_fpn"
    theirs = model_zoo.get_config(f"common/models/{of}.py").model
    theirs = theirs if of == "retinanet" else theirs.proposal_generator
    cfg = load_config(f"configs/{name}.py")
    ours = OmegaConf.select(cfg, find_anchors(cfg).node)
    assert ours == theirs.anchor_generator
    assert head_of(cfg).num_anchors == theirs.head.num_anchors


@pytest.mark.parametrize("name", ["faster_rcnn_R_50_FPN", "retinanet_R_50_FPN"])
def test_what_explore_writes_is_what_every_model_has(configs, tmp_path, name, capsys):
    before = (configs / "common/anchors.py").read_text(encoding="utf-8")
    assert explore(configs, tmp_path, name) == 0
    assert (configs / "common/anchors.py").read_text(encoding="utf-8") == before
    assert explore(configs, tmp_path, name, "--write-anchors") == 0
    values = {}
    text = (configs / "common/anchors.py").read_text(encoding="utf-8")
    exec(text, values)
    sizes, ratios = values["anchors"]["sizes"], values["anchors"]["aspect_ratios"]
    assert len(sizes) == 5 and len(ratios) == 3 and min(ratios) > 2
    assert all(f"{found}" in capsys.readouterr().out for found in [sizes])
    for leaf in WITH_ANCHORS:
        cfg = load(configs, leaf)
        found = find_anchors(cfg)
        steps = [0, 1 / 3, 2 / 3] if leaf.startswith("retinanet") else [0]
        wanted = shapes_of([[size * 2**step for step in steps] for size in sizes], ratios)
        assert np.sort(found.shapes, axis=0) == pytest.approx(np.sort(wanted, axis=0), rel=1e-3)
        assert head_of(cfg).num_anchors == 3 * len(steps)
    # a second time there is nothing better
    assert explore(configs, tmp_path, name, "--write-anchors") == 0
    assert (configs / "common/anchors.py").read_text(encoding="utf-8") == text
    assert not list(configs.glob("common/*.partial"))


def test_levels_and_heads_follow(configs):
    write(configs, "sizes=[10, 25, 60], aspect_ratios=[0.5, 3]")
    for name in WITH_ANCHORS:
        cfg = load(configs, name)
        generator = instantiate(OmegaConf.select(cfg, find_anchors(cfg).node))
        per_level = 3 if name.startswith("retinanet") else 1
        assert generator.num_anchors == [2 * per_level] * 5
        assert head_of(cfg).num_anchors == 2 * per_level
        assert find_anchors(cfg).bases == pytest.approx([10, 25, 60, 120, 240])
    smoke = load(configs, SMOKE)  # for the toy data, whatever the competition's
    assert find_anchors(smoke).bases == [16, 32, 64] and head_of(smoke).num_anchors == 3


@pytest.mark.parametrize("name", WITHOUT)
def test_models_without_anchors_refuse_to_fit_them_and_ignore_them(configs, tmp_path, name, capsys):
    before = (configs / "common/anchors.py").read_text(encoding="utf-8")
    assert explore(configs, tmp_path, name, "--write-anchors") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name}.py" in line
    assert (configs / "common/anchors.py").read_text(encoding="utf-8") == before
    write(configs, "sizes=[1], aspect_ratios=[1]")
    load(configs, name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sizes=[], aspect_ratios=None", "sizes=[]"),
        ("sizes=[8, -16], aspect_ratios=None", "-16"),
        ("sizes=[[8], [16]], aspect_ratios=None", "[[8], [16]]"),
        ("sizes='8', aspect_ratios=None", "sizes=8"),
        ("sizes=None, aspect_ratios=[float('nan')]", "nan"),
        ("sizes=None, aspect_ratios=2", "aspect_ratios=2"),
        ("sizes=None, ratios=[1]", "ratios=[1]"),
        ("sizes=[8, aspect_ratios=None", "line 1"),
    ],
)
@pytest.mark.parametrize("name", ["faster_rcnn_R_50_FPN", "retinanet_R_50_FPN"])
def test_a_bad_one_is_one_line(configs, name, text, said):
    write(configs, text)
    with pytest.raises(UserError) as error:
        load(configs, name)
    assert "anchors.py" in str(error.value) and said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["faster_rcnn_R_50_FPN", "retinanet_R_50_FPN"])
def test_weights_of_another_number_of_ratios_start_fresh_in_one_line(
    configs, tmp_path, name, caplog
):
    def build():
        cfg = load(configs, name)
        cfg.model.backbone.bottom_up.stages.depth = 18
        del cfg.model.backbone.bottom_up.stages.stride_in_1x1
        if name.startswith("retinanet"):
            cfg.model.backbone.top_block.in_channels = 512
        else:
            cfg.model.roi_heads.box_head.fc_dims = [8]
            cfg.model.roi_heads.box_predictor.input_shape = ShapeSpec(channels=8)
        return instantiate(cfg.model)

    torch.save({"model": build().state_dict()}, tmp_path / "three.pth")
    write(configs, "sizes=None, aspect_ratios=[1]")
    caplog.set_level("INFO", "detection")
    SafeCheckpointer(build()).load(str(tmp_path / "three.pth"))
    (line,) = [line for line in caplog.messages if line.startswith("start fresh")]
    heads = ("cls_score", "bbox_pred") if "retinanet" in name else ("rpn_head", "proposal_gen")
    assert "anchors.py" in line and any(head in line for head in heads)
