"""Every config trains and is evaluated on the fold that it is given."""

from pathlib import Path

import pytest
from conftest import PROJECT_ROOT, config_files
from detectron2.config import instantiate

from detection.config import load_config
from tools import split_dataset


@pytest.fixture(scope="module")
def toy_folds(toy, tmp_path_factory) -> Path:
    folds = tmp_path_factory.mktemp("folds")
    split_dataset.main([f"{toy}/train.json", "--output", str(folds), "--folds", "2"])
    return folds


@pytest.mark.parametrize("config_file", config_files())
def test_every_config_takes_a_fold(toy_folds, config_file):
    file = str(PROJECT_ROOT / config_file)
    cfg = load_config(file, [f"dataset.folds={toy_folds}", "dataset.fold=1"])
    assert cfg.train.output_dir == f"{load_config(file).train.output_dir}_fold1"
    train = cfg.dataloader.train.dataset
    names = (train if "names" in train else train.dataset).names  # of first_images, in overfit.py
    assert names.json_file == f"{toy_folds}/1/train.json"
    assert instantiate(cfg.dataloader.evaluator.dataset_name) in ("train", "val")
