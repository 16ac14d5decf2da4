"""The project's data, if there: they register, share no image between splits, have no errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT_ROOT, read_json
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog

from detection.classes import CLASSES
from detection.data.datasets import register_split
from detection.utils.paths import in_project

DATASET = LazyConfig.load(str(PROJECT_ROOT / "configs/common/dataset.py")).dataset
FILES = {split: in_project(DATASET[split].json_file) for split in ("train", "val")}
MISSING = [file for file in FILES.values() if not Path(file).is_file()]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no data: {', '.join(MISSING)}")


@pytest.mark.parametrize("split", FILES)
def test_registers_with_the_classes_of_the_project(split):
    name = register_split(f"own {split}", FILES[split], DATASET[split].image_root)
    images = DatasetCatalog.get(name)
    assert len(images) == len(read_json(FILES[split])["images"]) > 0
    assert MetadataCatalog.get(name).thing_classes == CLASSES


def test_no_image_is_in_both_splits():
    def images(split):
        # not the ids: exports number each split from 0
        root = in_project(DATASET[split].image_root)
        records = read_json(FILES[split])["images"]
        return {os.path.normpath(os.path.join(root, image["file_name"])) for image in records}

    assert not images("train") & images("val")


@pytest.mark.slow
def test_has_no_errors():
    """In the annotations; `make check` reads the images too."""
    command = [sys.executable, "tools/check_dataset.py", "--no-images", *FILES.values()]
    process = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, encoding="utf-8")
    assert process.returncode == 0, process.stdout + process.stderr
