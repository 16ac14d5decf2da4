"""Detects small objects in tiles of an image, and merges what the tiles show of each."""

from collections.abc import Sequence

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances, pairwise_iou

from detection.data.batching import detect
from detection.data.mapper import planes
from detection.data.samples import hull
from detection.data.tiles import Tiles, Window
from detection.utils.images import read_image

# a detection that ends so near to a tile's edge, as a part of the tile's size, is cut by it
EDGE = 0.01


def with_tiles(cfg, model: torch.nn.Module) -> torch.nn.Module:
    """Make a detector of images look at their tiles too, if `cfg.tiles.enabled`."""
    tiles = Tiles.of(cfg.tiles)
    if tiles is None:
        return model
    mapper = cfg.dataloader.test.mapper
    return DetectorInTiles(
        model, tiles, instantiate(mapper.augmentations), instantiate(mapper.image_format)
    )


class DetectorInTiles(torch.nn.Module):
    """
    Detects in tiles of each image, and in the image itself, and merges the detections.

    The model may be anything that takes detectron2's inputs and returns `instances` with boxes;
    masks are merged too.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tiles: Tiles,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
    ):
        """
        Args:
            model: the detector.
            tiles: the settings.
            augmentations: the test loader's, which resize a tile as they do an image.
            image_format: of the model's input, BGR or RGB.
        """
        super().__init__()
        self.model = model
        self.training = model.training  # what an evaluation restores
        self._tiles = tiles
        self._augmentations = T.AugmentationList(list(augmentations))
        self._is_bgr = image_format == "BGR"

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """
        Args:
            batched_inputs: detectron2's, with `image` (C, H, W) and, as its mapper leaves them,
                `file_name`, `height` and `width` of the original image.

        Returns:
            [{"instances": Instances}], boxes as (x1, y1, x2, y2) in pixels of the original image.
        """
        return [{"instances": self._detect(image)} for image in batched_inputs]

    def _detect(self, image: dict) -> Instances:
        width, height = image["width"], image["height"]
        tiles = self._tiles.windows(width, height)
        if len(tiles) == 1:
            return self._run([image])[0]
        pixels = read_image(image["file_name"])
        found = []
        for start in range(0, len(tiles), self._tiles.batch_size):
            batch = tiles[start : start + self._tiles.batch_size]
            found += map(_Found, self._run([self._input(pixels, tile) for tile in batch]), batch)
        if self._tiles.full_image:
            window = Window(0, 0, width, height)
            found.append(_Found(self._run([{**image, "original": pixels}])[0], window))
        return _merged(found, (width, height), self._tiles)

    def _run(self, inputs: list[dict]) -> list[Instances]:
        return [output["instances"].to("cpu") for output in detect(self.model, inputs)]

    def _input(self, pixels: np.ndarray, tile: Window) -> dict:
        left, top, width, height = tile
        part = np.ascontiguousarray(pixels[top : top + height, left : left + width])
        augmented = T.AugInput(part)
        self._augmentations(augmented)
        tensor = torch.from_numpy(planes(augmented.image, self._is_bgr))
        return {"image": tensor, "height": height, "width": width, "original": part}


class _Found:
    """
    What one view of an image, a tile or the whole, shows.

    Attributes:
        window: the part of the image.
        boxes: float64 (N, 4), corners in pixels of the image.
        scores, labels: (N,).
        masks: N parts of bitmaps with their upper left corners in the image; None: no masks.
    """

    def __init__(self, instances: Instances, window: Window):
        origin = np.array(window[:2])
        self.window = window
        corners = instances.pred_boxes.tensor.numpy().astype(float)
        self.boxes = corners + np.tile(origin, 2)
        self.scores = instances.scores.numpy()
        self.labels = instances.pred_classes.numpy()
        self.masks = None
        if instances.has("pred_masks"):  # only what is in the boxes: tiles have many
            starts = np.floor(corners[:, :2]).clip(0).astype(int)
            ends = np.ceil(corners[:, 2:]).astype(int)
            self.masks = [
                (mask[y1:y2, x1:x2].clone(), (x1 + origin[0], y1 + origin[1]))
                for mask, (x1, y1), (x2, y2) in zip(instances.pred_masks, starts, ends, strict=True)
            ]


def _merged(found: list[_Found], size: tuple[int, int], tiles: Tiles) -> Instances:
    boxes, scores, labels = (
        np.concatenate([getattr(f, name) for f in found]) for name in ("boxes", "scores", "labels")
    )
    owners = np.repeat(np.arange(len(found)), [len(f.boxes) for f in found])
    objects = merge(boxes, scores, labels, owners, [f.window for f in found], size, tiles)
    objects = sorted(objects, key=lambda o: -scores[o[1][0]])[: tiles.max_per_image]
    best = np.array([members[0] for _, members in objects], dtype=int)
    merged = Instances(
        size[::-1],
        pred_boxes=Boxes(torch.tensor([box.tolist() for box, _ in objects]).reshape(-1, 4)),
        scores=torch.from_numpy(scores[best]),
        pred_classes=torch.from_numpy(labels[best]),
    )
    if all(f.masks is not None for f in found):
        masks = [mask for f in found for mask in f.masks]
        merged.pred_masks = torch.zeros((len(objects), *size[::-1]), dtype=torch.bool)
        for whole, (box, members) in zip(merged.pred_masks, objects, strict=True):
            # the mask of the box that was chosen, or of all parts of a cut object
            chosen = [k for k in members if (boxes[k] == box).all()][:1] or members
            for part, (x, y) in (masks[k] for k in chosen):
                whole[y : y + part.shape[0], x : x + part.shape[1]] |= part
    return merged


def merge(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    owners: np.ndarray,
    windows: Sequence[Window],
    size: tuple[int, int],
    tiles: Tiles,
) -> list[tuple[np.ndarray, list[int]]]:
    """
    Merge what several views of an image, its tiles and the whole, show of the same objects.

    1. A box that a tile's edge cuts, or a box of the whole image that is smaller than the overlap
       of tiles, is dropped if it is inside another tile, away from the edges: that one shows more.
    2. Two boxes of a class in different views are one object if they agree in what both views show:
       their IoU there is over the threshold, whatever is beyond. The most similar ones are joined
       first. No object has two boxes of one view, which the detector itself has told apart.
    3. An object's box is its best one that is not cut, or encloses all of them if all are. Its
       score is the best one.

    The methods of fusion.py compare whole boxes, and so leave the parts of a cut object apart;
    those that average scores also lower that of an object that few tiles show.

    Args:
        boxes: (N, 4), corners (x1, y1, x2, y2) in pixels of the image.
        scores, labels: (N,).
        owners: (N,), positions in `windows`.
        windows: of the views.
        size: the image's width and height.
        tiles: the settings.

    Returns:
        Of each object its box (4,) and the positions of all its boxes, by descending score.
    """
    edge = EDGE * tiles.size
    views = np.array([(x, y, x + w, y + h) for x, y, w, h in windows], dtype=float)
    is_tile = (views[:, 2:] - views[:, :2] < size).any(axis=1)
    # nothing is cut by the edges of the image
    inner = np.where(views == (0, 0, *size), np.array((-1, -1, 1, 1)) * np.inf, views)
    own = inner[owners]
    cuts = np.hstack([boxes[:, :2] <= own[:, :2] + edge, boxes[:, 2:] >= own[:, 2:] - edge])
    is_cut = cuts.any(axis=1)
    is_small = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) <= tiles.overlap * tiles.size
    is_kept = ~is_cut & (is_tile[owners] | ~is_small)
    elsewhere = np.zeros(len(boxes), bool)
    for view in inner[is_tile]:
        elsewhere |= (boxes[:, :2] > view[:2] + edge).all(axis=1) & (
            boxes[:, 2:] < view[2:] - edge
        ).all(axis=1)
    is_kept |= ~elsewhere

    # widened: tiles that do not overlap would have nothing in common
    views += np.array((-1, -1, 1, 1)) * edge
    reach = np.where(cuts, views[owners], boxes)
    of_view = [np.flatnonzero(is_kept & (owners == number)) for number in range(len(views))]
    starts, ends = (
        function(views[:, None, side], views[None, :, side])
        for function, side in ((np.maximum, slice(0, 2)), (np.minimum, slice(2, 4)))
    )
    similar = []
    for pair in np.argwhere(np.triu((starts < ends).all(axis=2), 1)):
        start, end = starts[tuple(pair)], ends[tuple(pair)]
        shown = []
        for number in pair:
            clipped = np.clip(reach[of_view[number]], (*start, *start), (*end, *end))
            has_area = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
            shown.append((of_view[number][has_area], Boxes(torch.from_numpy(clipped[has_area]))))
        (first, first_boxes), (second, second_boxes) = shown
        overlaps = pairwise_iou(first_boxes, second_boxes).numpy()
        overlaps *= labels[first][:, None] == labels[second]
        for k, j in np.argwhere(overlaps > tiles.iou_threshold):
            similar.append((overlaps[k, j], first[k], second[j]))

    groups = {k: [k] for k in np.flatnonzero(is_kept).tolist()}
    for _, a, b in sorted(similar, key=lambda s: -s[0]):
        joined = groups[a] + groups[b]
        if len(set(owners[joined])) == len(joined):
            groups |= dict.fromkeys(joined, joined)
    objects = []
    for group in {id(group): group for group in groups.values()}.values():
        members = sorted(group, key=lambda k: -scores[k])
        whole = [k for k in members if not is_cut[k]]
        box = boxes[whole[0]] if whole else hull(boxes[members])
        objects.append((box, members))
    return objects
