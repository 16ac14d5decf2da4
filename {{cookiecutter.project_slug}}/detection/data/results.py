"""
Reads detections in COCO's results format, whoever made them; without detectron2.

Beside results that the project writes is a list of the images that their ids mean: other results
and another json may have the same ids for other images.
"""

import json
import math
import os
import reprlib
import unicodedata
from collections.abc import Container, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from detection.data.coco import category_id_map, read_coco, write_json
from detection.utils.errors import UserError
from detection.utils.run_lengths import run_length_problem


def images_file(results_file: str | Path) -> Path:
    """The list of images beside results."""
    return Path(results_file).with_suffix(".images.json")


def write_images(coco: dict, results_file: str | Path, models: Sequence[str] = ()) -> None:
    """
    Write the list of images beside results, a COCO json without annotations.

    Args:
        coco: has the images and categories.
        results_file: the results.
        models: the names of those that made them.

    Raises:
        UserError: it cannot be written.
    """
    keys = ("id", "file_name", "width", "height")
    images = [{key: image[key] for key in keys} for image in coco["images"]]
    listed = {"images": images, "annotations": [], "categories": coco["categories"]}
    listed["models"] = list(models)
    write_json(listed, str(images_file(results_file)))


def read_models(results_file: str | Path) -> list[str]:
    """The models that made some results, as the list of images has them; none if nobody knows."""
    try:
        models = json.loads(images_file(results_file).read_text(encoding="utf-8"))["models"]
    except (KeyError, OSError, RecursionError, TypeError, ValueError):
        return []
    return models if isinstance(models, list) and all(type(m) is str for m in models) else []


def check_same_images(results_file: str | Path, images: list[dict], json_file: str) -> None:
    """
    Compare a json's images with the list beside results; without a list, nothing is compared.

    Folders may differ: datasets/a.png and a.png are the same image.

    Args:
        results_file: the results, which need not be there.
        images: of the json.
        json_file: its name in errors.

    Raises:
        UserError: an id means another image in the json than in the list, or the list is malformed.
    """
    listed_file = images_file(results_file)
    if not listed_file.is_file() or os.path.realpath(listed_file) == os.path.realpath(json_file):
        return
    names = {image["id"]: image.get("file_name") for image in images}
    for image in read_coco(str(listed_file))["images"]:
        try:
            id_, listed = image["id"], _parts(image["file_name"])
            given = names.get(id_)
        except (AttributeError, KeyError, TypeError) as e:
            raise UserError(f"{listed_file}: an image has no id or file_name; predict again") from e
        if not isinstance(given, str):
            continue
        shared = min(len(listed), len(_parts(given)))
        if listed[-shared:] != _parts(given)[-shared:]:
            raise UserError(
                f"{results_file}: is of other images than {json_file}: image {id_} is "
                f"{image['file_name']} by {listed_file}, and {given} in the json; give "
                f"{listed_file} as the json, or predict again with an --output of its own"
            )


def read_results(
    results_file: str, json_file: str, coco: dict, category_ids: Container[int]
) -> list[dict]:
    """
    Read `[{image_id, category_id, bbox: [x, y, w, h], score}]`, boxes in pixels; it may be empty.

    Args:
        results_file: the json to read.
        json_file: the COCO json that the detections belong to, to be named in errors.
        coco: what is in that, each image with its `id`.
        category_ids: the ids of its categories.

    Raises:
        UserError: the file cannot be read, a record is malformed, one of its ids is unknown, or
            the results are of other images.
    """
    try:
        results = json.loads(Path(results_file).read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise UserError(f"{results_file}: cannot be read ({e.strerror or e})") from e
    except (ValueError, RecursionError) as e:
        raise UserError(f"{results_file}: is no valid json ({e}); write it again") from e
    if not isinstance(results, list):
        raise UserError(f"{results_file}: is no COCO results json, which is a list of detections")
    check_same_images(results_file, coco["images"], json_file)
    image_ids = {image["id"] for image in coco["images"]}
    for number, result in enumerate(results):
        where = f"{results_file}: results[{number}]"
        if not _is_result(result):
            wanted = "{image_id, category_id, bbox: [x, y, w, h], score}, all numbers finite"
            raise UserError(f"{where} is {reprlib.repr(result)}; it has to be {wanted}")
        for key, known in (("image_id", image_ids), ("category_id", category_ids)):
            if result[key] not in known:
                raise UserError(f"{where}: {key} {result[key]} is not in {json_file}")
        mask = result.get("segmentation")
        if isinstance(mask, dict) and (problem := run_length_problem(mask)):
            raise UserError(f"{where}: segmentation cannot be read, {problem}; write it again")
    return results


def _parts(file_name: str) -> tuple[str, ...]:
    return PurePosixPath(unicodedata.normalize("NFC", file_name.replace("\\", "/"))).parts


def _is_result(result) -> bool:
    try:
        ids = result["image_id"], result["category_id"]
        x, y, w, h = result["bbox"]
        numbers = x, y, w, h, result["score"]
        is_finite = all(type(v) in (int, float) and math.isfinite(v) for v in numbers)
    except (KeyError, OverflowError, TypeError, ValueError):
        return False
    return is_finite and min(w, h) >= 0 and all(type(id_) is int for id_ in ids)


def load(results_file: str, json_file: str) -> tuple[dict, list[dict]]:
    """
    Read a COCO json with annotations, and detections on it.

    Raises:
        UserError: either is malformed, they do not belong together, or there are none.
    """
    coco = read_coco(json_file)
    _, category_ids = check_truth(coco, json_file)
    results = read_results(results_file, json_file, coco, category_ids)
    if not results:
        raise UserError(f"{results_file}: has no detections; predict again, with --min-score 0")
    return coco, results


def check_truth(coco: dict, json_file: str) -> tuple[set[int], set[int]]:
    """
    The image and category ids of a COCO json that can be compared with.

    Raises:
        UserError: it is malformed, or has no annotations.
    """
    category_ids = category_id_map(coco, json_file)
    if not coco.get("annotations"):
        raise UserError(f"{json_file}: has no annotations to compare with; give a json that has")
    image_ids = set()
    for number, image in enumerate(coco["images"]):
        if not (isinstance(image, dict) and type(image.get("id")) is int):
            raise UserError(f"{json_file}: images[{number}] has no id; make check names all")
        image_ids.add(image["id"])
    for number, annotation in enumerate(coco["annotations"]):
        if not _is_annotation(annotation, image_ids, category_ids):
            raise UserError(
                f"{json_file}: annotations[{number}] is of an unknown image or class, or has no "
                "box of four finite numbers; make check names all"
            )
    if all(a.get("iscrowd") for a in coco["annotations"]):
        raise UserError(f"{json_file}: has crowd regions only; give a json with other annotations")
    return image_ids, set(category_ids)


def _is_annotation(annotation, image_ids: set, category_ids: dict) -> bool:
    try:
        box = np.array(annotation["bbox"], float)
        known = annotation["image_id"] in image_ids and annotation["category_id"] in category_ids
    except (KeyError, TypeError, ValueError, OverflowError):
        return False
    return bool(known and box.shape == (4,) and np.isfinite(box).all())
