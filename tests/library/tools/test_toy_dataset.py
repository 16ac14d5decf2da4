"""tools/make_toy_dataset.py: the same files each time, and boxes that fit what is drawn."""

import json
import subprocess
import sys

import cv2
import make_toy_dataset as tool
import numpy as np
import pytest
from detection.data import toy

SIZE = 96


def make(folder, seed=0, num_train=8):
    toy.make_toy_dataset(folder, num_train=num_train, num_val=3, size=SIZE, seed=seed)
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes(tmp_path):
    first = make(tmp_path / "a")
    assert make(tmp_path / "b") == first
    make(tmp_path / "c", num_train=12)
    assert make(tmp_path / "c") == first  # nothing of the larger set is left
    other = make(tmp_path / "d", seed=1)
    assert other.keys() == first.keys()
    assert not any(other[name] == first[name] for name in first)


@pytest.mark.parametrize("count", [1, 10, 100])
def test_annotations_are_valid(tmp_path, monkeypatch, count):
    monkeypatch.setattr(toy, "CLASSES", tuple(f'종이/"{i}"' for i in range(count)))
    make(tmp_path)
    for split, num_images in (("train", 8), ("val", 3)):
        coco = json.loads((tmp_path / f"{split}.json").read_text(encoding="utf-8"))
        assert [c["id"] for c in coco["categories"]] == list(range(1, count + 1))
        assert [c["name"] for c in coco["categories"]] == list(toy.CLASSES)
        assert [i["id"] for i in coco["images"]] == list(range(1, num_images + 1))
        annotations = coco["annotations"]
        assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))
        counts = np.bincount([a["category_id"] for a in annotations], minlength=count + 1)[1:]
        assert counts.max() - counts.min() <= 1  # dealt evenly: none is missing if there is room
        for image in coco["images"]:
            pixels = cv2.imread(str(tmp_path / "images" / image["file_name"]))
            assert pixels.shape == (image["height"], image["width"], 3)
        for a in annotations:
            x, y, w, h = a["bbox"]
            assert 0 <= x and 0 <= y and w > 0 and h > 0 and x + w <= SIZE and y + h <= SIZE
            assert 0 < a["area"] <= w * h
            assert a["segmentation"] and all(len(p) >= 6 for p in a["segmentation"])
            assert a["iscrowd"] == 0


def test_boxes_fit_what_is_drawn():
    """Drawn with and without its objects, an image differs inside the boxes, up to each edge."""
    labels = toy.class_sequence(np.random.default_rng(0), num_classes=10)
    for seed in range(10):
        image, instances, drawn = toy.draw_scene(np.random.default_rng(seed), SIZE, labels)
        background = toy.draw_background(np.random.default_rng(seed), SIZE)
        changed = np.abs(image - background).max(axis=2) > 12  # more than the noise of the image
        outside = changed.copy()
        for number in range(1, len(drawn) + 1):
            a = toy.visible_annotation(instances == number)
            x, y, w, h = a["bbox"]
            own = (instances == number)[y : y + h, x : x + w]
            assert own.sum() == (instances == number).sum() == a["area"]
            assert all(edge.any() for edge in (own[0], own[-1], own[:, 0], own[:, -1]))
            assert changed[y : y + h, x : x + w][own].mean() > 0.8
            outline = np.concatenate([np.reshape(p, (-1, 2)) for p in a["segmentation"]])
            assert np.allclose(outline.min(0), [x, y], atol=0.5)
            assert np.allclose(outline.max(0), [x + w, y + h], atol=0.5)
            outside[max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1] = False
        assert not outside.any()  # objects end within a pixel of their boxes


def test_classes_look_different():
    looks = [toy.class_look(i) for i in range(len(toy.SHAPES) * len(toy.TEXTURES))]
    assert len(set(looks)) == len(looks)
    assert len({shape for shape, _ in looks[:10]}) == len({t for _, t in looks[:10]}) == 10


def test_other_data_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "train.json").write_text('{"info": {"description": "the real data"}}')
    assert tool.main(["--output", str(tmp_path), "--train", "1", "--val", "1"]) == 2
    error = capsys.readouterr().err
    assert "train.json" in error and "--output" in error and error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["train.json"]


def test_bad_arguments(tmp_path, capsys):
    output = ["--output", str(tmp_path / "toy")]
    for arguments in (["--train", "0"], ["--seed", "-1"]):
        with pytest.raises(SystemExit) as exit_info:
            tool.main([*output, *arguments])
        assert exit_info.value.code == 2 and arguments[0] in capsys.readouterr().err
    assert tool.main([*output, "--size", "10"]) == 2
    assert "--size" in capsys.readouterr().err
    assert not (tmp_path / "toy").exists()


def test_runs_from_anywhere(tmp_path):
    arguments = ["--output", "toy", "--train", "1", "--val", "1", "--size", "64"]
    subprocess.run([sys.executable, tool.__file__, *arguments], cwd=tmp_path, check=True)
    assert (tmp_path / "toy" / "val.json").exists()
