"""detectron2's own LazyConfigs train here too, on data that lie as COCO's do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
from conftest import PROJECT_ROOT, read_metrics
from detectron2 import model_zoo
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

pytestmark = pytest.mark.slow

SIDE = 96
SMALL = [
    "train.device=cpu",
    "train.init_checkpoint=''",
    "train.max_iter=2",
    "train.log_period=1",
    "train.amp.enabled=False",
    "optimizer.lr=1e-7",  # random weights and frozen statistics bear no more
    "writers.wandb=null",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    f"dataloader.test.mapper.augmentations.0.short_edge_length={SIDE}",
]
DENSE = ["model.test_score_thresh=0.0"]  # detectron2 gives no AP where nothing is found
MASKS = [
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
    "model.proposal_generator.post_nms_topk=[100,50]",
    # fvcore crops bitmaps, but polygons only where shapely is installed
    "dataloader.train.mapper.instance_mask_format=bitmask",
]
RESIZED = [f"dataloader.train.mapper.augmentations.0.short_edge_length=[{SIDE}]"]
JITTERED = [
    f"dataloader.train.mapper.augmentations.0.target_height={SIDE}",
    f"dataloader.train.mapper.augmentations.0.target_width={SIDE}",
    f"dataloader.train.mapper.augmentations.1.crop_size=[{SIDE},{SIDE}]",
]
CONFIGS = {
    "COCO-Detection/retinanet_R_50_FPN_1x.py": RESIZED + DENSE,
    "COCO-Detection/fcos_R_50_FPN_1x.py": RESIZED + DENSE,
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py": RESIZED + MASKS,
    "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py": JITTERED + MASKS,
}
# one process for all of them: importing detectron2 takes longer than training
TRAIN_ALL = """
import json, sys
from train_net import main
from detection.utils.arguments import parse_args
for argv in json.loads(sys.argv[1]):
    main(parse_args(argv))
"""


@pytest.fixture(scope="module")
def coco_datasets(toy, tmp_path_factory) -> Path:
    """The toy data under COCO's file names, with COCO's 80 classes, boxes as masks."""
    root = tmp_path_factory.mktemp("datasets")
    things = [c for c in COCO_CATEGORIES if c["isthing"]]
    (root / "coco/annotations").mkdir(parents=True)
    for split in ("train", "val"):
        coco = json.loads((toy / f"{split}.json").read_text(encoding="utf-8"))
        ids = {c["id"]: things[k % 80]["id"] for k, c in enumerate(coco["categories"])}
        sides = {i["id"]: (i["height"], i["width"]) for i in coco["images"]}
        coco["categories"] = [{"id": c["id"], "name": c["name"]} for c in things]
        for annotation in coco["annotations"]:
            annotation["category_id"] = ids[annotation["category_id"]]
            annotation["segmentation"] = box_mask(
                annotation["bbox"], *sides[annotation["image_id"]]
            )
        file = root / f"coco/annotations/instances_{split}2017.json"
        file.write_text(json.dumps(coco), encoding="utf-8")
        shutil.copytree(toy / "images", root / f"coco/{split}2017")
    return root


def box_mask(box: list[float], height: int, width: int) -> dict:
    """A box, (x, y, w, h) in pixels, as a run-length encoded mask."""
    x, y, w, h = map(round, box)
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    encoded = pycocotools.mask.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


@pytest.fixture(scope="module")
def output_dirs(coco_datasets, tmp_path_factory) -> dict[str, Path]:
    """The output of a short training of each config."""
    folder = tmp_path_factory.mktemp("upstream")
    outputs = {name: folder / Path(name).stem for name in CONFIGS}
    commands = [
        [
            *("--config-file", model_zoo.get_config_file(name), *SMALL, *overrides),
            f"train.output_dir={outputs[name]}",
        ]
        for name, overrides in CONFIGS.items()
    ]
    process = subprocess.run(
        [sys.executable, "-c", TRAIN_ALL, json.dumps(commands)],
        cwd=PROJECT_ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(coco_datasets)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return outputs


@pytest.mark.parametrize("name", CONFIGS)
def test_upstream_config_trains_and_evaluates(output_dirs, name):
    rows = read_metrics(output_dirs[name])
    assert [row["iteration"] for row in rows if "total_loss" in row] == [0, 1]
    assert "bbox/AP" in rows[-1]
    assert ("segm/AP" in rows[-1]) == ("mask_rcnn" in name)
    assert (output_dirs[name] / "model_final.pth").is_file()
