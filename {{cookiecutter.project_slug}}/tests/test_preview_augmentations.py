"""The preview shows the very images that a training begins with."""

import itertools

import numpy as np
import pytest
from conftest import PROJECT_ROOT
from detectron2.config import instantiate
from PIL import Image

from detection.config import load_config
from tools.preview_augmentations import main

CONFIG = ["--config-file", str(PROJECT_ROOT / "configs/faster_rcnn_R_50_FPN_augmented.py")]


@pytest.mark.slow
def test_picture_shows_the_model_inputs_in_their_colours(on_toy, tmp_path, capsys):
    output = tmp_path / "new" / "preview.png"
    resize = "dataloader.train.mapper.augmentations.0"
    overrides = [*on_toy, f"{resize}.short_edge_length=[160]", f"{resize}.max_size=160"]
    main([*CONFIG, "--count", "5", "--cell", "160", "--output", str(output), *overrides])
    assert capsys.readouterr().out.split() == [str(output)]
    picture = np.asarray(Image.open(output)).astype(int)

    cfg = load_config(CONFIG[1], overrides)
    loader = instantiate(cfg.dataloader.train)
    samples = list(itertools.islice(itertools.chain.from_iterable(loader), 5))
    assert picture.shape == (2 * 160 + 4, 3 * 160 + 2 * 4, 3)
    for k, sample in enumerate(samples):
        row, column = divmod(k, 3)
        image = sample["image"].numpy()[::-1].transpose(1, 2, 0).astype(int)  # BGR
        height, width = image.shape[:2]
        top, left = row * 164, column * 164
        shown = picture[top : top + height, left : left + width]
        is_drawn = np.abs(shown - image).max(axis=2) > 0
        # all but the boxes and their labels
        assert is_drawn.mean() < 0.8
        for x1, y1, x2, y2 in sample["instances"].gt_boxes.tensor.int().tolist():
            assert is_drawn[y1:y2, x1:x2].any()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--count", "0"), "--count must be between 1 and 200"),
        (("dataset.train.json_file=nowhere.json",), "nowhere.json: cannot be read"),
        (("dataloader.train.maper.mixing=[]",), "did you mean dataloader.train.mapper"),
    ],
)
def test_mistakes_are_one_line(args, says, tmp_path, capsys):
    assert main([*CONFIG, *args, "--output", str(tmp_path / "preview.png")]) == 2
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1
    assert not list(tmp_path.iterdir())
