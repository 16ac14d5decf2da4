"""The images that cost a model most, with their boxes and its detections, and why."""

import os

import numpy as np
from markupsafe import Markup

from detection.evaluation.error_analysis import box_costs, image_costs
from detection.evaluation.matching import (
    BACKGROUND,
    BOTH,
    CLASS,
    CORRECT,
    DUPLICATE,
    PLACE,
    Boxes,
    Matches,
)
from detection.utils.images import ImageError
from detection.utils.thumbnails import read_thumbnails
from detection.workshop.reports.page import PageBox, picture

PICTURE = 420  # pixels of a picture's longer side
MOST_REASONS = 5
WORTH_TELLING = 0.05  # what costs less is summed up
FEW = 6  # boxes, all of which are named; of more only what is wrong


def worst_section(
    coco: dict,
    class_names: list[str],
    truth: Boxes,
    detections: Boxes,
    matches: Matches,
    image_root: str,
    count: int,
    min_score: float,
) -> dict:
    """
    Pictures of the `count` images that cost most, those that cost nothing left out.

    Args:
        coco: the annotation file; its images' ranks by id are those of the boxes.
        min_score: detections below it are counted, and not drawn.

    Returns:
        `cards`, the worst first, and `missing`, the line on images that are not there.
    """
    images = sorted(coco["images"], key=lambda image: image["id"])
    costs = image_costs(truth, detections, matches, len(images))
    chosen = [int(i) for i in np.argsort(-costs, kind="stable")[:count] if costs[i] > 0]
    of_truth, of_detections = (boxes.of_image(len(images)) for boxes in (truth, detections))
    missing, false = box_costs(truth, detections, matches)
    paths = [os.path.join(image_root, str(images[i].get("file_name", ""))) for i in chosen]
    cards, unreadable = [], []
    pictures = read_thumbnails(paths, PICTURE, "drawing the worst images")
    for i, pixels in zip(chosen, pictures, strict=True):
        width, height = (max(int(images[i].get(k) or 0), 1) for k in ("width", "height"))
        file_name = str(images[i].get("file_name", images[i]["id"]))
        if isinstance(pixels, ImageError):
            unreadable.append(f"{file_name} ({pixels.reason})")
            pixels = None
        annotated, detected = of_truth[i], of_detections[i]
        drawn = detected[detections.scores[detected] >= min_score][::-1]  # the best over others
        is_wrong = ~matches.found, matches.kinds != CORRECT
        told = [
            (f"{file_name}, annotated", truth, annotated, is_wrong[0], False),
            (f"{file_name}, detected", detections, drawn, is_wrong[1], True),
        ]
        told = [
            _draw(pixels, (width, height), label, boxes, members, wrong, class_names, scored)
            for label, boxes, members, wrong, scored in told
        ]
        costly = [(missing[b], _missed(truth, matches, b, missing[b], class_names, detections))
                  for b in annotated]  # fmt: skip
        costly += [(false[d], _false(truth, detections, matches, d, class_names)) for d in detected]
        costly = sorted((c for c in costly if c[0] > 0), key=lambda c: -c[0])
        reasons = [text for cost, text in costly[:MOST_REASONS] if cost >= WORTH_TELLING]
        others = costly[len(reasons) :]
        if others:
            more = "more errors cost" if len(others) > 1 else "more error costs"
            reasons.append(f"{len(others)} {more} {sum(cost for cost, _ in others):.2f}")
        cards.append(
            {
                "file_name": file_name,
                "cost": f"{costs[i]:.2f}",
                "boxes": f"{len(annotated)} annotated, {len(drawn)} drawn of {len(detected)} found",
                "annotated": told[0],
                "detected": told[1],
                "reasons": reasons,
            }
        )
    line = ""
    if unreadable:
        line = (
            f"{len(unreadable)} of {len(chosen)} images are missing or broken; their boxes are "
            f"drawn on nothing. The first: {unreadable[0]}; --image-root says where they lie."
        )
    return {"cards": cards, "missing": line}


def _missed(
    truth: Boxes, matches: Matches, box: int, cost: float, names: list[str], detections: Boxes
) -> str:
    name = names[truth.labels[box]]
    if matches.found[box]:
        return f"unsure: {name} found with a score of {1 - cost:.2f} only"
    width, height = truth.boxes[box, 2:]
    return f"missed: {name} of {width:.0f} × {height:.0f} px"


def _false(truth: Boxes, detections: Boxes, matches: Matches, d: int, names: list[str]) -> str:
    what = f"{names[detections.labels[d]]} {detections.scores[d]:.2f}"
    partner, iou = matches.partners[d], matches.overlaps[d]
    other = names[truth.labels[partner]] if partner >= 0 else ""
    return {
        CLASS: f"classification: {what} on a box of {other}, IoU {iou:.2f}",
        PLACE: f"localisation: {what} has an IoU of only {iou:.2f} with its box",
        BOTH: f"both: {what} near a box of {other}, IoU {iou:.2f}",
        DUPLICATE: f"duplicate: {what} on a box that is found already",
        BACKGROUND: f"background: {what} where nothing is annotated",
    }.get(matches.kinds[d], "")


def _draw(
    pixels: np.ndarray | None,
    size: tuple[int, int],
    label: str,
    boxes: Boxes,
    members: np.ndarray,
    wrong: np.ndarray,
    names: list[str],
    has_scores: bool,
) -> Markup:
    """Some boxes of one image, thick where wrong; `size` is its width and height in pixels."""
    wide, high = (v * PICTURE / max(size) for v in size)
    if pixels is not None:
        high, wide = pixels.shape[:2]
    shown = []
    for b in members:
        x, y, w, h = boxes.boxes[b] / np.tile(size, 2)
        text = names[boxes.labels[b]] + (f" {boxes.scores[b]:.2f}" if has_scores else "")
        is_named = wrong[b] or len(members) <= FEW
        shown.append(PageBox(int(boxes.labels[b]), (x, y, x + w, y + h), text, is_named, wrong[b]))
    label = f"{label}: {', '.join(box.text for box in shown) or 'no boxes'}"
    return picture(pixels, (max(round(wide), 1), max(round(high), 1)), shown, label)
