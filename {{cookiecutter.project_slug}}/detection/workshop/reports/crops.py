"""Parts of images with their boxes: suggested corrections, and examples of each class."""

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from detection.checks.reviews import KINDS, LOOSE_BOX, MISSING_BOX, WRONG_LABEL, Suggestion
from detection.utils.images import ImageError
from detection.utils.thumbnails import read_thumbnails
from detection.workshop.analysis.dataset_statistics import Split
from detection.workshop.reports.page import PageBox, picture

MARGIN = 0.6  # around the boxes, as a part of their longer side
MIN_SIDE = 48  # pixels of a crop
SUGGESTION_SIDE, EXAMPLE_SIDE = 300, 110  # pixels on the page
EXAMPLES = 12  # of a class


class Crop(NamedTuple):
    """What to show of an image: the surroundings of `bboxes`, with `boxes` drawn."""

    path: str
    size: tuple[float, float]  # width and height of the image as the json has it
    bboxes: Sequence[Sequence[float]]  # x, y, width, height in pixels
    boxes: list[PageBox]
    label: str

    @property
    def area(self) -> np.ndarray:
        """Left, top, right, bottom in pixels of the image, at least one apart."""
        boxes = np.array(self.bboxes, float)
        low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
        side = max((high - low).max() * (1 + 2 * MARGIN), MIN_SIDE)
        middle = np.clip((low + high) / 2, 0, self.size)
        low = np.clip(middle - side / 2, 0, np.array(self.size) - 1)
        return np.concatenate([low, np.clip(middle + side / 2, low + 1, self.size)])


def draw_crops(crops: list[Crop], max_side: int, title: str) -> tuple[list[Markup], str]:
    """The crops' pictures, and a line on images that cannot be read, or ""."""
    regions = [tuple((crop.area / np.tile(crop.size, 2)).tolist()) for crop in crops]
    thumbnails = read_thumbnails([crop.path for crop in crops], max_side, title, regions)
    pictures, unreadable = [], {}
    for crop, pixels in zip(crops, thumbnails, strict=True):
        if isinstance(pixels, ImageError):
            unreadable[crop.path], pixels = pixels.reason, None
        left, top, right, bottom = crop.area
        boxes = [box._replace(bbox=np.subtract(box.bbox, (left, top, 0, 0))) for box in crop.boxes]
        pictures.append(picture(pixels, (right - left, bottom - top), boxes, crop.label))
    line = ""
    if unreadable:
        path, reason = next(iter(unreadable.items()))
        line = f"{len(unreadable)} images are missing or broken. The first: {path} ({reason})."
    return pictures, line


def suggestion_section(
    coco: dict, suggestions: list[Suggestion], image_root: str, count: int
) -> dict:
    """
    Pictures of the first `count` suggestions.

    Returns:
        `cards`, `counts`, {kind: number of suggestions}, and `missing`, a line on images that
        cannot be read, or "".
    """
    categories = sorted(coco["categories"], key=lambda c: c["id"])
    labels = {c["name"]: label for label, c in enumerate(categories)}
    names = {c["id"]: c["name"] for c in categories}
    by_image = defaultdict(list)
    for annotation in coco["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    crops, texts = [], []
    for s in suggestions[:count]:
        old = names[s.annotation["category_id"]] if s.annotation else ""
        boxes = [
            PageBox(labels[names[a["category_id"]]], a["bbox"], names[a["category_id"]])
            for a in by_image[s.image["id"]]
            if a is not s.annotation and not a.get("iscrowd")
        ]
        text = {
            WRONG_LABEL: f"{old} → {s.new_class}",
            MISSING_BOX: f"add {s.new_class}",
            LOOSE_BOX: f"fit {s.new_class}",
        }[s.kind]
        if s.kind == LOOSE_BOX:
            boxes.append(PageBox(labels[old], s.annotation["bbox"], old, is_named=True))
        boxes.append(PageBox(labels[s.new_class], s.new_box, text, is_named=True, is_odd=True))
        bboxes = [s.new_box, *([s.annotation["bbox"]] if s.annotation else [])]
        file_name = str(s.image.get("file_name", s.image["id"]))
        size = tuple(max(float(s.image.get(k) or 0), 1.0) for k in ("width", "height"))
        path = os.path.join(image_root, file_name)
        crops.append(Crop(path, size, bboxes, boxes, f"{file_name}: {s.kind}, {text}"))
        texts.append({"kind": s.kind, "text": text, "score": s.score, "file_name": file_name})
    pictures, missing = draw_crops(crops, SUGGESTION_SIDE, "drawing suggestions")
    return {
        "cards": [{**text, "picture": drawn} for text, drawn in zip(texts, pictures, strict=True)],
        "counts": {kind: sum(s.kind == kind for s in suggestions) for kind in KINDS},
        "missing": missing,
    }


def example_strips(class_names: list[str], split: Split, image_root: str) -> list[dict]:
    """Boxes of each class, evenly spread over the file: a wrong label shows at a glance."""
    strips, crops = [], []
    for label, name in enumerate(class_names):
        members = np.flatnonzero((split.labels == label) & split.has_area)
        places = np.linspace(0, len(members) - 1, min(EXAMPLES, len(members))).round().astype(int)
        for box in members[places]:
            owner = split.owners[box]
            path = os.path.join(image_root, split.file_names[owner])
            bbox = split.boxes[box]
            drawn = [PageBox(label, bbox, f"{name}, {split.file_names[owner]}")]
            crops.append(Crop(path, tuple(split.sizes[owner]), [bbox], drawn, drawn[0].text))
        strips.append({"label": label, "name": name, "count": len(places)})
    pictures, _ = draw_crops(crops, EXAMPLE_SIDE, "drawing examples of each class")
    for strip in strips:
        strip["pictures"] = [pictures.pop(0) for _ in range(strip["count"])]
    return strips
