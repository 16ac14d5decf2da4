"""COCO annotations as arrays, and counts of what is in them; without detectron2."""

from dataclasses import dataclass

import numpy as np

from detection.checks.records import schema_error
from detection.data.coco import read_coco, validate
from detection.utils.text import listed

MAX_SMALL = 32**2  # square pixels: an object up to this area is small to COCO's metrics
RARE = 1.5  # a class is rare if another has this many times its boxes


@dataclass(frozen=True)
class Split:
    """
    One annotation file, or several merged: N boxes in I images, C classes.

    Crowd regions are counted and otherwise left out, as detectron2 does not train on them.
    """

    name: str
    json_file: str
    file_names: list[str]  # I, as the json has them
    sizes: np.ndarray  # (I, 2): width, height in pixels
    boxes: np.ndarray  # (N, 4): x, y, width, height in pixels
    areas: np.ndarray  # (N,): of the objects, by which COCO sorts them; of a mask if there is one
    labels: np.ndarray  # (N,): positions in the class names
    owners: np.ndarray  # (N,): positions in `file_names`
    crowds: int
    unusable: int  # annotations of an unknown image or class, or without four finite numbers

    @property
    def has_area(self) -> np.ndarray:
        """Bool (N,): boxes wider and higher than 0."""
        return (self.boxes[:, 2:] > 0).all(axis=1)

    @property
    def counts(self) -> np.ndarray:
        """(I,): boxes in each image."""
        return np.bincount(self.owners, minlength=len(self.file_names))

    def presence(self, num_classes: int) -> np.ndarray:
        """Bool (I, C): whether the image has a box of the class."""
        present = np.zeros((len(self.file_names), num_classes), bool)
        present[self.owners, self.labels] = True
        return present


def read_splits(json_files: dict[str, str]) -> tuple[list[str], list[Split]]:
    """
    Read {name: COCO json}; returns the class names of all files, by id and file, and the splits;
    UserError if a file is not a COCO file, or a category or an image in it is malformed.
    """
    cocos = {name: read_coco(json_file) for name, json_file in json_files.items()}
    class_names = []
    for name, coco in cocos.items():
        validate(coco, json_files[name])
        names = [c["name"] for c in sorted(coco["categories"], key=lambda c: c["id"])]
        class_names += [n for n in dict.fromkeys(names) if n not in class_names]
    splits = [_split(n, json_files[n], coco, class_names) for n, coco in cocos.items()]
    return class_names, splits


def merge(splits: list[Split]) -> tuple[Split, np.ndarray]:
    """All splits as one, and (I,) positions in `splits` that say whose image it is."""
    starts = np.cumsum([0, *(len(s.file_names) for s in splits)])
    merged = Split(
        " and ".join(s.name for s in splits),
        ", ".join(s.json_file for s in splits),
        [f for s in splits for f in s.file_names],
        np.concatenate([s.sizes for s in splits]),
        np.concatenate([s.boxes for s in splits]),
        np.concatenate([s.areas for s in splits]),
        np.concatenate([s.labels for s in splits]),
        np.concatenate([s.owners + start for s, start in zip(splits, starts, strict=False)]),
        sum(s.crowds for s in splits),
        sum(s.unusable for s in splits),
    )
    return merged, np.repeat(np.arange(len(splits)), [len(s.file_names) for s in splits])


def count_classes(split: Split, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(C,) boxes of each class, and (C,) images that have any."""
    boxes = np.bincount(split.labels, minlength=num_classes)
    return boxes, split.presence(num_classes).sum(axis=0)


def co_occurrence(split: Split, num_classes: int) -> np.ndarray:
    """(C, C) images that have both classes; the diagonal: images that have the class."""
    present = split.presence(num_classes).astype(np.float32)  # exact up to 2**24 images
    return (present.T @ present).astype(int)


def box_sides(boxes: np.ndarray) -> np.ndarray:
    """(N,): the side of the square that has the area of the box, in the boxes' unit."""
    return np.sqrt(boxes[:, 2] * boxes[:, 3])


def box_ratios(boxes: np.ndarray) -> np.ndarray:
    """(N,): height / width, which is what detectron2 calls an aspect ratio."""
    return boxes[:, 3] / boxes[:, 2]


def centre_map(split: Split, cells: int) -> np.ndarray:
    """(cells, cells): boxes by the cell of their centre, rows from the image's top."""
    centres = (split.boxes[:, :2] + split.boxes[:, 2:] / 2) / split.sizes[split.owners]
    edges = np.linspace(0, 1, cells + 1)
    return np.histogram2d(centres[:, 1], centres[:, 0], (edges, edges))[0].astype(int)


def outside_by(split: Split) -> np.ndarray:
    """(N,): how many pixels a box reaches beyond its image, at most 0 if it does not."""
    ends = split.boxes[:, :2] + split.boxes[:, 2:] - split.sizes[split.owners]
    return np.concatenate([-split.boxes[:, :2], ends], axis=1).max(axis=1)


def what_stands_out(class_names: list[str], splits: list[Split]) -> list[str]:
    """Sentences on what one would want to know first; `splits[0]` is what one trains on."""
    train = splits[0]
    boxes, images = count_classes(train, len(class_names))
    lines = []
    present = np.flatnonzero(boxes)
    if len(present) > 1:
        rarest, commonest = present[boxes[present].argmin()], boxes.argmax()
        times = boxes[commonest] / boxes[rarest]
        lines.append(
            f"{class_names[rarest]} is the rarest class of {train.name}: "
            f"{_plural(boxes[rarest], 'box', 'boxes')} ({share(boxes[rarest], boxes.sum())}) in "
            f"{_plural(images[rarest], 'image')}; {class_names[commonest]}, the commonest, has "
            f"{times:.0f} times as many."
            if times >= RARE
            else f"No class of {train.name} is rare: they have from {boxes[rarest]:,} to "
            f"{boxes[commonest]:,} boxes."
        )
    for split in splits:
        counts = count_classes(split, len(class_names))[0]
        absent = [n for n, count in zip(class_names, counts, strict=True) if not count]
        if absent:
            lines.append(f"Not in {split.name} at all: {listed(absent)}.")
    special = [_count_special(split) for split in splits]
    for text in special[0]:
        texts = [f"{o[text]} of {s.name}" for s, o in zip(splits, special, strict=True) if o[text]]
        if texts:
            lines.append(f"{text}: {', '.join(texts)}.")
    sizes = {s.name: _image_sizes(s) for s in splits}
    texts = {text: [n for n, t in sizes.items() if t == text] for text in sizes.values()}
    return lines + [f"Images of {' and '.join(names)}: {text}." for text, names in texts.items()]


def _count_special(split: Split) -> dict[str, str]:
    """{what to know of: how much of it there is, "" for none}."""
    boxes, images = len(split.boxes), len(split.file_names)
    counts = {
        "Images without boxes": ((split.counts == 0).sum(), images),
        "Boxes that COCO's metrics count as small, of an area up to 32 × 32 px": (
            (split.areas <= MAX_SMALL).sum(),
            boxes,
        ),
        "Boxes without area": ((~split.has_area).sum(), boxes),
        "Boxes more than a pixel outside their image": ((outside_by(split) > 1).sum(), boxes),
        "Crowd regions, which training leaves out": (split.crowds, boxes + split.crowds),
        "Annotations that cannot be used (make check says why)": (
            split.unusable,
            boxes + split.crowds + split.unusable,
        ),
    }
    return {
        text: f"{count:,} ({share(count, whole)})" if count else ""
        for text, (count, whole) in counts.items()
    }


def _image_sizes(split: Split) -> str:
    sizes, times = np.unique(split.sizes, axis=0, return_counts=True)
    width, height = sizes[times.argmax()].astype(int)
    if len(sizes) == 1:
        return f"all are {width} × {height} px"
    return f"{len(sizes):,} sizes, {share(times.max(), times.sum())} are {width} × {height} px"


def share(part: float, whole: float) -> str:
    """A percentage of at most three digits; something small is "0.02%", never "0%"."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return f"{percent:.1g}%" if percent >= 0.01 else "<0.01%"
    return f"{percent:.1f}%" if 0 < percent < 99.95 else f"{percent:.0f}%"


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _split(name: str, json_file: str, coco: dict, class_names: list[str]) -> Split:
    numbers = {name: k for k, name in enumerate(class_names)}
    label_of = {c["id"]: numbers[c["name"]] for c in coco["categories"]}
    position_of = {image["id"]: position for position, image in enumerate(coco["images"])}
    boxes, areas, labels, owners = [], [], [], []
    crowds = unusable = 0
    for annotation in coco.get("annotations") or []:
        is_malformed = schema_error(annotation, ("image_id", "category_id", "bbox"))
        if (
            is_malformed
            or annotation["image_id"] not in position_of
            or annotation["category_id"] not in label_of
        ):
            unusable += 1
        elif annotation.get("iscrowd"):
            crowds += 1
        else:
            x, y, w, h = annotation["bbox"]
            boxes.append((x, y, w, h))
            area = annotation.get("area")
            areas.append(area if type(area) in (int, float) else w * h)
            labels.append(label_of[annotation["category_id"]])
            owners.append(position_of[annotation["image_id"]])
    return Split(
        name,
        json_file,
        [i["file_name"] for i in coco["images"]],
        np.array([(i["width"], i["height"]) for i in coco["images"]], float),
        np.array(boxes, float).reshape(-1, 4),
        np.array(areas, float),
        np.array(labels, int),
        np.array(owners, int),
        crowds,
        unusable,
    )
