"""Registers COCO json files with detectron2, under the project's own class list."""

import logging
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from detection.annotation_checks import check_annotations
from detection.annotations import category_id_map, read_coco
from detection.classes import CLASSES
from detection.errors import UserError
from detection.paths import in_project

logger = logging.getLogger("detectron2.detection")


def register_split(name: str, json_file: str, image_root: str) -> str:
    """
    Register one COCO json as the data set `name`; registering again replaces it.

    Its metadata carry `thing_classes` (CLASSES) and `thing_dataset_id_to_contiguous_id`, which
    maps the file's own category ids, of any numbering, to positions in CLASSES by name.

    Args:
        name: what detectron2 shall call the data set.
        json_file: COCO annotations; relative paths start at the project's root.
        image_root: the folder to which the json's `file_name`s are relative.

    Returns:
        `name`, so that a config can register and name a data set in one node.

    Raises:
        UserError: the file is missing or no COCO json, or its categories are not CLASSES.
    """
    json_file, image_root = in_project(json_file), in_project(image_root)
    id_map = category_id_map(read_coco(json_file), json_file)
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: _load(name, json_file, image_root))
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        thing_classes=list(CLASSES),
        thing_dataset_id_to_contiguous_id=id_map,
    )
    return name


def first_images(dataset: list[dict], count: int) -> list[dict]:
    """The first `count` data set dicts, to learn by heart."""
    return dataset[:count]


def _load(name: str, json_file: str, image_root: str) -> list[dict]:
    """detectron2's data set dicts, boxes as (x, y, w, h) in pixels, category ids contiguous."""
    for finding in check_annotations(read_coco(json_file), image_root):
        if finding.is_error:
            raise UserError(f"{json_file}: {finding.message}")
        logger.warning(f"{Path(json_file).name}: {finding.message}")
    id_map = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    # Without the data set's name, load_coco_json leaves ids and metadata alone.
    dataset_dicts = load_coco_json(json_file, image_root)
    for record in dataset_dicts:
        for annotation in record["annotations"]:
            annotation["category_id"] = id_map[annotation["category_id"]]
    return dataset_dicts
