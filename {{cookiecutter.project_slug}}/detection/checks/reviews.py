"""
Suggested corrections of annotations as a CSV: written for a person to decide, then applied.

A spreadsheet may have saved it: with a byte order mark, with semicolons, with decimal commas.
"""

import csv
import io
import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from detection.utils.errors import UserError
from detection.utils.files import write_atomically

WRONG_LABEL, MISSING_BOX, LOOSE_BOX = KINDS = ("wrong label", "missing box", "loose box")
FIX, KEEP, DROP = DECISIONS = ("fix", "keep", "drop")
TOLERANCE = 0.01  # pixels by which a box in the CSV may differ from that in the json

_BOX, _NEW_BOX = ("x", "y", "w", "h"), ("new_x", "new_y", "new_w", "new_h")
COLUMNS = ("decision", "number", "kind", "score", "file_name", "image_id", "annotation_id")
COLUMNS += ("class", "new_class", *_BOX, *_NEW_BOX)


class Suggestion(NamedTuple):
    """A probable error of an annotation; boxes are x, y, width, height in pixels."""

    kind: str  # one of KINDS
    score: float  # from 0 to 1: how sure it is
    image: dict  # of the json
    annotation: dict | None  # of the json; None for a missing box
    new_class: str
    new_box: tuple[float, ...]


def write_review(suggestions: list[Suggestion], names: dict[int, str], csv_file: str) -> None:
    """
    Write suggestions, numbered from 1 in their order, with an empty `decision` in each row.

    Args:
        names: {category id: name}.

    Raises:
        UserError: the file cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    for number, s in enumerate(suggestions, start=1):
        a = s.annotation
        old = ["", "", *[""] * 4]
        if a:
            old = [a.get("id", ""), names[a["category_id"]], *(f"{v:.2f}" for v in a["bbox"])]
        image = s.image.get("file_name", ""), s.image["id"]
        new = s.new_class, *old[2:], *(f"{v:.2f}" for v in s.new_box)
        rows.writerow(["", number, s.kind, f"{s.score:.3f}", *image, *old[:2], *new])
    write_atomically(csv_file, text.getvalue().encode("utf-8-sig", "replace"), csv_file, "")


def has_decisions(csv_file: str) -> bool:
    """Whether a review is there, and its first column has been filled in somewhere."""
    try:
        lines = Path(csv_file).read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError:
        return False
    return any(line[:1] not in (",", ";") for line in lines[1:])


def apply_review(splits: dict[str, dict], csv_file: str) -> dict[str, Counter]:
    """
    Correct the annotations of `splits` as the rows of a reviewed CSV say.

    `fix` gives a wrong label its new class, a loose box its new box, and adds a missing box; `drop`
    removes the annotation; `keep` and an empty decision change nothing. The new class and the new
    box may be edited.

    Args:
        splits: {name: parsed COCO json}; those corrected are replaced.

    Returns:
        {split: {what was done: number of annotations}}.

    Raises:
        UserError: the file cannot be read, or a row is malformed, or of other annotations.
    """
    changes = {split: Counter() for split in splits}
    copies = {
        split: {**coco, "annotations": list(coco.get("annotations") or [])}
        for split, coco in splits.items()
    }
    for number, row in _read(csv_file):
        where = f"{csv_file}: line {number}"
        decision, kind = row["decision"].strip().casefold(), row["kind"]
        if decision not in (*DECISIONS, ""):
            listed = ", ".join(DECISIONS)
            raise UserError(f"{where}: the decision is {row['decision']!r}; one of {listed}")
        if kind not in KINDS:
            raise UserError(f"{where}: the kind is {kind!r}; one of {', '.join(KINDS)}")
        if decision not in (FIX, DROP) or (kind == MISSING_BOX and decision == DROP):
            continue
        split, image_id = _find_image(copies, row, where)
        coco = copies[split]
        if kind == MISSING_BOX:
            added = _added(coco, image_id, row, where)
            coco["annotations"].append(added)
            changes[split]["missing boxes added"] += 1
            continue
        position = _find_annotation(coco, image_id, row, where)
        if decision == DROP:
            del coco["annotations"][position]
            changes[split]["annotations dropped"] += 1
        elif kind == WRONG_LABEL:
            id_ = _category_id(coco, row["new_class"], where)
            coco["annotations"][position] = {**coco["annotations"][position], "category_id": id_}
            changes[split]["labels corrected"] += 1
        else:
            # area and mask were those of the old box
            kept = {
                k: v
                for k, v in coco["annotations"][position].items()
                if k not in ("area", "segmentation")
            }
            bbox = _box(row, _NEW_BOX, where)
            coco["annotations"][position] = {**kept, "bbox": bbox, "area": bbox[2] * bbox[3]}
            changes[split]["boxes corrected"] += 1
    splits.update(copies)
    return changes


def _read(csv_file: str) -> list[tuple[int, dict[str, str]]]:
    try:
        text = Path(csv_file).read_text(encoding="utf-8-sig")
        semicolons = text.partition("\n")[0].count(";")
        reader = csv.DictReader(io.StringIO(text), delimiter=";" if semicolons else ",")
        missing = set(COLUMNS) - set(reader.fieldnames or [])
        if missing:
            raise UserError(
                f"{csv_file}: has no column {sorted(missing)[0]!r}; make labels writes such a file"
            )
        rows = [(reader.line_num, row) for row in reader]
    except OSError as e:
        raise UserError(f"{csv_file}: cannot be read ({e.strerror or e})") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{csv_file}: is not a CSV in UTF-8 ({e}); save it as one") from e
    for number, row in rows:
        if None in row or None in row.values():
            raise UserError(
                f"{csv_file}: line {number} has not {len(COLUMNS)} columns as the first"
            )
    return rows


def _find_image(splits: dict[str, dict], row: dict[str, str], where: str) -> tuple[str, int]:
    for split, coco in splits.items():
        for image in coco["images"]:
            is_id = str(image.get("id")) == row["image_id"].strip()
            if is_id and str(image.get("file_name", "")) == row["file_name"]:
                return split, image["id"]
    image = f"image {row['image_id']} ({row['file_name']})"
    raise UserError(f"{where}: {image} is in none of {', '.join(splits)}; name its json as well")


def _find_annotation(coco: dict, image_id: int, row: dict[str, str], where: str) -> int:
    box, category_id = _box(row, _BOX, where), _category_id(coco, row["class"], where)
    for position, a in enumerate(coco["annotations"]):
        if a.get("image_id") == image_id and a.get("category_id") == category_id:
            if max(abs(p - q) for p, q in zip(a["bbox"], box, strict=True)) <= TOLERANCE:
                return position
    raise UserError(
        f"{where}: the json has no {row['class']} with that box any more; make labels again"
    )


def _added(coco: dict, image_id: int, row: dict[str, str], where: str) -> dict:
    bbox = _box(row, _NEW_BOX, where)
    ids = [a["id"] for a in coco["annotations"] if type(a.get("id")) is int]
    return {
        "id": max(ids, default=0) + 1,
        "image_id": image_id,
        "category_id": _category_id(coco, row["new_class"], where),
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
        "iscrowd": 0,
    }


def _category_id(coco: dict, name: str, where: str) -> int:
    ids = {c["name"]: c["id"] for c in coco["categories"]}
    if name not in ids:
        raise UserError(f"{where}: class {name!r} is not one of {', '.join(map(repr, ids))}")
    return ids[name]


def _box(row: dict[str, str], columns: tuple[str, ...], where: str) -> list[float]:
    try:
        box = [float(row[column].replace(",", ".")) for column in columns]
    except ValueError:
        box = [math.nan]
    if not all(map(math.isfinite, box)) or min(box[2:]) < 0:
        raise UserError(f"{where}: {', '.join(columns)} need four numbers, of width and height > 0")
    return box
