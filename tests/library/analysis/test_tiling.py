"""What `make explore` says of tiles, and `make preview` of them."""

import json
import re

import explore_dataset
import numpy as np
import preview_augmentations
import pytest
from conftest import PROJECT_ROOT
from detection.classes import CLASSES
from detection.config import load_config
from PIL import Image

CONFIGS = ["faster_rcnn_R_50_FPN", "d_fine_M"]


def explored(tmp_path, capsys, config, side, sides) -> str:
    """What the tool prints of tiles, for square images with boxes of these sides."""
    coco = {"images": [{"id": 1, "file_name": "a.jpg", "width": side, "height": side}]}
    coco["categories"] = [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)]
    coco["annotations"] = [
        {"id": k, "image_id": 1, "category_id": 1, "bbox": [4, 4, s, s], "iscrowd": 0}
        for k, s in enumerate(sides, start=1)
    ]
    file = tmp_path / "train.json"
    file.write_text(json.dumps(coco))
    config = str(PROJECT_ROOT / f"configs/{config}.py")
    output = ["--output", str(tmp_path / "page.html"), "--count", "0"]
    explore_dataset.main(["--config-file", config, str(file), *output])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "iles " in line]
    assert line.split(":")[0] in (tmp_path / "page.html").read_text()
    return line


@pytest.mark.parametrize("config", CONFIGS)
def test_small_objects_in_large_images_want_tiles(tmp_path, capsys, config):
    sides = list(range(8, 40))
    line = explored(tmp_path, capsys, config, 3072, sides)
    overrides = re.findall(r"tiles\.\S+=\S+", line)
    cfg = load_config(str(PROJECT_ROOT / f"configs/{config}.py"), overrides)
    assert cfg.tiles.enabled and cfg.tiles.size * cfg.tiles.overlap >= 38
    resize = cfg.dataloader.test.mapper.augmentations[0].short_edge_length
    shares = [float(text) for text in re.findall(r"([\d.]+)%", line)]
    expected = [
        100 * np.mean(np.array(sides) * resize / side < 32) for side in (3072, cfg.tiles.size)
    ]  # as both configs resize a square
    assert shares == pytest.approx(expected, abs=0.06) and shares[1] <= shares[0] / 2


@pytest.mark.parametrize(("side", "sides"), [(3072, [200] * 9 + [9]), (120, [8] * 9)])
def test_others_do_not(tmp_path, capsys, side, sides):
    config = CONFIGS[0] if side > 1000 else CONFIGS[1]
    line = explored(tmp_path, capsys, config, side, [s / 3 if side == 120 else s for s in sides])
    assert "tiles.enabled" not in line


def test_preview_shows_tiles(on_toy, tmp_path):
    pictures = []
    for overrides in ([], ["tiles.enabled=True", "tiles.size=48", "tiles.full_image=False"]):
        command = ["--config-file", str(PROJECT_ROOT / "configs/debug/smoke.py"), *on_toy]
        output = tmp_path / f"{len(pictures)}.png"
        command += ["--count", "4", "--cell", "96", "--output", str(output), *overrides]
        preview_augmentations.main(command)
        pictures.append(np.asarray(Image.open(output)))
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
