"""COCO average precision, overall and per class, computed by hotcoco; without detectron2."""

import itertools
from collections import Counter, OrderedDict

import numpy as np
from hotcoco import COCO, COCOeval
from tabulate import tabulate

from detection.utils.errors import UserError
from detection.utils.run_lengths import run_length_problem

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def average_precision(ground_truth: dict, results: list[dict], task: str = "bbox") -> dict:
    """
    COCO's average precision at IoU 0.50:0.95, in all and per class.

    Args:
        ground_truth: a parsed COCO json.
        results: detections in COCO's results format, boxes as (x, y, w, h) in pixels.
        task: "bbox" or "segm".

    Returns:
        Percentages by detectron2's names; those that cannot be computed are left out.
    """
    return scores_of(evaluate(ground_truth, results, task), ground_truth)


def evaluate(ground_truth: dict, results: list[dict], task: str = "bbox") -> COCOeval:
    """
    hotcoco's evaluation, accumulated. In it images, classes and detections have other ids: the
    ranks of the json's image and category ids, and 1, 2 … in the order of `results`.

    Args: as of `average_precision`.

    Raises:
        UserError: a mask of run lengths does not fit its image.
    """
    if task == "segm":
        _check_masks(ground_truth, results)
    # ids by their rank, which hotcoco's arrays of floats hold exactly, whatever the ids
    images = {id_: rank for rank, id_ in enumerate(sorted(i["id"] for i in ground_truth["images"]))}
    classes = {id_: k for k, id_ in enumerate(sorted(c["id"] for c in ground_truth["categories"]))}
    coco = COCO(
        {
            # only what counts: hotcoco refuses odd values in fields that it does not need
            "images": [
                {"id": images[i["id"]], **{k: i[k] for k in ("width", "height") if k in i}}
                for i in ground_truth["images"]
            ],
            "categories": [
                {"id": classes[c["id"]], "name": c["name"]} for c in ground_truth["categories"]
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": images[a["image_id"]],
                    "category_id": classes[a["category_id"]],
                    "bbox": a["bbox"],
                    "area": a["bbox"][2] * a["bbox"][3] if a.get("area") is None else a["area"],
                    "iscrowd": a.get("iscrowd") or 0,
                    **{k: a[k] for k in ("segmentation",) if task == "segm" and k in a},
                }
                for number, a in enumerate(ground_truth["annotations"], start=1)
            ],
        }
    )
    as_hotcoco = _boxes if task == "bbox" else _masks
    evaluation = COCOeval(coco, coco.load_res(as_hotcoco(results, images, classes)), task)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def scores_of(evaluation: COCOeval, ground_truth: dict) -> dict:
    """The percentages that `average_precision` returns, from its evaluation."""
    classes = {id_: k for k, id_ in enumerate(sorted(c["id"] for c in ground_truth["categories"]))}
    # (IoU threshold, recall, class, area range, detections an image)
    precision = np.asarray(evaluation.eval["precision"])

    scores = OrderedDict()
    by_name = {
        "AP": precision[:, :, :, 0, -1],
        "AP50": precision[0, :, :, 0, -1],
        "AP75": precision[5, :, :, 0, -1],
        "APs": precision[:, :, :, 1, -1],
        "APm": precision[:, :, :, 2, -1],
        "APl": precision[:, :, :, 3, -1],
    }
    for category in ground_truth["categories"]:
        k = classes[category["id"]]
        by_name[f"AP-{category['name']}"] = precision[:, :, k, 0, -1]
        by_name[f"AP50-{category['name']}"] = precision[0, :, k, 0, -1]
    for name, values in by_name.items():
        values = values[values > -1]  # -1: no ground truth
        if values.size:
            scores[name] = float(100 * values.mean())
    return scores


def results_table(scores: dict, ground_truth: dict) -> str:
    """A table of AP, AP50 and the number of annotated boxes, in all and per class."""
    counts = Counter(a["category_id"] for a in ground_truth["annotations"])
    rows = [
        [c["name"], counts[c["id"]], scores.get(f"AP-{c['name']}"), scores.get(f"AP50-{c['name']}")]
        for c in ground_truth["categories"]
    ]
    rows.append(["all", sum(counts.values()), scores.get("AP"), scores.get("AP50")])
    table = tabulate(
        rows,
        headers=["class", "boxes", "AP", "AP50"],
        floatfmt=".1f",
        missingval="-",
        disable_numparse=[0],
    )
    overall = "  ".join(f"{name} {scores[name]:.1f}" for name in METRICS if name in scores)
    return f"{table}\n{overall}"


def _boxes(results: list[dict], images: dict[int, int], classes: dict[int, int]) -> np.ndarray:
    """(image, x, y, w, h, score, class) a row: read several times faster than dicts."""
    rows = (
        (images[r["image_id"]], *r["bbox"], r["score"], classes[r["category_id"]]) for r in results
    )
    values = np.fromiter(itertools.chain.from_iterable(rows), float, 7 * len(results))
    return values.reshape(-1, 7)


def _check_masks(ground_truth: dict, results: list[dict]) -> None:
    """Refuse run lengths that do not fit their image: hotcoco scores what they hold by chance."""
    images = (i for i in ground_truth["images"] if i.keys() >= {"width", "height"})
    sizes = {i["id"]: (i["width"], i["height"]) for i in images}
    for what, records in (("annotations", ground_truth["annotations"]), ("results", results)):
        for number, record in enumerate(records):
            mask, size = record.get("segmentation"), sizes.get(record["image_id"])
            if isinstance(mask, dict) and (problem := run_length_problem(mask, size)):
                raise UserError(
                    f"{what}[{number}], of image {record['image_id']}: its mask cannot be scored, "
                    f"{problem}; write its segmentation again"
                )


def _masks(results: list[dict], images: dict[int, int], classes: dict[int, int]) -> list[dict]:
    # without the box, by whose area they would count as small, medium or large
    return [
        {
            "image_id": images[r["image_id"]],
            "category_id": classes[r["category_id"]],
            "score": r["score"],
            "segmentation": r["segmentation"],
        }
        for r in results
    ]
