"""Overrides reach the config, in any script; those that name no key are refused."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT_ROOT
from detection.config import apply_overrides, load_config
from detection.utils.arguments import parse_args, parse_prediction_args
from detection.utils.cli import named_path
from detection.utils.errors import UserError
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import default_argument_parser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tools import show_config

SMOKE = "configs/debug/smoke.py"
LEAVES = sorted(
    str(path.relative_to(PROJECT_ROOT))
    for folder in ("configs", "configs/debug")
    for path in (PROJECT_ROOT / folder).glob("*.py")
)


def test_images_come_in_the_format_of_the_model():
    for config_file in LEAVES:
        cfg = load_config(str(PROJECT_ROOT / config_file))
        expected = cfg.model.get("input_format", "BGR")
        for split in ("train", "test"):
            assert cfg.dataloader[split].mapper.image_format == expected, config_file
    cfg = load_config("configs/faster_rcnn_R_50_FPN.py", ["model.input_format=RGB"])
    assert cfg.dataloader.train.mapper.image_format == "RGB"
    assert cfg.dataloader.test.mapper.image_format == "RGB"


def test_one_line_moves_all_images(tmp_path):
    shutil.copytree(PROJECT_ROOT / "configs", tmp_path / "configs")
    dataset = tmp_path / "configs/common/paths.py"
    text = dataset.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("IMAGE_ROOT = "))
    dataset.write_text(text.replace(line, 'IMAGE_ROOT = "/photos"'), encoding="utf-8")
    cfg = load_config(str(tmp_path / "configs/faster_rcnn_R_50_FPN.py"))
    assert {cfg.dataset[split].image_root for split in ("train", "val", "pseudo")} == {"/photos"}


def test_milestones_follow_max_iter():
    cfg = load_config(str(PROJECT_ROOT / "configs/retinanet_R_50_FPN.py"), ["train.max_iter=90"])
    cfg.lr_multiplier = LazyConfig.load(
        str(PROJECT_ROOT / "configs/common/schedule.py")
    ).lr_multiplier_step
    multiplier = instantiate(cfg.lr_multiplier)
    assert [round(multiplier(i / 90), 3) for i in (69, 70, 83, 84, 89)] == [1, 0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dataloader.train.mapper.augmentations.7.prob=1", "no such config key"),
        ("train.max_iter.x=3", "did you mean train.max_iter?"),
        ("train.max_iter=[3", "train.max_iter=[3"),
        ("train.max_iter", "key=value"),
    ],
)
def test_override_that_names_no_key_is_refused(override, said):
    with pytest.raises(UserError) as error:
        load_config(str(PROJECT_ROOT / "configs/faster_rcnn_R_50_FPN.py"), [override])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_overrides_reach_the_config():
    cfg = load_config(
        str(PROJECT_ROOT / "configs/faster_rcnn_R_50_FPN.py"),
        [
            "train.max_iter=7",
            "writers.tensorboard=null",
            "optimizer.nesterov=True",  # an argument of SGD that the config does not mention
            "~writers.json",
            "+train.note=mine",
            "dataloader.train.mapper.augmentations.0.short_edge_length=[64,96]",
        ],
    )
    assert cfg.train.max_iter == 7 and cfg.train.note == "mine"
    assert cfg.writers.tensorboard is None and "json" not in cfg.writers
    assert cfg.optimizer.nesterov is True
    assert list(cfg.dataloader.train.mapper.augmentations[0].short_edge_length) == [64, 96]
    apply_overrides(cfg, ["train.max_iter=8"])
    assert cfg.train.max_iter == 8


@pytest.mark.parametrize("folder", ["/데이터/사진 모음", "/Bilder/größe's", "C:/写真"])
def test_overrides_in_any_script(folder):
    overrides = [f"dataset.train.json_file={folder}/train.json", "train.max_iter=7"]
    cfg = load_config(str(PROJECT_ROOT / "configs/debug/smoke.py"), overrides)
    assert cfg.dataset.train.json_file == f"{folder}/train.json" and cfg.train.max_iter == 7


AWKWARD = "=,&#'\"()[]{} \\;~+*데é.$"


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab/1" + AWKWARD), max_size=12))
def test_any_path_is_a_value_of_a_key_that_takes_text(text):
    text = re.sub(r"\$[$\\{]*{", "", text)  # no interpolation, escaped or not
    path = f"/data/{text}/train.json"
    cfg = OmegaConf.create({"set": "a", "none": None, "number": 1, "list": [1]})
    apply_overrides(cfg, [f"set={path}", f"none={path}", f"+new={path}"])
    assert cfg.set == cfg.none == cfg.new == path
    for key in ("number", "list"):
        try:
            apply_overrides(cfg, [f"{key}={path}"])
        except UserError as e:
            # the line shows what to type in a shell
            (quoted,) = shlex.split(str(e).rpartition(" is written ")[2])
            apply_overrides(cfg, [quoted])
            assert cfg[key] == path


def test_values_keep_their_meaning_for_keys_that_take_text():
    cfg = OmegaConf.create({"set": "a", "other": "b"})
    for text, value in [
        ("null", None),
        ("7", 7),
        ("true", True),
        ("", ""),
        ("''", ""),
        ("'a, (b)'", "a, (b)"),
        ('"7"', "7"),
        ("[a,b]", ["a", "b"]),
        ("${other}", "b"),
        ("a,b", "a,b"),
        (" a ", " a "),
    ]:
        apply_overrides(cfg, [f"set={text}"])
        assert cfg.set == value, text
        cfg.set = "a"


PATHS = st.text(st.sampled_from("abc.=/ " + AWKWARD), min_size=1, max_size=10).map(
    lambda text: f"weights/{text}"
)
KEYS = st.from_regex(r"[a-z]{1,3}(\.[a-z0-9]{1,3}){0,2}", fullmatch=True)


@settings(max_examples=100, deadline=None)
@given(PATHS, PATHS, st.lists(st.tuples(KEYS, PATHS), max_size=3), st.randoms())
def test_values_of_options_are_no_overrides(checkpoint, images, overrides, random):
    overrides = [f"{key}={value}" for key, value in overrides]
    parts = [["--checkpoint", checkpoint], ["--config-file", "a=b.py"], [images]]
    parts += [[override] for override in overrides]
    order = random.sample(parts, len(parts))
    args = parse_prediction_args([text for part in order for text in part], "")
    given = [part[0] for part in order if part[0] in overrides]
    assert (args.checkpoint, args.config_file, args.images) == (checkpoint, "a=b.py", images)
    assert args.opts == given
    args = parse_args([text for part in order if "--config" in part[0] for text in part] + given)
    assert args.config_file == "a=b.py" and args.opts == given


def test_what_is_there_is_no_override(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("a=b.json").touch()
    Path("set=a").mkdir()
    Path("set=a/1.jpg").touch()
    for images in ("a=b.json", "set=a", "set=a/*.jpg"):
        args = parse_prediction_args(["a.b=1", images, "--config-file", "a.py", "c=2"], "")
        assert args.images == images and args.opts == ["a.b=1", "c=2"]
    assert named_path("a=b.json") == ("a=b.json", "a=b.json")
    assert named_path("a=c.json") == ("a", "c.json")
    for arguments in (["c=2"], ["a=b.json", "set=a"]):
        with pytest.raises(SystemExit):
            parse_prediction_args(arguments, "")


def test_config_file_of_the_current_folder_or_the_project(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/debug/smoke.py").train.output_dir == "output/smoke"
    mine = tmp_path / "configs/debug/smoke.py"
    mine.parent.mkdir(parents=True)
    mine.write_text("train = dict(output_dir='mine')\nmodel = None\n")
    assert load_config("configs/debug/smoke.py").train.output_dir == "mine"
    with pytest.raises(UserError) as error:
        load_config("configs/none.py")
    for folder in (tmp_path, PROJECT_ROOT):
        assert f"{folder}/configs/none.py" in str(error.value)


@pytest.mark.parametrize(
    ("config", "overrides", "lr", "parts"),
    [
        ("faster_rcnn_R_50_FPN", [], 0.01, ["0.02", "8/16"]),
        ("faster_rcnn_R_50_FPN", ["dataloader.train.total_batch_size=4"], 0.005, ["0.02", "4/16"]),
        ("retinanet_R_50_FPN", [], 0.005, ["0.01", "8/16"]),
        ("faster_rcnn_swin_tiny_FPN", [], 1e-4 * 0.5**0.5, ["0.0001", "(8/16)^0.5"]),
        ("faster_rcnn_R_50_FPN", ["optimizer.lr=0.03"], 0.03, []),
    ],
)
def test_learning_rate_is_explained(config, overrides, lr, parts):
    notes = []
    cfg = load_config(f"configs/{config}.py", overrides, notes)
    assert cfg.optimizer.lr == pytest.approx(lr)
    (note,) = notes
    assert f"{lr:g}" in note and all(part in note for part in parts)
    assert bool(parts) == ("×" in note)


def test_config_is_shown_as_training_has_it(capsys):
    show_config.main(["--config-file", SMOKE, "train.max_iter=7", "optimizer.lr=0.5"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["optimizer"]["lr"] == 0.5 and shown["writers"]["tqdm"]["max_iter"] == 7
    assert shown["dataloader"]["test"]["mapper"]["image_format"] == "BGR"


def test_options_are_those_of_detectron2():
    ours, theirs = vars(parse_args([])), vars(default_argument_parser().parse_args([]))
    assert ours.pop("started") > 0  # for train.hours
    assert ours == theirs | {"fast_dev_run": False, "dist_url": "auto"}


def test_flags_may_come_after_overrides():
    args = parse_args(["train.max_iter=3", "--config-file", "a.py", "--resume", "~writers.json"])
    assert args.config_file == "a.py" and args.resume
    assert args.opts == ["train.max_iter=3", "~writers.json"]
