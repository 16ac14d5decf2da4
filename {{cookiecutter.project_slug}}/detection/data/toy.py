"""
Draws a small COCO data set with this project's class names.

A class is a shape filled with a texture (triangle with stripes, star with dots ...). Colours are
drawn at random for every object, so they say nothing about the class. Objects differ in size and
angle, hide parts of each other and leave the image, but at least 60% of each can be seen.
Boxes, areas and polygons are those of the visible part, as in COCO.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from detection.classes import CLASSES
from detection.data.coco import read_coco, write_json
from detection.utils.errors import UserError

DESCRIPTION = "Toy data set, drawn by tools/make_toy_dataset.py"
MIN_VISIBLE = 0.6  # of an object's own area
OBJECTS_PER_IMAGE = (3, 7)
RADIUS = (0.07, 0.24)  # of the image side
TEXTURE_PERIOD = (0.05, 0.08)  # of the image side
MAX_ANGLE = np.pi / 6


def _on_circle(radii: list[float], n: int) -> np.ndarray:
    """(n, 2): points around the circle, from the top, at the given radii (repeated as needed)."""
    angle = np.arange(n) * 2 * np.pi / n
    radius = np.resize(radii, n)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


_ARC = np.linspace(0, np.pi, 16)

# Outlines in a unit circle, each one closed polygon of (x, y).
SHAPES = {
    "square": np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
    "triangle": _on_circle([1.0], 3),
    "disc": _on_circle([0.9], 32),
    "star": _on_circle([1.0, 0.42], 10),
    "bar": np.array([(-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3)]),
    "cross": np.array(
        [
            *[(-0.3, -0.9), (0.3, -0.9), (0.3, -0.3), (0.9, -0.3), (0.9, 0.3), (0.3, 0.3)],
            *[(0.3, 0.9), (-0.3, 0.9), (-0.3, 0.3), (-0.9, 0.3), (-0.9, -0.3), (-0.3, -0.3)],
        ]
    ),
    "half disc": np.stack([np.cos(_ARC), 0.5 - np.sin(_ARC)], axis=1),
    "arrow": np.array(
        [(-1, -0.28), (0.1, -0.28), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.28), (-1, 0.28)]
    ),
    "corner": np.array(
        [(-0.8, -0.8), (-0.1, -0.8), (-0.1, 0.1), (0.8, 0.1), (0.8, 0.8), (-0.8, 0.8)]
    ),
    "hourglass": np.array(
        [(-0.75, -0.9), (0.75, -0.9), (0.22, 0), (0.75, 0.9), (-0.75, 0.9), (-0.22, 0)]
    ),
}

# How much of the second colour a point (u, v) of the object has. One period is one unit.
TEXTURES = {
    "solid": lambda u, v: np.zeros_like(u),
    "stripes": lambda u, v: np.sin(2 * np.pi * u) > 0,
    "checker": lambda u, v: np.sin(np.pi * u) * np.sin(np.pi * v) > 0,
    "dots": lambda u, v: np.cos(2 * np.pi * u) + np.cos(2 * np.pi * v) > 0.6,
    "grid": lambda u, v: np.maximum(np.cos(2 * np.pi * u), np.cos(2 * np.pi * v)) > 0.6,
    "rings": lambda u, v: np.sin(2 * np.pi * np.hypot(u, v)) > 0,
    "rays": lambda u, v: np.sin(5 * np.arctan2(v, u)) > 0,
    "zigzag": lambda u, v: np.sin(2 * np.pi * (v + np.abs(u % 1 - 0.5))) > 0,
    "halves": lambda u, v: u + v > 0,
    "waves": lambda u, v: 0.5 + 0.5 * np.sin(np.pi * (u + v)),
}


def class_look(index: int) -> tuple[str, str]:
    """(shape, texture) of the class at `index`: all different for the first 100 classes."""
    shapes, textures = list(SHAPES), list(TEXTURES)
    row, column = divmod(index, len(shapes))
    return shapes[column], textures[(3 * column + row) % len(textures)]


def class_sequence(rng: np.random.Generator, num_classes: int) -> Iterator[int]:
    """Class indices without end, each class once a round: even a tiny set has them all."""
    while True:
        yield from rng.permutation(num_classes).tolist()


def _color(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> np.ndarray:
    """One BGR colour of a random hue, float32 (3,) in 0..255."""
    hsv = np.float32([[[rng.uniform(0, 360), rng.uniform(*saturation), rng.uniform(*value)]]])
    return 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0]


def draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A blotchy surface with a few strokes across it: (size, size, 3) float32 BGR, 0..255."""
    image = np.empty((size, size, 3), np.float32)
    image[:] = _color(rng, saturation=(0.0, 0.35), value=(0.3, 0.75))
    for cells, strength in ((3, 40), (9, 20), (size // 8, 14)):
        blotches = rng.uniform(-strength, strength, (cells, cells, 1)).astype(np.float32)
        blotches = blotches + rng.uniform(-5, 5, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(blotches, (size, size), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 5)):
        start, end = rng.integers(0, size, (2, 2)).tolist()
        color = _color(rng, saturation=(0.0, 0.5), value=(0.2, 0.9)).tolist()
        cv2.line(image, start, end, color, int(rng.integers(1, 2 + size // 64)), cv2.LINE_AA)
    return image


def _draw_object(
    rng: np.random.Generator, size: int, label: int
) -> tuple[np.ndarray, np.ndarray, tuple[slice, slice], float]:
    """
    Draw an object of class `label`.

    Returns:
        Its pixels (h, w, 3) float32, its coverage (h, w) float32 in 0..1, the slices of the image
        that they fill, and the object's whole area in square pixels, as if nothing hid it.
    """
    shape, texture = class_look(label)
    radius = size * np.exp(rng.uniform(*np.log(RADIUS)))
    center = rng.uniform(0, size, 2)
    angle = rng.uniform(-MAX_ANGLE, MAX_ANGLE)
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    outline = center + radius * (SHAPES[shape] * [stretch, 1 / stretch]) @ rotation.T

    x0, y0 = np.clip(np.floor(outline.min(0)), 0, size - 1).astype(int)
    x1, y1 = np.clip(np.ceil(outline.max(0)) + 1, 1, size).astype(int)
    coverage = np.zeros((y1 - y0, x1 - x0), np.uint8)
    # Points are in 1/16 pixels here; pixel centres are at half coordinates.
    points = np.round((outline - [x0 + 0.5, y0 + 0.5]) * 16).astype(np.int32)
    cv2.fillPoly(coverage, [points], 255, lineType=cv2.LINE_AA, shift=4)

    offset = np.mgrid[y0:y1, x0:x1][::-1] + 0.5 - center[:, None, None]
    period = size * rng.uniform(*TEXTURE_PERIOD)
    u, v = np.tensordot(rotation.T, offset, 1) / period
    mix = TEXTURES[texture](u, v)[..., None].astype(np.float32)
    light = _color(rng, saturation=(0.2, 0.9), value=(0.8, 1.0))
    dark = _color(rng, saturation=(0.3, 1.0), value=(0.15, 0.4))
    first, second = (light, dark) if rng.random() < 0.5 else (dark, light)
    pixels = first * (1 - mix) + second * mix
    area = cv2.contourArea(outline.astype(np.float32))
    return pixels, coverage / np.float32(255), np.s_[y0:y1, x0:x1], area


def draw_scene(
    rng: np.random.Generator, size: int, labels: Iterator[int]
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """
    Draw an image with objects of the next classes in `labels`.

    Returns:
        The image (size, size, 3) uint8 BGR; instances (size, size) int32, the number of the object
        that is seen at each pixel, from 1, or 0; and the class index of objects 1, 2, ...
    """
    image = draw_background(rng, size)
    instances = np.zeros((size, size), np.int32)
    drawn, areas, visible = [], [0.0], np.zeros(1)
    for _ in range(rng.integers(OBJECTS_PER_IMAGE[0], OBJECTS_PER_IMAGE[1] + 1)):
        label = next(labels)
        for _ in range(1000):  # places to try; the first object of an image always finds one
            pixels, coverage, where, area = _draw_object(rng, size, label)
            covers = coverage > 0.5
            hidden = np.bincount(instances[where][covers], minlength=len(visible))
            remaining = np.append(visible - hidden, covers.sum())
            if (remaining[1:] >= MIN_VISIBLE * np.append(areas, area)[1:]).all():
                break
        else:
            raise RuntimeError(f"no room for another object in a {size} px image")
        drawn.append(label)
        areas.append(area)
        visible = remaining
        image[where] += coverage[..., None] * (pixels - image[where])
        instances[where][covers] = len(drawn)
    image += rng.integers(-7, 8, image.shape[:2], dtype=np.int8)[..., None]
    return np.clip(image, 0, 255).astype(np.uint8), instances, drawn


def visible_annotation(mask: np.ndarray) -> dict:
    """`bbox` (xywh), `area` and `segmentation` of a bool mask (H, W), in pixels."""
    mask = mask.astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in contours:
        if len(contour) > 2:
            # It runs through the centres of the outermost pixels, which are at half coordinates.
            polygons.append((contour.reshape(-1) + 0.5).tolist())
        else:  # a sliver, one pixel wide
            x, y, w, h = cv2.boundingRect(contour)
            polygons.append([x, y, x + w, y, x + w, y + h, x, y + h])
    return {
        "bbox": list(cv2.boundingRect(mask)),
        "area": int(mask.sum()),
        "segmentation": polygons,
    }


def make_split(image_dir: Path, split: str, num_images: int, size: int, seed: int) -> dict:
    """Write the images of one split, and return its COCO json."""
    rng = np.random.default_rng([seed, *split.encode()])  # splits share no random numbers
    labels = class_sequence(rng, len(CLASSES))
    images, annotations = [], []
    for image_id in range(1, num_images + 1):
        image, instances, drawn = draw_scene(rng, size, labels)
        file_name = f"toy_{split}_{image_id:05d}.jpg"
        if not cv2.imwrite(str(image_dir / file_name), image, [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise UserError(f"{image_dir / file_name}: cannot be written")
        images.append({"id": image_id, "file_name": file_name, "width": size, "height": size})
        for number, label in enumerate(drawn, start=1):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    **visible_annotation(instances == number),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    return {
        "info": {"description": DESCRIPTION, "seed": seed},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def make_toy_dataset(
    output: Path, num_train: int = 400, num_val: int = 100, size: int = 256, seed: int = 0
) -> dict[str, dict]:
    """
    Write train.json, val.json and their images; the same arguments give the same files.

    Args:
        output: the folder; its images go into `images`.
        num_train, num_val: images of each split.
        size: side of the images in pixels.
        seed: another one draws other images.

    Returns:
        {"train": its COCO json, "val": its COCO json}.

    Raises:
        UserError: there are too many classes, other data are in the folder, or it cannot be
            written.
    """
    most = len(SHAPES) * len(TEXTURES)
    if len(CLASSES) > most:
        raise UserError(f"toy data have at most {most} classes, and detection/classes.py has more")
    image_dir = output / "images"
    files = {split: output / f"{split}.json" for split in ("train", "val")}
    for file in files.values():
        if file.exists() and not _is_toy(file):
            raise UserError(f"{file}: is not a toy data set; choose another --output")
    try:
        image_dir.mkdir(parents=True, exist_ok=True)
        for split, file in files.items():
            file.unlink(missing_ok=True)
            for old in image_dir.glob(f"toy_{split}_*.jpg"):
                old.unlink()
    except OSError as e:
        raise UserError(f"{e.filename}: cannot be written ({e.strerror})") from e
    made = {
        split: make_split(image_dir, split, number, size, seed)
        for split, number in {"train": num_train, "val": num_val}.items()
    }
    for split, coco in made.items():  # last: a folder that has them is complete
        write_json(coco, str(files[split]))
    return made


def _is_toy(json_file: Path) -> bool:
    try:
        info = read_coco(str(json_file)).get("info")
    except UserError:
        return False
    return isinstance(info, dict) and info.get("description") == DESCRIPTION
