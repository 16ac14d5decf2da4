"""Copy-paste: an augmentation that shows objects of rare classes in more images."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from detection.data.resizing import resize
from detection.data.samples import Sample, as_bitmaps, hull, joined

PLACES = 10  # tried for each object

# All random numbers come from NumPy's global generator, like those of detectron2's augmentations.


class CopyPaste:
    """
    Pastes objects of other images, by their masks (Ghiasi et al., arXiv:2012.07177) or as boxes.

    A class is drawn first, then an image that shows it. A box comes with whatever else is in it and
    a border that fades into the image (Dwibedi et al., arXiv:1708.01642).
    """

    def __init__(
        self,
        p: float = 0.5,
        count: tuple[int, int] = (1, 3),
        scale: tuple[float, float] = (0.5, 1.5),
        balance: float = 1.0,
        border: float = 0.1,
        max_covered: float = 0.1,
    ):
        """
        Args:
            p: the probability.
            count: from, to; the number of objects, if there is room for them.
            scale: from, to; at 1 an object is as large as if its whole image were fitted in.
            balance: 0 draws classes as often as images show them, 1 all equally often, and more
                than 1 the rare ones more often.
            border: the width of what fades around a box, as a part of the box's sides.
            max_covered: the part of another object's box that may be hidden.
        """
        self.p = p
        self.count = tuple(count)
        self.scale = tuple(scale)
        self.balance = balance
        self.border = border
        self.max_covered = max_covered
        self._images: dict[int, list[int]] = {}

    def use_dataset(self, dataset: Sequence[dict]) -> None:
        """Look up which of detectron2's data set dicts show which classes."""
        images = defaultdict(list)
        for index, record in enumerate(dataset):
            objects = [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
            for label in sorted({a["category_id"] for a in objects}):
                images[label].append(index)
        self._images = dict(images)
        weights = np.array([len(shown) for shown in images.values()]) ** (1.0 - self.balance)
        self._shares = weights / weights.sum()

    def __call__(
        self, sample: Sample, draw: Callable[[int], Sample], min_area: float, min_visibility: float
    ) -> Sample:
        """
        Args:
            sample: the image to paste into.
            draw: reads an image of the data set, by its number.
            min_area: boxes that would have fewer square pixels are not pasted.
            min_visibility: the least part of other objects in a box that makes them come along.
        """
        if np.random.rand() >= self.p or not self._images:
            return sample
        for _ in range(np.random.randint(self.count[0], self.count[1] + 1)):
            label = np.random.choice(list(self._images), p=self._shares)
            source = draw(np.random.choice(self._images[label]))
            objects = np.flatnonzero(source.labels == label)
            if len(objects):
                number = np.random.choice(objects)
                part = self._cut_out(source, number, sample.image.shape, min_visibility)
                box = hull(part.boxes)
                if np.prod(box[2:] - box[:2]) >= min_area:
                    sample = self._paste(sample, part)
        return sample

    def _cut_out(
        self, source: Sample, number: int, shape: tuple[int, ...], min_visibility: float
    ) -> Sample:
        """An object with its surroundings, resized to fit into an image of that shape."""
        height, width = source.image.shape[:2]
        box = np.clip(source.boxes[number], 0, (width, height, width, height))
        margin = self.border * (box[2:] - box[:2])
        x1, y1 = np.floor(np.maximum(box[:2] - margin, 0)).astype(int)
        x2, y2 = np.ceil(np.minimum(box[2:] + margin, (width, height))).astype(int)
        scale = np.random.uniform(*self.scale) * min(shape[1] / width, shape[0] / height)
        scale = min(scale, shape[1] / (x2 - x1), shape[0] / (y2 - y1))
        new_width, new_height = (max(1, int(side * scale)) for side in (x2 - x1, y2 - y1))
        pixels = resize(source.image[y1:y2, x1:x2], new_height, new_width)
        if source.masks is None:
            inside = _covered(source.boxes, box) >= min_visibility
            inside[number] = True
            boxes = np.clip(source.boxes[inside], np.tile(box[:2], 2), np.tile(box[2:], 2))
            part = Sample(source.image, boxes, source.labels[inside])
        else:
            masks = [source.masks[number]]
            part = Sample(source.image, box[None], source.labels[[number]], masks)
        return part.moved(pixels, (x1, y1), (new_width / (x2 - x1), new_height / (y2 - y1)))

    def _paste(self, sample: Sample, part: Sample) -> Sample:
        (height, width), (h, w) = sample.image.shape[:2], part.image.shape[:2]
        for _ in range(PLACES):
            left, top = np.random.randint(width - w + 1), np.random.randint(height - h + 1)
            placed = np.add(hull(part.boxes), (left, top, left, top))
            covered = _covered(sample.boxes, placed)
            if (covered <= self.max_covered).all():
                break
        else:
            return sample
        image = sample.image.copy()
        window = image[top : top + h, left : left + w]
        opacity = _opacity(part)[:, :, None]
        window[:] = np.rint(opacity * part.image + (1 - opacity) * window)
        part = part.moved(image, (-left, -top))
        if sample.masks is not None:
            (hidden,) = as_bitmaps(part.masks, height, width)
            masks = [
                as_bitmaps([mask], height, width)[0] * (1 - hidden) if k else mask
                for mask, k in zip(sample.masks, covered > 0, strict=True)
            ]
            sample = sample._replace(masks=masks)
        return joined(image, [sample, part])


def _covered(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The part of each box (N, 4) that another box (4,) hides, from 0 to 1."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    return sides.clip(0).prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def _opacity(part: Sample) -> np.ndarray:
    """How much of an object's cut-out shows, from 0 to 1: float32 (H, W)."""
    height, width = part.image.shape[:2]
    if part.masks is not None:
        (mask,) = as_bitmaps(part.masks, height, width)
        return cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0)
    x1, y1, x2, y2 = hull(part.boxes)
    across, down = (
        np.interp(np.arange(length) + 0.5, (0, start, end, length), (0, 1, 1, 0))
        for length, start, end in ((width, x1, x2), (height, y1, y2))
    )
    return np.outer(down, across).astype(np.float32)
