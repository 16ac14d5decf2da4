"""What `make explore` says of rare classes, as the settings that it names apply it."""

import json
import re
from dataclasses import replace

import explore_dataset
import numpy as np
import pytest
from conftest import PROJECT_ROOT
from detection.classes import CLASSES
from detection.config import load_config
from detection.workshop.analysis.dataset_statistics import read_splits
from detection.workshop.analysis.rare_classes import HIGHEST_WEIGHT, rare_class_section
from detectron2.data.samplers import RepeatFactorTrainingSampler

IMAGES = [40, 20, 10, 1]  # that show each of four classes, with one box each
CONFIG = "configs/faster_rcnn_R_50_FPN.py"


@pytest.fixture
def json_file(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 64} for i in range(40)]
    annotations = [
        {"image_id": i, "category_id": k, "bbox": [4, 4, 9, 9], "iscrowd": 0}
        for k, count in enumerate(IMAGES, start=1)
        for i in range(count)
    ]
    for number, annotation in enumerate(annotations):
        annotation["id"] = number
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "train.json").write_text(json.dumps(coco), encoding="utf-8")
    return tmp_path / "train.json"


def test_lines_load_and_do_what_the_table_says(json_file):
    names, (split,) = read_splits({"train": str(json_file)})
    section = rare_class_section(names, split)
    rows = section["rare_rows"]
    assert [row["name"] for row in rows] == list(reversed(CLASSES[:4])), "the rarest first"
    assert [row["boxes"] for row in rows] == sorted(IMAGES)

    # the repeat factors are detectron2's at that threshold
    threshold = float(re.search(r"repeat_threshold = (\S+)", section["rare_lines"][0])[1])
    records = [
        {"annotations": [{"category_id": k} for k, n in enumerate(IMAGES) if i < n]}
        for i in range(40)
    ]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, threshold)
    assert rows[0]["repeat"] == pytest.approx(float(factors[0]))
    assert rows[-1]["repeat"] == 1 and rows[0]["weight"] <= HIGHEST_WEIGHT
    weights = [row["weight"] for row in rows]
    assert weights == sorted(weights, reverse=True) and weights[-1] == 1
    # half of the images get 1 to 3 copies, of all classes equally often
    assert np.sum([row["copies"] for row in rows]) == pytest.approx(40 * 0.5 * 2)

    config = PROJECT_ROOT / "configs/rare_classes_pasted.py"
    imports = "\nfrom .common.augmentations import copy_paste\n"
    try:
        text = (PROJECT_ROOT / CONFIG).read_text(encoding="utf-8") + imports
        config.write_text(text + "\n".join(section["rare_lines"]), encoding="utf-8")
        cfg = load_config(str(config))
    finally:
        config.unlink()
    assert cfg.train.class_loss.weights[CLASSES[3]] == pytest.approx(weights[0], abs=0.06)
    assert cfg.dataloader.train.repeat_threshold == threshold and cfg.dataloader.train.mapper.mixing


def test_the_page_shows_them_unless_there_is_one_class(json_file, tmp_path):
    page = tmp_path / "page.html"
    command = ["--config-file", CONFIG, str(json_file), "--output", str(page), "--count", "0"]
    assert explore_dataset.main(command) == 0
    assert 'id="rare"' in page.read_text() and "train.class_loss.weights" in page.read_text()
    names, (split,) = read_splits({"train": str(json_file)})
    one = split.labels == 0
    single = replace(split, boxes=split.boxes[one], labels=split.labels[one])
    single = replace(single, areas=split.areas[one], owners=split.owners[one])
    assert rare_class_section(names, single)["rare_rows"] == []
