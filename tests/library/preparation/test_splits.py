"""`make split` and `dataset.fold`: nothing is in two folds, nothing is lost, classes are even."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import split_dataset as tool
from conftest import PROJECT_ROOT, read_metrics
from detection.config import load_config
from detection.utils.errors import UserError
from detection.workshop.preparation.splits import assign_folds, hold_out, merge_groups
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = ["can", "종이", 'a/"b" {c} 🗑']


def make_coco(num_images=60, seed=0) -> dict:
    """Images of three classes, the last of them rare, a sixth of the images without boxes."""
    rng = np.random.default_rng(seed)
    images = [
        {"id": 7 * i, "file_name": f"종이/{i}.jpg", "width": 64, "height": 64, "video_id": i // 4}
        for i in range(num_images)
    ]
    annotations = []
    for image in images[num_images // 6 :]:
        for category in rng.choice(3, rng.integers(1, 6), p=[0.6, 0.3, 0.1]):
            annotations.append(
                {
                    "id": 3 * len(annotations),
                    "image_id": image["id"],
                    "category_id": int(category) * 10,
                    "bbox": [1.5, 2, 10.25, 20],
                    "area": 205,
                    "iscrowd": 0,
                    "note": "쓰레기",
                }
            )
    categories = [{"id": 10 * k, "name": name} for k, name in enumerate(NAMES)]
    return {
        "info": {"year": 2021},
        "licenses": [{"id": 1}],
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }


@pytest.fixture
def json_file(tmp_path) -> Path:
    return write(tmp_path / "train.json", make_coco())


def write(path: Path, coco: dict) -> Path:
    path.write_text(json.dumps(coco, ensure_ascii=False), encoding="utf-8")
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def refusal(capsys, *args) -> str:
    """The one line with which the tool refuses."""
    status = tool.main([str(arg) for arg in args])
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1, error
    return error


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_partition(coco: dict, folds: list[Path], key: str = "id") -> None:
    """Each image and annotation is, unchanged, in one val and all other trains; no group in two."""
    seen = []
    for folder in folds:
        train, val = read(folder / "train.json"), read(folder / "val.json")
        for section in ("images", "annotations"):
            in_both = train[section] + val[section]
            assert sorted(r["id"] for r in in_both) == sorted(r["id"] for r in coco[section])
            assert all(record in coco[section] for record in in_both)
        for part in (train, val):
            assert part.keys() == coco.keys()
            assert all(part[k] == coco[k] for k in ("info", "licenses", "categories"))
            ids = {image["id"] for image in part["images"]}
            assert all(a["image_id"] in ids for a in part["annotations"])
        assert not {i[key] for i in train["images"]} & {i[key] for i in val["images"]}
        seen += [image["id"] for image in val["images"]]
    if len(folds) > 1:
        assert sorted(seen) == sorted(image["id"] for image in coco["images"])


def test_folds_are_a_partition(json_file):
    tool.main([str(json_file), "--folds", "4"])
    folders = sorted((json_file.parent / "folds").iterdir())
    assert [f.name for f in folders] == ["0", "1", "2", "3"]
    assert_partition(make_coco(), folders)
    assert "종이" in (folders[0] / "val.json").read_text(encoding="utf-8")


def test_table_has_the_boxes_of_the_files(json_file, capsys):
    tool.main([str(json_file), "--folds", "3"])
    lines = capsys.readouterr().out.splitlines()
    for k, name in enumerate(NAMES):
        counts = [
            sum(
                a["category_id"] == 10 * k
                for a in read(json_file.parent / f"folds/{fold}/val.json")["annotations"]
            )
            for fold in range(3)
        ]
        (line,) = [line for line in lines if line.startswith(name)]
        numbers = list(map(int, line.removeprefix(name).split()))
        assert numbers[:4] == [sum(counts), *counts]
        assert sum(numbers[4:]) == sum(counts), "the random split has them too"
        assert max(counts) - min(counts) <= 1
    (line,) = [line for line in lines if line.startswith("images without boxes")]
    assert sorted(line.split()[3:7]) == ["10", "3", "3", "4"]


def test_groups_stay_together(json_file, capsys):
    tool.main([str(json_file), "--folds", "4", "--group-by", "video_id"])
    folders = sorted((json_file.parent / "folds").iterdir())
    assert_partition(make_coco(), folders, key="video_id")
    assert "15 groups of 2 to 4 images, 0 images alone" in capsys.readouterr().out


def test_groups_by_part_of_the_file_name(tmp_path, capsys):
    coco = make_coco()
    for image in coco["images"]:
        image["file_name"] = f"비디오{image['video_id']}_{image['id']}.jpg"
    json_file = write(tmp_path / "train.json", coco)
    tool.main([str(json_file), "--folds", "4", "--group-by", r"file_name=(.*)_\d+\.jpg"])
    assert_partition(coco, sorted((tmp_path / "folds").iterdir()), key="video_id")
    assert "no group is torn; a random split tears" in capsys.readouterr().out


def test_group_larger_than_a_fold_is_reported(tmp_path, capsys):
    coco = make_coco()
    for image in coco["images"][:30]:
        image["video_id"] = 0
    tool.main([str(write(tmp_path / "train.json", coco)), "--group-by", "video_id"])
    assert_partition(coco, sorted((tmp_path / "folds").iterdir()), key="video_id")
    assert "warning: it is larger than 20% of the images" in capsys.readouterr().out


def test_same_file_under_two_ids_stays_together(tmp_path):
    coco = make_coco()
    for k, image in enumerate(coco["images"]):
        image["file_name"] = f"{k // 2}.jpg"
    tool.main([str(write(tmp_path / "train.json", coco)), "--folds", "3"])
    assert_partition(coco, sorted((tmp_path / "folds").iterdir()), key="file_name")


@pytest.mark.parametrize("fraction", [0.2, 0.15, 0.5, 0.01])
def test_hold_out(json_file, fraction):
    tool.main([str(json_file), "--val-fraction", str(fraction)])
    folder = json_file.parent / "folds" / "holdout"
    assert_partition(make_coco(), [folder])
    num_val = len(read(folder / "val.json")["images"])
    assert abs(num_val - max(1, 60 * fraction)) <= 1


def test_hold_out_beside_the_input(tmp_path, capsys):
    json_file = write(tmp_path / "all.json", make_coco())
    tool.main([str(json_file), "--val-fraction", "0.2", "--output", str(tmp_path)])
    assert_partition(make_coco(), [tmp_path])
    before = files_of(tmp_path)
    error = refusal(capsys, tmp_path / "train.json", "--val-fraction", "0.2", "--output", tmp_path)
    assert "would be overwritten" in error
    assert "would be" in refusal(
        capsys, tmp_path / "train.json", "--val-fraction=.2", f"--output={tmp_path}", "--force"
    )
    assert files_of(tmp_path) == before


def test_another_split_is_not_overwritten(json_file, capsys):
    folds = json_file.parent / "folds"
    tool.main([str(json_file)])
    before = files_of(folds)
    tool.main([str(json_file)])
    assert "unchanged" in capsys.readouterr().out
    for args in (["--seed", "1"], ["--folds", "3"]):
        assert "holds something else; --force" in refusal(capsys, json_file, *args)
        assert files_of(folds) == before
    tool.main([str(json_file), "--folds", "3", "--force"])
    assert_partition(make_coco(), sorted(folds.iterdir()))  # nothing of the other five is left
    assert {path.name for path in folds.iterdir()} == {"0", "1", "2"}


def test_seed_decides(json_file, tmp_path):
    made = []
    for k, seed in enumerate(("1", "1", "2")):
        tool.main([str(json_file), "--seed", seed, "--output", str(tmp_path / str(k))])
        made.append(files_of(tmp_path / str(k)))
    assert made[0] == made[1] != made[2]


def remove_video(coco):
    del coco["images"][5]["video_id"]


def repeat_image(coco):
    coco["images"].append(coco["images"][3])


@pytest.mark.parametrize(
    ("change", "args", "says"),
    [
        (None, ["--folds", "61"], "60 groups in 60 images are too few for 61 folds"),
        (
            None,
            ["--folds", "16", "--group-by", "video_id"],
            "15 groups in 60 images are too few for 16",
        ),
        (None, ["--folds", "1"], "--folds must be at least 2, not 1"),
        (None, ["--val-fraction", "1"], "--val-fraction must be between 0 and 1"),
        (None, ["--seed", "-1"], "--seed must be"),
        (None, ["--group-by", "clip"], '60 of 60 images have no "clip", such as 종이/0.jpg; '),
        (None, ["--group-by", "file_name=_("], "_(: is not a regular expression"),
        (None, ["--group-by", "file_name=_"], "file_name '종이/0.jpg' has nothing like _"),
        (remove_video, ["--group-by", "video_id"], "1 of 60 images have no"),
        (repeat_image, [], "images[60].id: 21 "),
        (lambda c: c.update(annotations=[]), [], "has no annotations"),
        (lambda c: c["images"][2].pop("id"), [], "images[2].id: "),
        (lambda c: c["annotations"][2].update(image_id=1), [], "annotations[2].image_id: 1 "),
        (lambda c: c["annotations"][2].update(category_id=1), [], "annotations[2].category_id: 1 "),
        (lambda c: c["annotations"].insert(0, None), [], "annotations[0].image_id: "),
        (None, ["--near-duplicates"], "종이/0.jpg: cannot be read as an image (No such file"),
    ],
)
def test_what_cannot_be_split_is_one_line(tmp_path, capsys, change, args, says):
    coco = make_coco()
    if change:
        change(coco)
    json_file = write(tmp_path / "train.json", coco)
    assert says in refusal(capsys, json_file, "--image-root", tmp_path, *args)
    assert [path.name for path in tmp_path.iterdir()] == ["train.json"]


def test_class_with_fewer_boxes_than_folds_is_reported(tmp_path, capsys):
    coco = make_coco()
    rare = [a for a in coco["annotations"] if a["category_id"] == 20]
    coco["annotations"] = [a for a in coco["annotations"] if a not in rare[2:]]
    tool.main([str(write(tmp_path / "train.json", coco)), "--folds", "3"])
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "no box in" in line]
    assert line.startswith(NAMES[2])


def test_near_duplicates_stay_together(tmp_path):
    """Fifteen scenes, each photographed four times: sharp, small, dark and saved badly."""
    rng = np.random.default_rng(0)
    coco = make_coco()
    (tmp_path / "종이").mkdir()
    for i in range(0, 60, 4):
        scene = cv2.resize(rng.integers(0, 256, (9, 9, 3), np.uint8), (256, 256))
        for k, (image, quality) in enumerate(
            [(scene, 95), (cv2.resize(scene, (100, 100)), 95), (scene // 2, 95), (scene, 20)]
        ):
            jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            jpeg.tofile(tmp_path / f"종이/{i + k}.jpg")
    json_file = write(tmp_path / "train.json", coco)
    tool.main([str(json_file), "--folds=3", "--near-duplicates", f"--image-root={tmp_path}"])
    assert_partition(coco, sorted((tmp_path / "folds").iterdir()), key="video_id")
    for folder in (tmp_path / "folds").iterdir():
        assert len(read(folder / "val.json")["images"]) == 20  # the scenes are not one group


def test_images_of_equal_pixels_stay_together(tmp_path, capsys):
    """Fifteen scenes: as PNG, packed otherwise, as BMP, and as a copy of the file."""
    rng = np.random.default_rng(0)
    coco = make_coco()
    (tmp_path / "종이").mkdir()
    for i in range(0, 60, 4):
        scene = rng.integers(0, 256, (40, 40, 3), np.uint8)
        level = cv2.IMWRITE_PNG_COMPRESSION
        files = [(".png", level, 1), (".png", level, 9), (".bmp",), (".jpg",)]
        for k, (suffix, *options) in enumerate(files):
            cv2.imencode(suffix, scene, options)[1].tofile(tmp_path / f"종이/{i + k}.jpg")
        if i % 8:  # a JPEG is another image; here are two of one
            shutil.copy(tmp_path / f"종이/{i + 3}.jpg", tmp_path / f"종이/{i + 2}.jpg")
    for image in coco["images"]:
        number = image["id"] // 7
        image["file_name"] = f"종이/{number}.jpg"
        is_jpeg = number % 4 == 3 or (number % 4 == 2 and number // 4 % 2)
        image["scene"] = number // 4 * 2 + bool(is_jpeg)
    json_file = write(tmp_path / "train.json", coco)
    tool.main([str(json_file), "--folds=3", f"--image-root={tmp_path}"])
    assert_partition(coco, sorted((tmp_path / "folds").iterdir()), key="scene")
    out = capsys.readouterr().out
    assert "22 groups of 2 to 3 images, 8 images alone" in out and "warning" not in out


def test_images_that_are_not_there_are_reported(json_file, tmp_path, capsys):
    for number in range(20):
        path = tmp_path / f"종이/{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        cv2.imencode(".jpg", np.full((8, 8, 3), number * 10, np.uint8))[1].tofile(path)
    tool.main([str(json_file), f"--image-root={tmp_path}"])
    assert f"40 of 60 cannot be read, such as {tmp_path}/종이/20.jpg" in capsys.readouterr().out
    assert_partition(make_coco(), sorted((tmp_path / "folds").iterdir()))


def test_images_are_where_the_config_has_those_of_train(json_file, tmp_path, capsys):
    config = tmp_path / "mine.py"
    text = f"dataset = dict(train=dict(image_root={str(tmp_path)!r}), val=dict(image_root='/val'))"
    config.write_text(text, encoding="utf-8")
    tool.main([str(json_file), "--config-file", str(config)])
    assert f"comparing 60 images in {tmp_path}\n" in capsys.readouterr().out


datasets = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=n, max_size=n),
        st.lists(st.integers(0, n), min_size=n, max_size=n),
        st.integers(2, 6),
        st.integers(0, 2**32 - 1),
    )
)


@settings(max_examples=60, deadline=None)
@given(datasets)
def test_any_data_is_split_whole(drawn):
    counts, labels, num_folds, seed = map(np.array, drawn)
    groups = merge_groups(labels)
    assert len(set(zip(groups, labels, strict=True))) == len(set(groups)) == len(set(labels))
    if len(set(groups)) < num_folds:
        with pytest.raises(UserError, match="too few for"):
            assign_folds(counts, groups, int(num_folds), int(seed))
        return
    folds = assign_folds(counts, groups, int(num_folds), int(seed))
    assert set(folds) == set(range(num_folds))
    assert all(len(set(folds[groups == g])) == 1 for g in groups)
    assert (folds == assign_folds(counts, groups, int(num_folds), int(seed))).all()


@settings(max_examples=30, deadline=None)
@given(datasets, st.floats(0.001, 0.999))
def test_any_data_is_held_out_by_groups(drawn, fraction):
    counts, labels, _, seed = map(np.array, drawn)
    groups = merge_groups(labels)
    if len(set(groups)) < 2:
        with pytest.raises(UserError, match="too few for"):
            hold_out(counts, groups, fraction, int(seed))
        return
    is_val = hold_out(counts, groups, fraction, int(seed))
    assert set(is_val) == {0, 1}
    assert all(len(set(is_val[groups == g])) == 1 for g in groups)
    assert (is_val == hold_out(counts, groups, fraction, int(seed))).all()


def test_large_groups_are_evened_out():
    """Forty videos of very different length, each with a class mix of its own."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), rng.integers(1, 30, 40))
    mixes = rng.dirichlet([4, 2, 1, 0.3], 40)
    counts = np.stack([rng.multinomial(rng.integers(0, 9), mixes[group]) for group in groups])
    worst = []
    for folds in (assign_folds(counts, groups, 4, 0), groups % 4):
        shares = np.stack([counts[folds == fold].sum(0) for fold in range(4)]) / counts.sum(0)
        worst.append(np.abs(shares - 1 / 4).max())
    assert worst[0] < 0.05 < 0.15 < worst[1], worst


def test_labels_join_through_one_another():
    first, second = np.array([0, 0, 1, 2, 3]), np.array([0, 1, 1, 2, 3])
    assert merge_groups(first, second).tolist() == [0, 0, 0, 1, 2]


# -- dataset.fold ----------------------------------------------------------------------------------

LEAF = str(PROJECT_ROOT / "configs/faster_rcnn_R_50_FPN.py")


@pytest.fixture(scope="module")
def toy_folds(toy, tmp_path_factory) -> Path:
    """Folds of the toy data, two of them and a hold-out."""
    folds = tmp_path_factory.mktemp("folds")
    for args in (["--folds", "2"], ["--val-fraction", "0.25", "--output", f"{folds}/holdout"]):
        tool.main([f"{toy}/train.json", "--output", str(folds), *args])
    return folds


@pytest.mark.parametrize(("fold", "ends"), [("1", "_fold1"), ("holdout", "_holdout")])
def test_a_fold_brings_its_files_and_output_directory(toy_folds, fold, ends):
    cfg = load_config(LEAF, [f"dataset.folds={toy_folds}", f"dataset.fold={fold}"])
    assert cfg.dataset.train.json_file == f"{toy_folds}/{fold}/train.json"
    assert cfg.dataset.val.json_file == f"{toy_folds}/{fold}/val.json"
    assert cfg.dataset.train.image_root == load_config(LEAF).dataset.train.image_root
    overrides = ["dataset.train.image_root=/a", "dataset.val.image_root=/b"]
    for own, root in (overrides[:1], "/a"), (overrides, "/b"):  # val is a part of train
        cfg = load_config(LEAF, [f"dataset.folds={toy_folds}", f"dataset.fold={fold}", *own])
        assert cfg.dataloader.test.dataset.names.image_root == root
    assert cfg.train.output_dir == f"output/faster_rcnn_R_50_FPN{ends}"
    assert cfg.dataloader.evaluator.output_dir == f"{cfg.train.output_dir}/inference"
    assert cfg.dataloader.test.dataset.names.json_file == cfg.dataset.val.json_file


def test_overrides_win_over_the_fold(toy_folds):
    fold = [f"dataset.folds={toy_folds}", "dataset.fold=0"]
    cfg = load_config(LEAF, [*fold, "train.output_dir=mine", "dataset.val.json_file=test.json"])
    assert cfg.train.output_dir == "mine"
    assert cfg.dataset.val.json_file == "test.json"
    assert cfg.dataset.train.json_file == f"{toy_folds}/0/train.json"
    with pytest.raises(UserError, match=r"dataset\.fold chooses"):
        load_config(LEAF, [*fold, "dataset.train.json_file=all.json"])


@pytest.mark.parametrize("args", [["--folds", "2"], ["--val-fraction", "0.5"]])
def test_what_the_tool_says_to_train_with_does(toy, tmp_path, capsys, args):
    folder = tmp_path / "my 데이터"
    folder.mkdir()
    shutil.copy(toy / "train.json", folder)
    tool.main([str(folder / "train.json"), *args])
    said = capsys.readouterr().out.splitlines()[-1].partition(" with ")[2]
    cfg = load_config(LEAF, shlex.split(said))
    assert read(Path(cfg.dataset.val.json_file))["images"]


def test_missing_fold_is_one_line(toy_folds, tmp_path):
    with pytest.raises(UserError, match=r"fold=7: .*make split.*0, 1, holdout\)$"):
        load_config(LEAF, [f"dataset.folds={toy_folds}", "dataset.fold=7"])
    with pytest.raises(UserError, match=r"none\)$"):
        load_config(LEAF, [f"dataset.folds={tmp_path}", "dataset.fold=0"])


@pytest.mark.slow
def test_training_on_a_fold(toy, toy_folds, on_toy, tmp_path):
    """Trained and evaluated with dataset.fold=1, in an output folder of its own."""
    # the config with another output_dir, which an override would keep from being the fold's
    config = tmp_path / "configs" / "debug" / "smoke.py"
    on_fold = [o for o in on_toy if not o.startswith(("dataset.train.json", "dataset.val.json"))]
    smoke = (PROJECT_ROOT / "configs/debug/smoke.py").read_text(encoding="utf-8")
    config.parent.mkdir(parents=True)
    for folder in ("configs/common", "configs/models"):
        shutil.copytree(PROJECT_ROOT / folder, tmp_path / folder)
    config.write_text(smoke.replace("output/smoke", f"{tmp_path}/smoke"), encoding="utf-8")

    def train_net(*args):
        command = [sys.executable, "train_net.py", "--config-file", str(config), *on_fold]
        command += [f"dataset.folds={toy_folds}", "dataset.fold=1", "writers.wandb=null", *args]
        return subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)

    process = train_net("train.max_iter=2")
    assert process.returncode == 0, process.stdout + process.stderr
    output = tmp_path / "smoke_fold1"
    assert not (tmp_path / "smoke").exists()
    assert "bbox/AP" in read_metrics(output)[-1]
    saved = (output / "config.yaml").read_text(encoding="utf-8")
    assert "fold: 1" in saved and f"{toy_folds}/1/val.json" in saved
    val = {image["id"] for image in read(toy_folds / "1" / "val.json")["images"]}
    results = output / "inference" / "coco_instances_results.json"
    assert {r["image_id"] for r in read(results)} <= val

    results.unlink()
    process = train_net("--eval-only", "--resume")
    assert process.returncode == 0, process.stdout + process.stderr
    assert {r["image_id"] for r in read(results)} <= val
