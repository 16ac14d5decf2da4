"""Reads a submission back as the competition will, and notes what is wrong with it."""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from detection.data.results import read_results
from detection.utils.errors import UserError
from detection.utils.text import printable
from detection.workshop.submission.formats import FORMATS, Format
from detection.workshop.submission.writing import image_names, labels_of

SHOWN = 3  # cases that a finding names
# what is wrong, in the plural, and what helps
ERRORS = {
    "surplus": ("columns that the format lacks", "leave them out, as index=False does in pandas"),
    "order": ("columns in another order", "the competition takes theirs"),
    "cells": ("rows with another number of cells than the header", "write the file again"),
    "unknown": ("rows of an image that is not in the json", "predict on that json's images"),
    "repeated": ("images with more than one row", "put all boxes of an image into one"),
    "absent": ("images without a row", "an image without boxes needs one too"),
    "blank": ("rows without a field", "the format has another text for images without boxes"),
    "fields": ("rows that end within a box", "the file is cut off, or in another format"),
    "numbers": ("boxes with something that is not a finite number", "see --format for the order"),
    "labels": ("boxes of an unknown class", "the format says how classes are called"),
    "negative": ("boxes of negative width or height", "is it corners, or width and height?"),
    "outside": ("boxes more than a pixel outside their image", "is it the right --format?"),
    "sample_columns": ("columns that differ from the sample's", "is it the right --format?"),
    "not_in_sample": ("images that the sample lacks", "predict on the images that it asks for"),
    "only_in_sample": ("images that only the sample has", "predict on all that it asks for"),
}
WARNINGS = {
    "no_area": ("boxes without area", "they never count as found"),
    "scores": ("scores outside 0 to 1", "is it the right --format?"),
}


@dataclass
class Submission:
    """
    A submission as it was read.

    Attributes:
        results: the boxes that can be used, as COCO results: (x, y, w, h) in pixels, with the
            annotation file's own ids.
        cases: {key of ERRORS or WARNINGS: where that is wrong}.
        images: how many have a row.
    """

    results: list[dict] = field(default_factory=list)
    cases: dict[str, list[str]] = field(default_factory=dict)
    images: int = 0

    def add(self, kind: str, case: str) -> None:
        self.cases.setdefault(kind, []).append(case)

    @property
    def is_sound(self) -> bool:
        return not self.cases.keys() & ERRORS

    def findings(self) -> list[str]:
        """One line for each kind: how many, what, the first cases, what helps; errors first."""
        lines = []
        for severity, kinds in (("error", ERRORS), ("warning", WARNINGS)):
            for kind, (what, remedy) in kinds.items():
                if cases := self.cases.get(kind):
                    more = ", …" if len(cases) > SHOWN else ""
                    text = f"{len(cases)} {what}: {', '.join(cases[:SHOWN])}{more}; {remedy}"
                    lines.append(f"{severity}: {printable(text)}")
        return lines


def read_submission(path: str, coco: dict, json_file: str, form: Format) -> Submission:
    """
    Read a submission; what cannot be used is noted in `cases` and left out.

    If the format has no class, all boxes are of the first category.

    Args:
        path: the submission, a csv or COCO results.
        coco: the parsed annotation file.
        json_file: its path, for errors.
        form: of the submission.

    Raises:
        UserError: it is empty, cut off within quotes, not UTF-8, or lacks a column; or it is
            malformed COCO results.
    """
    names, labels = image_names(coco, json_file, form), labels_of(coco, json_file, form)
    sizes = {i["id"]: _size(i) for i in coco["images"]}
    submission = Submission()
    if form.suffix == ".json":
        for number, result in enumerate(read_results(path, json_file, coco, labels)):
            _take(submission, result, sizes[result["image_id"]], f"results[{number}]")
        submission.images = len({r["image_id"] for r in submission.results})
        return submission

    header, rows = read_csv(path)
    image_column, boxes_column = columns_of(path, header, form)
    for name in header:
        if name not in form.columns:
            submission.add("surplus", short(name) if name else "one without a name")
    if header != list(form.columns) and set(header) <= set(form.columns):
        submission.add("order", f"{','.join(header)} for {','.join(form.columns)}")
    ids = {name: id_ for id_, name in names.items()}
    category_ids = {label: id_ for id_, label in labels.items()}
    seen = set()
    for line, row in rows:
        if len(row) != len(header):
            submission.add("cells", f"line {line}")
            continue
        name, text = row[image_column], row[boxes_column]
        if name not in ids or name in seen:
            kind = "repeated" if name in seen else "unknown"
            submission.add(kind, f"line {line} {short(name)}")
            continue
        seen.add(name)
        image_id = ids[name]
        for result in _boxes(submission, text, line, category_ids, sizes[image_id], form):
            result["image_id"] = image_id
            _take(submission, result, sizes[image_id], f"line {line}")
    submission.images = len(seen)
    for name in ids:
        if name not in seen:
            submission.add("absent", short(name))
    return submission


def read_csv(path: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """
    The header, and (line, cells) of each row; UserError if the file cannot be read, is empty, not
    UTF-8, or cut off within quotes.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror or e}); name a submission") from e
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: byte {e.start} is not UTF-8; save it in that encoding") from e
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    limit = csv.field_size_limit(2**31 - 1)  # an image may have thousands of boxes
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as e:
        raise UserError(f"{path}: line {reader.line_num}: {e}; write the file again") from e
    finally:
        csv.field_size_limit(limit)  # of the whole process, other files included
    if not rows:
        raise UserError(f"{path}: is empty; write the file again")
    return rows[0][1], iter(rows[1:])


def columns_of(path: str, header: list[str], form: Format) -> tuple[int, int]:
    """The positions of the columns of images and of boxes; UserError if one is missing."""
    for column in form.columns:
        if header.count(column) != 1:
            alike = [n for n, f in FORMATS.items() if f.columns and set(f.columns) == set(header)]
            hint = f"; --format {' or '.join(alike)} has these" if alike else ""
            raise UserError(
                f"{path}: lacks the column {column!r}, or has it twice; the header is "
                f"{short(','.join(header))}, the format has {','.join(form.columns)}{hint}"
            )
    by_content = {content: header.index(name) for name, content in form.columns.items()}
    return by_content["image"], by_content["boxes"]


def _boxes(
    submission: Submission,
    text: str,
    line: int,
    category_ids: dict[str, int],
    size: tuple[float, float],
    form: Format,
) -> Iterator[dict]:
    """The boxes of a row, as COCO results without an image id."""
    fields, values, empty = form.box.split(), text.split(), form.empty.split()
    if values == empty:
        return
    if not values:
        submission.add("blank", f"line {line}, for {form.empty!r}")
    if len(values) % len(fields):
        submission.add("fields", f"line {line} has {len(values)} for {form.box!r}")
        return
    only = None if "label" in fields else next(iter(category_ids.values()))
    nothing = empty[fields.index("label")] if empty and only is None else None
    scale_x, scale_y = size if form.normalized else (1, 1)
    for start in range(0, len(values), len(fields)):
        box = dict(zip(fields, values[start : start + len(fields)], strict=True))
        label = box.pop("label", None)
        category_id = category_ids.get(label, only)
        if category_id is None:
            if label != nothing:
                submission.add("labels", f"line {line} {short(label)}")
            continue
        try:
            box = {key: float(v) for key, v in box.items()}
        except ValueError:
            box = {"score": math.nan}
        if not all(map(math.isfinite, box.values())):
            at = " ".join(values[start : start + len(fields)])
            submission.add("numbers", f"line {line} {short(at)}")
            continue
        x, y = box.get("x", box.get("x1")), box.get("y", box.get("y1"))
        w = box["w"] if "w" in box else box["x2"] - x
        h = box["h"] if "h" in box else box["y2"] - y
        yield {
            "category_id": category_id,
            "bbox": [x * scale_x, y * scale_y, w * scale_x, h * scale_y],
            "score": box["score"],
        }


def _take(submission: Submission, result: dict, size: tuple[float, float], where: str) -> None:
    """Add a box to the results if it is one; note what is odd about it."""
    x, y, w, h = result["bbox"]
    at = f"{where} ({x:g}, {y:g}, {w:g}, {h:g})"
    if w < 0 or h < 0:
        submission.add("negative", at)
        return
    submission.results.append(result)
    if not (w and h):
        submission.add("no_area", at)
    width, height = size
    if min(x, y) < -1 or x + w > width + 1 or y + h > height + 1:
        submission.add("outside", f"{at} of {width} × {height}")
    if not 0 <= result["score"] <= 1:
        submission.add("scores", f"{where} {result['score']:g}")


def _size(image: dict) -> tuple[float, float]:
    """Width and height; infinite if the json does not have them."""
    size = image.get("width"), image.get("height")
    return size if all(type(v) in (int, float) and v > 0 for v in size) else (math.inf, math.inf)


def short(text: str) -> str:
    """The text in quotes, cut if it is long."""
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
