"""Reads detections in COCO's results format, whoever made them; without detectron2."""

import json
import math
import reprlib
from collections.abc import Container
from pathlib import Path

from detection.errors import UserError
from detection.run_lengths import run_length_problem


def read_results(
    results_file: str, json_file: str, image_ids: Container[int], category_ids: Container[int]
) -> list[dict]:
    """
    Read `[{image_id, category_id, bbox: [x, y, w, h], score}]`, boxes in pixels; it may be empty.

    Args:
        results_file: the json to read.
        json_file: the COCO json that the detections belong to, to be named in errors.
        image_ids: the ids that it has.
        category_ids: likewise.

    Raises:
        UserError: the file cannot be read, a record is malformed, or one of its ids is unknown.
    """
    try:
        results = json.loads(Path(results_file).read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise UserError(f"{results_file}: cannot be read ({e.strerror or e})") from e
    except (ValueError, RecursionError) as e:
        raise UserError(f"{results_file}: is no valid json ({e}); write it again") from e
    if not isinstance(results, list):
        raise UserError(f"{results_file}: is no COCO results json, which is a list of detections")
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


def _is_result(result) -> bool:
    try:
        ids = result["image_id"], result["category_id"]
        x, y, w, h = result["bbox"]
        numbers = x, y, w, h, result["score"]
        is_finite = all(type(v) in (int, float) and math.isfinite(v) for v in numbers)
    except (KeyError, OverflowError, TypeError, ValueError):
        return False
    return is_finite and min(w, h) >= 0 and all(type(id_) is int for id_ in ids)
