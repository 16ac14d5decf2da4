"""Classes that the annotations do not have: "nothing here", and the classes above a class."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from detection.evaluation.assignment import Assignment, assign
from detection.utils.errors import UserError
from detection.utils.paths import DATASETS, in_project

# Open Images' classes, e.g. challenge-2019-label500-hierarchy.json; without it, AP50 is plain
HIERARCHY = f"{DATASETS}/hierarchy.json"

logger = logging.getLogger(__name__)


def with_none_class(
    coco: dict, results: Sequence[dict], name: str, iou_thresholds: Sequence[float]
) -> Assignment:
    """
    Assign by VOC's rule, with a class for images without boxes: each has one, of a pixel, and an
    image without detections predicts it with a score of 1, as the submission's `empty` says.
    """
    own = max(c["id"] for c in coco["categories"]) + 1
    annotated = {a["image_id"] for a in coco["annotations"]}
    detected = {r["image_id"] for r in results}

    def nothing(images: set[int]) -> list[dict]:
        ids = (image["id"] for image in coco["images"] if image["id"] not in images)
        box = {"category_id": own, "bbox": [0, 0, 1, 1], "score": 1.0}
        return [{"image_id": id_, **box} for id_ in ids]

    return assign(
        {
            "images": coco["images"],
            "categories": [*coco["categories"], {"id": own, "name": name}],
            "annotations": [*coco["annotations"], *nothing(annotated)],
        },
        [*results, *nothing(detected)],
        iou_thresholds,
        rule="voc",
    )


def open_images(coco: dict, results: Sequence[dict], iou_thresholds: Sequence[float]) -> Assignment:
    """
    Assign by Open Images' rules: a box is also one of each class above its own, and a crowd
    ("group of") is found by the best detection inside it, the others inside count nothing.

    Detections are expanded in the same way, unless they already are. An image with
    `neg_category_ids` is judged only on these classes and those annotated in it.
    """
    if parents := read_hierarchy(HIERARCHY, coco["categories"]):
        coco = {**coco, "annotations": with_parents(coco["annotations"], parents)}
        results = with_parents(results, parents)
    verified = {
        i["id"]: set(i["neg_category_ids"]) for i in coco["images"] if "neg_category_ids" in i
    }
    if verified:
        for annotation in coco["annotations"]:
            verified.get(annotation["image_id"], set()).add(annotation["category_id"])
        results = [
            r
            for r in results
            if r["image_id"] not in verified or r["category_id"] in verified[r["image_id"]]
        ]
    return assign(coco, results, iou_thresholds, rule="open_images", limit=None)


def read_hierarchy(path: str, categories: Sequence[dict]) -> dict[int, set[int]]:
    """
    {category id: the ids of the classes above it}, of Open Images' `{"LabelName", "Subcategory"}`.

    Classes above that are no categories are left out; without a file there are none at all.

    Raises:
        UserError: the file is malformed, or does not know a category.
    """
    file = Path(in_project(path))
    if not file.is_file():
        logger.warning(f"{path} is not there: AP50 without the hierarchy of classes")
        return {}
    above = {}

    def walk(node: dict, path: tuple[str, ...]) -> None:
        above.setdefault(node["LabelName"], set()).update(path)
        for child in node.get("Subcategory", ()):
            walk(child, (*path, node["LabelName"]))

    try:
        walk(json.loads(file.read_text(encoding="utf-8")), ())
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as e:
        raise UserError(
            f"{path}: is no hierarchy of LabelName and Subcategory ({e!r}); fetch it again"
        ) from e
    ids = {c["name"]: c["id"] for c in categories}
    if unknown := [name for name in ids if name not in above]:
        raise UserError(
            f"{path}: does not know the class {unknown[0]!r} ({len(unknown)} of {len(ids)}); its "
            "LabelName have to be the names in CLASSES"
        )
    return {id_: {ids[n] for n in above[name] if n in ids} for name, id_ in ids.items()}


def with_parents(records: Sequence[dict], parents: dict[int, set[int]]) -> list[dict]:
    """Annotations or detections, each once more for every class above its own; none twice."""
    expanded = {}
    for record in records:
        for category_id in (record["category_id"], *sorted(parents[record["category_id"]])):
            key = record["image_id"], category_id, *record["bbox"], record.get("score")
            expanded.setdefault(key, {**record, "category_id": category_id})
    return list(expanded.values())
