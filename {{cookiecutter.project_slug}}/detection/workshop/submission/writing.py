"""Turns COCO results into the file that a competition takes, in one of FORMATS."""

import csv
import io
import json
import math
import os
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal
from itertools import chain
from pathlib import Path, PurePosixPath

from detection.checks.records import IMAGE
from detection.data.coco import category_id_map, read_coco, validate
from detection.data.results import read_results
from detection.evaluation import extra_classes
from detection.evaluation.competition_metrics import DEFAULT_METRIC
from detection.utils.errors import UserError
from detection.utils.files import write_atomically
from detection.workshop.submission.formats import DEFAULT_FORMAT, FORMATS, Format


def find_format(name: str) -> Format:
    """The format of that name, this project's with DEFAULT_METRIC; UserError if it is unknown."""
    if name not in FORMATS:
        raise UserError(f"there is no format {name!r}; FORMATS has {', '.join(FORMATS)}")
    form = FORMATS[name]
    return replace(form, metric=DEFAULT_METRIC) if name == DEFAULT_FORMAT else form


def write_submission(
    results_file: str,
    json_file: str,
    output: str | None = None,
    format_name: str = DEFAULT_FORMAT,
    min_score: float = -math.inf,
    max_per_image: int | None = None,
) -> str:
    """
    Write a submission: every image of the annotation file once, its boxes by descending score.

    Args:
        results_file: COCO results, `[{image_id, category_id, bbox: [x, y, w, h], score}]`, boxes
            in pixels, with the annotation file's own ids.
        json_file: the COCO json of the images to be submitted; it needs no annotations.
        output: the file to write, all of it or nothing; None is `submission` + the suffix.
        format_name: a key of FORMATS.
        min_score: boxes below it are left out, which mAP never rewards.
        max_per_image: only so many boxes of each image, the best ones.

    Returns:
        One line that says what was written.

    Raises:
        UserError: an input is malformed or does not fit the other, or the output cannot be written.
    """
    form = find_format(format_name)
    if max_per_image is not None and max_per_image < 1:
        raise UserError(f"at most {max_per_image} boxes per image leave none; give 1 or more")
    coco = read_coco(json_file)
    names = image_names(coco, json_file, form)
    labels = labels_of(coco, json_file, form)

    boxes = defaultdict(list)
    results = read_results(results_file, json_file, coco, labels)
    if form.has_hierarchy:
        parents = extra_classes.read_hierarchy(extra_classes.HIERARCHY, coco["categories"])
        results = extra_classes.with_parents(results, parents) if parents else results
    for result in results:
        if result["score"] >= min_score:
            boxes[result["image_id"]].append(result)
    boxes = {
        image_id: sorted(boxes[image_id], key=lambda r: -r["score"])[:max_per_image]
        for image_id in names
    }

    if form.suffix == ".json":
        text = json.dumps(list(chain.from_iterable(boxes.values())))
    else:
        text = _csv(coco["images"], names, labels, boxes, form)
    output = output or f"submission{form.suffix}"
    _write(output, text)
    counts = [len(results) for results in boxes.values()]
    written = f"{len(counts)} images, {sum(counts)} boxes, {counts.count(0)} images without boxes"
    return f"{output}: {format_name}, {written}"


def image_names(coco: dict, json_file: str, form: Format) -> dict[int, str]:
    """{image id: its name in a submission}; UserError if one is malformed or two share a name."""
    validate(coco, json_file, IMAGE if form.normalized else ("id", "file_name"))
    names = {}
    for number, image in enumerate(coco["images"]):
        file_name = image["file_name"]
        name = PurePosixPath(file_name).stem if form.image == "stem" else file_name
        name += form.image_suffix
        if names.setdefault(name, image["id"]) != image["id"]:
            raise UserError(
                f"{json_file}: images[{number}].file_name: another image is called {name!r} too in "
                "this format; rename one"
            )
    return {id_: name for name, id_ in names.items()}


def labels_of(coco: dict, json_file: str, form: Format) -> dict[int, str]:
    """{category id: its name in a submission}; UserError if a category is not usable."""
    positions = category_id_map(coco, json_file)
    if form.label == "index":
        return {id_: str(position) for id_, position in positions.items()}
    if form.label == "category_id":
        return {id_: str(id_) for id_ in positions}
    names = {c["id"]: c["name"] for c in coco["categories"]}
    blank = [name for name in names.values() if len(name.split()) != 1]
    if blank:  # it would end the field
        raise UserError(f"{json_file}: category {blank[0]!r} has a blank and cannot be a label")
    return names


def _csv(images: list[dict], names: dict, labels: dict, boxes: dict, form: Format) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(form.columns)
    for image in images:
        if form.rows:
            writer.writerows(form.rows(image, boxes[image["id"]]))
            continue
        size = (image["width"], image["height"]) if form.normalized else (1, 1)
        texts = [_box(r, labels[r["category_id"]], size, form) for r in boxes[image["id"]]]
        row = {"image": names[image["id"]], "boxes": " ".join(texts) or form.empty}
        writer.writerow([row[content] for content in form.columns.values()])
    return text.getvalue()


def _box(result: dict, label: str, size: tuple[float, float], form: Format) -> str:
    """The fields of a box; `size` is what (x, y) are divided by."""
    x, y, w, h = (v / s for v, s in zip(result["bbox"], 2 * size, strict=True))
    values = {"x": x, "y": y, "w": w, "h": h, "x1": x, "y1": y, "x2": x + w, "y2": y + h}
    # with fewer digits small boxes cross an IoU threshold, and AP differs by a tenth or so
    texts = {key: f"{v:.8f}" if form.normalized else f"{v:.5f}" for key, v in values.items()}
    texts["label"] = label
    # nine significant digits tell all 32-bit floats apart: scores that become equal cost AP;
    # never as 1e-05, which not every scorer reads
    texts["score"] = format(Decimal(f"{result['score']:.9g}"), "f")
    return " ".join(texts[field] for field in form.box.split())


def _write(output: str, text: str) -> None:
    path = Path(output).resolve()  # through a link, to the file itself
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{output}: is not a file, so it cannot be replaced by one")
    write_atomically(path, text.encode("utf-8"), output)
