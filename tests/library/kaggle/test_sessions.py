"""What a notebook's session finds among its inputs, and how it ends a script in time."""

import json
import os
import re

import pytest
from detection.classes import CLASSES
from detection.utils.errors import UserError
from detection.workshop.kaggle.processes import run_script, run_until
from detection.workshop.kaggle.scoring import CATEGORIES, Settings, find_runs, list_hidden
from detection.workshop.kaggle.session import find_earlier, link_images, wandb_key
from omegaconf import OmegaConf
from PIL import Image

ENDS_LATE = """
import pathlib, signal, sys, time

signal.signal(signal.SIGTERM, lambda *_: sys.exit(pathlib.Path(sys.argv[1]).touch() or 143))
time.sleep(float(sys.argv[2]))
sys.exit(int(sys.argv[3]))
"""


@pytest.fixture
def script(tmp_path):
    (path := tmp_path / "script.py").write_text(ENDS_LATE)
    return str(path)


def test_script_is_stopped_when_its_time_is_up(script, tmp_path):
    saved = tmp_path / "saved"
    assert not run_until(2, script, saved, 60, 0) and saved.exists()


def test_script_ends_by_itself_or_is_blamed(script, tmp_path, capfd):
    assert run_until(60, script, tmp_path / "saved", 0, 0)
    assert not (tmp_path / "saved").exists() and "== " in capfd.readouterr().out
    for run in (lambda *args: run_until(60, *args), run_script):
        with pytest.raises(UserError, match="status 2"):
            run(script, tmp_path / "saved", 0, 2)


def folder_of_images(folder, *names):
    for name in names:
        (path := folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path)
    return folder


def settings_of(tmp_path, **options):
    (data := tmp_path / "files").mkdir(exist_ok=True)
    return Settings(data, str(tmp_path / "input"), tmp_path / "work", "submission.csv", **options)


def test_images_of_a_folder_get_the_ids_of_the_annotations(tmp_path):
    folder = folder_of_images(tmp_path / "input/comp/test", "b.png", "하나/a.png")
    settings = settings_of(tmp_path, images=str(folder))
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES)]  # from 0
    (settings.folder / CATEGORIES).write_text(json.dumps(categories))
    json_file, root = list_hidden(settings, None)
    coco = json.loads(json_file.read_text())
    assert root == str(folder) and coco["categories"] == categories
    assert [image["file_name"] for image in coco["images"]] == ["b.png", "하나/a.png"]
    assert {(image["width"], image["height"]) for image in coco["images"]} == {(40, 30)}


def test_without_sample_and_folder_one_is_asked_for(tmp_path):
    with pytest.raises(UserError, match="--images"):
        list_hidden(settings_of(tmp_path), None)
    with pytest.raises(UserError, match="make kaggle"):
        find_runs(tmp_path)


def test_image_roots_become_the_inputs(tmp_path):
    folder_of_images(tmp_path / "input/comp/train_images", "1.png", "2.png")
    root = tmp_path / "project/datasets"
    names = ["train_images/1.png", "train_images/2.png"]
    (root / "folds").mkdir(parents=True)
    coco = {"images": [{"file_name": name} for name in names], "categories": [{"id": 1}]}
    (root / "train.json").write_text(json.dumps(coco))
    node = {"json_file": str(root / "train.json"), "image_root": str(root)}
    cfg = OmegaConf.create({"dataset": {"train": node, "val": node, "pseudo": {"json_file": None}}})
    for _ in range(2):  # a cell may run again
        link_images(cfg, str(tmp_path / "input"), "")
    assert all((root / name).is_file() for name in names)
    (root / "train.json").write_text(json.dumps({**coco, "images": [{"file_name": "3.png"}]}))
    with pytest.raises(UserError, match=re.escape("no image 3.png")):
        link_images(cfg, str(tmp_path / "input"), "")


def test_output_of_the_same_run_is_found(tmp_path):
    cfg = OmegaConf.create({"train": {"output_dir": "output/d_fine_M_fold0"}})
    assert find_earlier(cfg, str(tmp_path)) is None
    for place in ("a/output/d_fine_M_fold1", "a/output/d_fine_M_fold0", "b/output/d_fine_M_fold0"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "last_checkpoint").touch()
    found = find_earlier(cfg, str(tmp_path / "a"))
    assert found == tmp_path / "a/output/d_fine_M_fold0"
    with pytest.raises(UserError, match="keep one"):
        find_earlier(cfg, str(tmp_path))


def test_key_comes_from_the_secrets(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert "offline" in wandb_key()
    client = "class UserSecretsClient:\n    def get_secret(self, label): return label.lower()\n"
    (tmp_path / "kaggle_secrets.py").write_text(client)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "secret" in wandb_key()

    assert os.environ["WANDB_API_KEY"] == "wandb_api_key"
