"""Registers COCO json files with detectron2, under the project's own class list."""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from omegaconf import DictConfig, OmegaConf
from pycocotools import mask as mask_util

from detection.checks.annotations import check_annotations
from detection.checks.images import file_name
from detection.checks.kinds import NOTE
from detection.classes import CLASSES
from detection.data.coco import category_id_map, parse_coco, read_bytes, read_coco
from detection.data.samples import require_masks
from detection.utils.errors import UserError
from detection.utils.paths import in_project

logger = logging.getLogger(__name__)

_registered: dict[str, tuple] = {}  # {name: its file, folder, content and classes}
_image_files: dict[str, list[str]] = {}  # {name: the paths of its images}


def register_split(name: str, json_file: str, image_root: str) -> str:
    """
    Register one COCO json as the data set `name`; registering again replaces it.

    Its metadata carry `thing_classes` (CLASSES) and `thing_dataset_id_to_contiguous_id`, which
    maps the file's own category ids, of any numbering, to positions in CLASSES by name.

    Args:
        name: of the data set in detectron2's catalogs.
        json_file: COCO annotations; relative paths start at the project's root.
        image_root: the folder that the json's `file_name`s are relative to.

    Returns:
        `name`, so that a config can register and name a data set in one node.

    Raises:
        UserError: the file is missing or not a COCO file, or its categories are not CLASSES.
    """
    json_file, image_root = in_project(json_file), in_project(image_root)
    content = read_bytes(json_file)
    # a config registers a split wherever it names it: the same content is parsed only once
    version = json_file, image_root, hashlib.sha256(content).digest(), tuple(CLASSES)
    is_registered = name in DatasetCatalog and name in MetadataCatalog
    if is_registered and _registered.get(name) == version:
        return name
    coco = parse_coco(content, json_file)
    id_map = category_id_map(coco, json_file)
    parsed = [(coco, id_map)]  # for the first loading, which follows at once; then it is let go

    def load() -> list[dict]:
        if parsed:
            return _dataset_dicts(*parsed.pop(), json_file, image_root)
        coco = read_coco(json_file)
        return _dataset_dicts(coco, category_id_map(coco, json_file), json_file, image_root)

    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        thing_classes=list(CLASSES),
        thing_dataset_id_to_contiguous_id=id_map,
    )
    _registered[name] = version
    names = filter(None, map(file_name, coco["images"]))
    _image_files[name] = [os.path.join(image_root, file) for file in names]
    return name


def class_names(cfg: DictConfig) -> list[str] | None:
    """The classes of the data set that a config evaluates on; None if its metadata have none."""
    name = instantiate(OmegaConf.select(cfg, "dataloader.evaluator.dataset_name"))
    return name and MetadataCatalog.get(name).get("thing_classes")


def training_images(
    names: str | list[str],
    filter_empty: bool = True,
    pseudo: Mapping | None = None,
    held_out: Mapping | None = None,
    masks: bool = False,
) -> list[dict]:
    """
    The dicts of registered data sets to train on, in detectron2's format.

    Args:
        names: of the data sets.
        filter_empty: leave out images without boxes, and those with crowd regions only.
        pseudo: arguments of `register_split` for pseudo-labels to train on too; `json_file` is
            None if there are none.
        held_out: arguments of `register_split` for the images to evaluate on.
        masks: whether each annotation must have a mask.

    Raises:
        UserError: no image is left, an image with pseudo-labels is one of the others, or a mask
            is missing.
    """
    if pseudo and pseudo["json_file"]:
        images = training_images(names, filter_empty, masks=masks)
        return images + _pseudo_images(names, pseudo, held_out, masks)
    try:
        images = get_detection_dataset_dicts(names, filter_empty=filter_empty)
    except AssertionError as e:
        if "No valid data" not in str(e):
            raise
        raise UserError(
            f"{_json_file(names)}: no image in it has annotations to train on; "
            "set dataset.train.json_file to another file"
        ) from e
    if masks:
        require_masks(images, _json_file(names))
        if filter_empty:  # those of which unusable masks leave nothing
            images = [i for i in images if any(a.get("segmentation") for a in _objects(i))]
    return images


def _pseudo_images(
    names: str | list[str], pseudo: Mapping, held_out: Mapping | None, masks: bool
) -> list[dict]:
    """The data set dicts with pseudo-labels, none of them of an image that has others."""
    images = training_images(register_split(**pseudo), masks=masks)
    others = [names] if isinstance(names, str) else list(names)
    if held_out:
        others.append(register_split(**held_out))
    for other in others:
        if (files := _image_files.get(other)) is None:  # registered by other code
            files = [image["file_name"] for image in DatasetCatalog.get(other)]
        known = set(map(os.path.realpath, files))
        for image in images:
            if os.path.realpath(image["file_name"]) in known:
                raise UserError(
                    f"{pseudo['json_file']}: {image['file_name']} is an image of {other} too; "
                    "make pseudo-labels of other images"
                )
    boxes = sum(len(image["annotations"]) for image in images)
    logger.info(f"{pseudo['json_file']}: {len(images)} images with {boxes} pseudo-labels")
    return images


def first_images(dataset: list[dict], count: int) -> list[dict]:
    """The first `count` data set dicts, to overfit."""
    return dataset[:count]


def _json_file(names: str | list[str]) -> str:
    first = names if isinstance(names, str) else names[0]
    return MetadataCatalog.get(first).get("json_file", first)


def _dataset_dicts(
    coco: dict, id_map: dict[int, int], json_file: str, image_root: str
) -> list[dict]:
    """
    detectron2's data set dicts, by image id; boxes (x, y, w, h) in pixels, classes contiguous.

    Raises:
        UserError: the annotations contain errors that would break training or make it meaningless.
    """
    findings = check_annotations(coco, image_root)
    errors = [f for f in findings if f.is_error]
    if errors:
        others = f" ({len(errors) - 1} more kinds of error)" if len(errors) > 1 else ""
        is_fixable = _can_be_fixed(coco, json_file, image_root)
        more = "`make check ARGS=--fix` corrects a copy" if is_fixable else "`make check` says more"
        raise UserError(f"{json_file}: {errors[0].message}{others}; {more}")
    for finding in findings:
        log = logger.info if finding.severity == NOTE else logger.warning
        log(f"{Path(json_file).name}: {finding.message}")
    objects = defaultdict(list)
    for annotation in coco.get("annotations") or []:
        objects[annotation["image_id"]].append(_object(annotation, id_map))
    return [
        {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": objects[image["id"]],
        }
        for image in sorted(coco["images"], key=lambda image: image["id"])
    ]


def _can_be_fixed(coco: dict, json_file: str, image_root: str) -> bool:
    """Whether `make check ARGS=--fix` writes a copy without errors."""
    from detection.checks.fixes import fix_splits  # needed for a faulty file only

    fixed = fix_splits({json_file: coco}, {}, {json_file: image_root})
    found = check_annotations(fixed.splits[json_file], image_root)
    return not fixed.refused and not any(finding.is_error for finding in found)


def _objects(image: dict) -> list[dict]:
    """The annotations of a data set dict that are trained on, which crowd regions are not."""
    return [a for a in image["annotations"] if not a["iscrowd"]]


def _object(annotation: dict, id_map: dict[int, int]) -> dict:
    """
    detectron2's form of a checked annotation.

    Its segmentation is an empty list if it has polygons and none is usable.
    """
    kept = {
        "iscrowd": annotation.get("iscrowd") or 0,
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": id_map[annotation["category_id"]],
    }
    if segmentation := annotation.get("segmentation"):
        if isinstance(segmentation, list):
            segmentation = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0]
        elif isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        kept["segmentation"] = segmentation
    if keypoints := annotation.get("keypoints"):
        # (x, y, visibility); positions of pixels, whose centres lie half a pixel further
        kept["keypoints"] = [v if k % 3 == 2 else v + 0.5 for k, v in enumerate(keypoints)]
    return kept
