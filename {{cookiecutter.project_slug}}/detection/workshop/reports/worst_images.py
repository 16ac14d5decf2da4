"""The images that cost a model most, with their boxes and its detections, and why."""

import os
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from detection.evaluation.error_analysis import box_costs, image_costs
from detection.evaluation.matching import (
    BACKGROUND,
    BOTH,
    CLASS,
    CORRECT,
    DUPLICATE,
    IGNORED,
    PLACE,
    BoxTable,
    Matches,
)
from detection.utils.drawing import Box
from detection.utils.images import ImageError
from detection.utils.thumbnails import read_thumbnails
from detection.workshop.reports.page import PICTURE_SIDE, PageBox, picture

MAX_REASONS = 5
MIN_COST = 0.05  # of a reason that is written out; what costs less is summed up
MAX_IMAGES = 100  # of W&B's table
MAX_NAMED = 6  # boxes, all of which are named; of more only what is wrong


def worst_section(
    coco: dict,
    class_names: list[str],
    matches: Matches,
    image_root: str,
    count: int,
    min_score: float,
) -> dict:
    """
    Pictures of the `count` images that cost most, those that cost nothing left out.

    Args:
        coco: the annotation file; the ranks of its images' ids are those in `matches`.
        class_names: by the rank of their ids.
        image_root: what the images' file names are relative to.
        min_score: detections below it are counted, and not drawn.

    Returns:
        `cards`, the worst first, and `missing`, a line on images that cannot be read or "".
    """
    images = sorted(coco["images"], key=lambda image: image["id"])
    truth, detections = matches.truth, matches.detections
    costs, box_cost = image_costs(matches), box_costs(matches)
    chosen = _choose(costs, count)
    annotated, detected = (table.by_image(len(images)) for table in (truth, detections))
    paths = [os.path.join(image_root, str(images[i].get("file_name", ""))) for i in chosen]
    cards, unreadable = [], []
    pictures = read_thumbnails(paths, PICTURE_SIDE, "drawing the worst images")
    for i, pixels in zip(chosen, pictures, strict=True):
        file_name = str(images[i].get("file_name", images[i]["id"]))
        if isinstance(pixels, ImageError):
            unreadable.append(f"{file_name} ({pixels.reason})")
            pixels = None
        # the best score last, and so on top
        drawn = detected[i][detections.scores[detected[i]] >= min_score][::-1]
        halves = {
            "annotated": (truth, annotated[i], ~matches.found, False),
            "detected": (detections, drawn, matches.kinds != CORRECT, True),
        }
        cards.append(
            {
                "file_name": file_name,
                "cost": f"{costs[i]:.2f}",
                "boxes": f"{len(annotated[i])} annotated, {len(drawn)} drawn of "
                f"{len(detected[i])} found",
                "reasons": _reasons(matches, *box_cost, annotated[i], detected[i], class_names),
                **{
                    half: _draw(pixels, images[i], f"{file_name}, {half}", *boxes, class_names)
                    for half, boxes in halves.items()
                },
            }
        )
    line = ""
    if unreadable:
        line = (
            f"{len(unreadable)} of {len(chosen)} images are missing or broken; their boxes are "
            f"drawn on nothing. The first: {unreadable[0]}; --image-root sets their folder."
        )
    return {"cards": cards, "missing": line}


class WorstImage(NamedTuple):
    """An image that costs much, its boxes, and the detections that are counted."""

    file_name: str
    pixels: np.ndarray  # uint8 (H, W, 3) RGB
    size: tuple[int, int]  # (width, height) in whose pixels the boxes are
    truth: list[Box]
    detections: list[Box]
    class_names: list[str]
    cost: float
    false_positives: int
    misses: int


def worst_images(
    coco: dict,
    class_names: list[str],
    matches: Matches,
    image_root: str,
    count: int,
    min_score: float,
    max_side: int = 1024,
) -> list[WorstImage]:
    """
    The images that `worst_section` shows, at most MAX_IMAGES, those that can be read.

    Args:
        coco, class_names, matches, image_root, count: as there.
        min_score: of the detections that count; a box that none of them finds is a miss.
        max_side: the longer side of a picture in pixels.
    """
    images = sorted(coco["images"], key=lambda image: image["id"])
    truth, detections = matches.truth, matches.detections
    costs = image_costs(matches)
    chosen = _choose(costs, min(count, MAX_IMAGES))
    annotated, detected = (table.by_image(len(images)) for table in (truth, detections))
    counts = detections.scores >= min_score
    found = set(matches.partners[counts & (matches.kinds == CORRECT)].tolist())
    is_false = counts & ~np.isin(matches.kinds, (CORRECT, IGNORED))
    paths = [os.path.join(image_root, str(images[i].get("file_name", ""))) for i in chosen]
    pictures = read_thumbnails(paths, max_side, "pictures for W&B")
    worst = []
    for i, pixels in zip(chosen, pictures, strict=True):
        if isinstance(pixels, ImageError):
            continue
        boxes = [int(b) for b in annotated[i] if matches.is_real[b]]
        drawn = [int(d) for d in detected[i] if counts[d]]
        size = tuple(max(int(images[i].get(k) or 0), 1) for k in ("width", "height"))
        worst.append(
            WorstImage(
                str(images[i].get("file_name", images[i]["id"])),
                pixels[:, :, ::-1],
                size,
                [_box(truth, b) for b in boxes],
                [_box(detections, d, float(detections.scores[d])) for d in drawn],
                class_names,
                round(float(costs[i]), 4),
                int(is_false[drawn].sum()),
                sum(b not in found for b in boxes),
            )
        )
    return worst


def _choose(costs: np.ndarray, count: int) -> list[int]:
    return [int(i) for i in np.argsort(-costs, kind="stable")[:count] if costs[i] > 0]


def _box(table: BoxTable, position: int, score: float | None = None) -> Box:
    x, y, width, height = map(float, table.boxes[position])
    return Box(int(table.labels[position]), (x, y, x + width, y + height), score)


def _reasons(
    matches: Matches,
    missing: np.ndarray,
    false: np.ndarray,
    annotated: np.ndarray,
    detected: np.ndarray,
    names: list[str],
) -> list[str]:
    """What an image costs, the most costly first."""
    costly = [(missing[b], _missed(matches, b, missing[b], names)) for b in annotated]
    costly += [(false[d], _false(matches, d, names)) for d in detected]
    costly = sorted((c for c in costly if c[0] > 0), key=lambda c: -c[0])
    reasons = [text for cost, text in costly[:MAX_REASONS] if cost >= MIN_COST]
    others = [cost for cost, _ in costly[len(reasons) :]]
    if others:
        more = "more errors cost" if len(others) > 1 else "more error costs"
        reasons.append(f"{len(others)} {more} {sum(others):.2f}")
    return reasons


def _missed(matches: Matches, box: int, cost: float, names: list[str]) -> str:
    name = names[matches.truth.labels[box]]
    if matches.found[box]:
        return f"unsure: {name} found with a score of {1 - cost:.2f} only"
    width, height = matches.truth.boxes[box, 2:]
    return f"missed: {name} of {width:.0f} × {height:.0f} px"


def _false(matches: Matches, d: int, names: list[str]) -> str:
    what = f"{names[matches.detections.labels[d]]} {matches.detections.scores[d]:.2f}"
    partner, iou = matches.partners[d], matches.overlaps[d]
    other = names[matches.truth.labels[partner]] if partner >= 0 else ""
    return {
        CLASS: f"classification: {what} on a box of {other}, IoU {iou:.2f}",
        PLACE: f"localisation: {what} has an IoU of only {iou:.2f} with its box",
        BOTH: f"both: {what} near a box of {other}, IoU {iou:.2f}",
        DUPLICATE: f"duplicate: {what} on a box that is found already",
        BACKGROUND: f"background: {what} where nothing is annotated",
    }.get(matches.kinds[d], "")


def _draw(
    pixels: np.ndarray | None,
    image: dict,
    label: str,
    table: BoxTable,
    members: np.ndarray,
    is_wrong: np.ndarray,
    has_scores: bool,
    names: list[str],
) -> Markup:
    """Some boxes of one image of the json, thick where wrong."""
    boxes = []
    for b in members:
        text = names[table.labels[b]] + (f" {table.scores[b]:.2f}" if has_scores else "")
        is_named = bool(is_wrong[b]) or len(members) <= MAX_NAMED
        boxes.append(PageBox(int(table.labels[b]), table.boxes[b], text, is_named, is_wrong[b]))
    size = tuple(max(int(image.get(k) or 0), 1) for k in ("width", "height"))
    return picture(
        pixels, size, boxes, f"{label}: {', '.join(b.text for b in boxes) or 'no boxes'}"
    )
