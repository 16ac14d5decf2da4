"""
Reads detections in COCO's results format; without detectron2.

Beside results that the project writes is a list of the images that their ids mean: other results
and another json may have the same ids for other images.
"""

import os
from collections.abc import Container, Sequence
from pathlib import Path, PurePosixPath

from detection.checks.records import IMAGE, schema_error
from detection.data.coco import category_id_map, parse_json, read_coco, validate, write_json
from detection.utils.errors import UserError
from detection.utils.files import read_record
from detection.utils.run_lengths import run_length_problem
from detection.utils.text import composed

DETECTION = ("image_id", "category_id", "bbox", "score")  # the fields that each one needs


def images_file(results_file: str | Path) -> Path:
    """The list of images beside results: a COCO file without annotations."""
    return Path(results_file).with_suffix(".images.json")


def write_images(coco: dict, results_file: str | Path, models: Sequence[str] = ()) -> None:
    """
    Write the list of images beside results, a COCO file without annotations.

    Args:
        coco: has the images and categories.
        results_file: the results.
        models: the names of those that made them.

    Raises:
        UserError: it cannot be written.
    """
    images = [{key: image[key] for key in IMAGE} for image in coco["images"]]
    listed = {"images": images, "annotations": [], "categories": coco["categories"]}
    listed["models"] = list(models)
    write_json(listed, str(images_file(results_file)))


def read_models(results_file: str | Path) -> list[str]:
    """The models that made some results, as the list of images has them; none if nobody knows."""
    models = read_record(images_file(results_file)).get("models")
    return models if isinstance(models, list) and all(type(m) is str for m in models) else []


def weights_of(model: str) -> str:
    """What tells a model of `read_models` from others: a copy of its file elsewhere is the same."""
    return model.rpartition("@")[2]


def check_same_images(results_file: str | Path, images: list[dict], json_file: str) -> None:
    """
    Compare a json's images with the list beside results; without a list, nothing is compared.

    Folders may differ: datasets/a.png and a.png are the same image.

    Args:
        results_file: the results, which need not exist.
        images: of the json.
        json_file: its name in errors.

    Raises:
        UserError: an id means another image in the json than in the list, or the list is malformed.
    """
    listed_file = images_file(results_file)
    if not listed_file.is_file() or os.path.realpath(listed_file) == os.path.realpath(json_file):
        return
    names = {image["id"]: image.get("file_name") for image in images}
    listed = read_coco(str(listed_file))
    validate(listed, str(listed_file), images=("id", "file_name"), remedy="predict again")
    for image in listed["images"]:
        given = names.get(image["id"])
        if not isinstance(given, str):
            continue
        parts, given_parts = _parts(image["file_name"]), _parts(given)
        shared = min(len(parts), len(given_parts))
        if parts[-shared:] != given_parts[-shared:]:
            raise UserError(
                f"{results_file}: is of other images than {json_file}: image {image['id']} is "
                f"{image['file_name']} by {listed_file}, and {given} in the json; give "
                f"{listed_file} as the json, or predict again with another --output"
            )


def _parts(file_name: str) -> tuple[str, ...]:
    return PurePosixPath(composed(file_name.replace("\\", "/"))).parts


def read_results(
    results_file: str, json_file: str, coco: dict, category_ids: Container[int]
) -> list[dict]:
    """
    Read `[{image_id, category_id, bbox: [x, y, w, h], score}]`, boxes in pixels; it may be empty.

    Args:
        results_file: the json to read.
        json_file: the COCO file that the detections belong to, to be named in errors.
        coco: what is in that, each image with its `id`.
        category_ids: the ids of its categories.

    Raises:
        UserError: the file cannot be read, a record is malformed, one of its ids is unknown, or
            the results are of other images.
    """
    try:
        content = Path(results_file).read_bytes()
    except OSError as e:
        raise UserError(f"{results_file}: cannot be read ({e.strerror or e})") from e
    results = parse_json(content, results_file)
    if not isinstance(results, list):
        raise UserError(f"{results_file}: is not COCO results, which are a list of detections")
    check_same_images(results_file, coco["images"], json_file)
    known = {"image_id": {image["id"] for image in coco["images"]}, "category_id": category_ids}
    for number, result in enumerate(results):
        where = f"{results_file}: results[{number}]"
        if error := schema_error(result, DETECTION):
            raise UserError("{}.{}: {}; write it again".format(where, *error))
        if min(result["bbox"][2:]) < 0:
            raise UserError(f"{where}.bbox: has a negative width or height; write (x, y, w, h)")
        for key, ids in known.items():
            if result[key] not in ids:
                raise UserError(f"{where}: {key} {result[key]} is not in {json_file}")
        mask = result.get("segmentation")
        if isinstance(mask, dict) and (problem := run_length_problem(mask)):
            raise UserError(f"{where}: segmentation cannot be read, {problem}; write it again")
    return results


def read_ground_truth_and_results(results_file: str, json_file: str) -> tuple[dict, list[dict]]:
    """
    Read a COCO file with annotations, and detections on it.

    Raises:
        UserError: either is malformed, they do not belong together, or there are none.
    """
    coco = read_coco(json_file)
    category_ids = check_ground_truth(coco, json_file)
    results = read_results(results_file, json_file, coco, category_ids)
    if not results:
        raise UserError(f"{results_file}: has no detections; predict again, with --min-score 0")
    return coco, results


def check_ground_truth(coco: dict, json_file: str) -> dict[int, int]:
    """
    Check that detections can be compared with a parsed COCO file's annotations.

    Returns:
        {category id: position in CLASSES}.

    Raises:
        UserError: a record is malformed, or there is no annotation of an object.
    """
    category_ids = category_id_map(coco, json_file)
    if not coco.get("annotations"):
        raise UserError(f"{json_file}: has no annotations to compare with; name a file that has")
    validate(coco, json_file, ("id",), ("image_id", "category_id", "bbox"))
    if all(a.get("iscrowd") for a in coco["annotations"]):
        raise UserError(f"{json_file}: has crowd regions only; name a file with other annotations")
    return category_ids
