"""The anchors of a config, and how well their shapes fit a data set's boxes."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from detection.config import load_config
from detection.data.resizing import ResizeSquare
from detection.modeling.anchors import by_level
from detection.utils.errors import UserError
from detection.utils.files import write_atomically

# nodes that have anchors: the RPN of two-stage models, or a one-stage model itself
ANCHOR_OWNERS = ("model.proposal_generator", "model")
MAX_LOSS = 0.01  # of the boxes: more may fit no anchor at one threshold, for a gain at another
MAX_SHAPES = 20_000  # boxes, evenly spread, that anchors are fitted to


@dataclass(frozen=True)
class Anchors:
    """The A anchor shapes of a config, in pixels of the image that the model sees."""

    node: str  # the config key of the generator
    shapes: np.ndarray  # (A, 2): width, height
    levels: list[int]  # how many different sizes each level of the pyramid has
    bases: list[float]  # the smallest of each
    threshold: float  # IoU from which an anchor learns an object
    keeps_best: bool  # an object below the threshold with all still gets its best anchor

    @property
    def sizes(self) -> np.ndarray:
        """The different sizes, ascending: sides of squares of the same area, in pixels."""
        return np.unique(np.sqrt(self.shapes.prod(axis=1)).round(2))

    @property
    def ratios(self) -> np.ndarray:
        """The different ratios of height to width, ascending."""
        return np.unique((self.shapes[:, 1] / self.shapes[:, 0]).round(3))


def find_anchors(cfg: DictConfig) -> Anchors | None:
    """The anchors that `cfg.model` is built with; None if it has none, or rotated ones."""
    for owner in ANCHOR_OWNERS:
        node = f"{owner}.anchor_generator"
        matcher = OmegaConf.select(cfg, f"{owner}.anchor_matcher")
        if matcher is None or OmegaConf.select(cfg, node) is None:
            continue
        generator = instantiate(OmegaConf.select(cfg, node))
        corners = [level.detach().cpu().numpy() for level in generator.cell_anchors]
        if any(level.shape[1] != 4 for level in corners):  # rotated boxes
            return None
        shapes = [level[:, 2:] - level[:, :2] for level in corners]
        sizes = [np.unique(np.sqrt(s.prod(axis=1)).round(2)) for s in shapes]
        return Anchors(
            node,
            np.concatenate(shapes),
            [len(level) for level in sizes],
            [float(level[0]) for level in sizes],
            float(matcher.thresholds[-1]),
            bool(matcher.get("allow_low_quality_matches", False)),
        )
    return None


def resize_factors(cfg: DictConfig, sizes: np.ndarray) -> np.ndarray:
    """(I, 2): the factors by which the config's test resize changes widths and heights `sizes`."""
    nodes = OmegaConf.select(cfg, "dataloader.test.mapper.augmentations") or []
    # other steps change the content, or need boxes as well
    steps = [step for step in map(_build, nodes) if isinstance(step, _RESIZES)]
    unique, inverse = np.unique(sizes.astype(int), axis=0, return_inverse=True)
    seen = [_resized(steps, width, height) for width, height in unique]
    return (np.array(seen).reshape(-1, 2) / unique)[inverse.reshape(-1)]


def best_iou(shapes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """
    (N,): the IoU of each (width, height) with the anchor shape (A, 2) that fits it best.

    Both have the same centre; on the image, where anchors stand on a grid, the IoU is at most this.
    """
    best = np.zeros(len(shapes))
    areas = shapes.prod(axis=1)
    for anchor in anchors:  # one after the other: (N, A) would be large
        overlap = np.minimum(shapes, anchor).prod(axis=1)
        best = np.maximum(best, overlap / (areas + anchor.prod() - overlap))
    return best


def suggest(
    anchors: Anchors, shapes: np.ndarray, thresholds: Sequence[float]
) -> tuple[list[int], list[float]]:
    """
    A size for each level, and ratios, that leave few of `shapes` (N, 2) out.

    Levels with several sizes get more from these, as `by_level` does. A shape is left out if its
    best IoU is under a threshold; the sum over `thresholds` is minimal, without many more left out
    at any of them. Candidates are the present sizes and those that follow the boxes, times powers
    of √2, with the present ratios and those that follow the boxes. The number of anchors stays the
    same, so that pretrained weights still fit.
    """
    if len(shapes) > MAX_SHAPES:
        shapes = shapes[np.linspace(0, len(shapes) - 1, MAX_SHAPES).astype(int)]

    def left_out(by: np.ndarray) -> np.ndarray:
        return (best_iou(shapes, by)[:, None] < np.array(thresholds)).mean(axis=0)

    log_sizes, log_ratios = np.log(shapes).sum(axis=1) / 2, np.log(shapes[:, 1] / shapes[:, 0])
    # each the k-means of its own logarithm: every size of a level is combined with every ratio
    bases = np.array(anchors.bases), np.exp(_k_means(log_sizes, len(anchors.levels)))
    ratios = anchors.ratios.round(2), np.exp(_k_means(log_ratios, len(anchors.ratios))).round(2)
    now = left_out(anchors.shapes)
    found = []
    for base, factor, by in itertools.product(bases, 2.0 ** np.arange(-3, 3.5, 0.5), ratios):
        sizes = np.maximum((base * factor).round().astype(int), 1).tolist()
        unfit = left_out(shapes_of(by_level(sizes, anchors.levels), by))
        found.append(((unfit > now + MAX_LOSS).any(), unfit.sum(), sizes, by))
    *_, sizes, by = min(found, key=lambda f: f[:2])
    return sizes, by.tolist()


def shapes_of(sizes: list[list[float]], ratios: list[float]) -> np.ndarray:
    """(A, 2) widths and heights of the anchors of every size with every ratio."""
    side, root = np.concatenate(sizes)[:, None], np.sqrt(ratios)
    return np.stack([side / root, side * root], axis=-1).reshape(-1, 2)


def write_anchors(config_file: str, json_file: str, anchors: Mapping | None) -> list[str]:
    """
    Write common/anchors.py of the folder of configs that a config is in.

    Args:
        config_file: the config that the anchors were fitted for.
        json_file: the data that they were fitted to, to be named.
        anchors: `sizes` and `aspect_ratios`; None leaves the file as it is.

    Returns:
        Sentences on what was done.

    Raises:
        UserError: there is no such file, or no anchors in it, or it cannot be written.
    """
    folders = Path(config_file).resolve().parents
    path = next(
        (f / "common/anchors.py" for f in folders if (f / "common/anchors.py").is_file()), None
    )
    if path is None:
        raise UserError(f"{config_file}: no common/anchors.py in a folder above; restore it")
    if anchors is None:
        return [f"{path.name} stays as it is: other anchors would not fit clearly better."]
    text = path.read_text(encoding="utf-8")
    lines = "".join(f"    {name}={values},\n" for name, values in anchors.items())
    block = f"anchors = dict(\n    # fitted to {json_file} by {Path(config_file).name}\n{lines})\n"
    written, count = re.subn(
        r"^anchors = dict\(\n.*?^\)\n", lambda _: block, text, flags=re.M | re.S
    )
    if count != 1:
        raise UserError(f"{path}: has no `anchors = dict(…)` of several lines; restore the file")
    write_atomically(path, written.encode())
    notes = [
        f"{path}: sizes {anchors['sizes']} and ratios {anchors['aspect_ratios']}, for every model "
        "with anchors. Earlier trainings need the config.yaml of their output, which has theirs."
    ]
    now = find_anchors(load_config(config_file))
    pairs = (now.bases, anchors["sizes"]), (now.ratios.tolist(), anchors["aspect_ratios"])
    if any(len(own) != len(new) or not np.allclose(own, new) for own, new in pairs):
        notes.append(f"{config_file} does not take them: it sets anchors of its own.")
    return notes


_RESIZES = (T.ResizeShortestEdge, T.Resize, ResizeSquare)


def _build(node: object) -> object:
    return instantiate(node) if isinstance(node, DictConfig) and "_target_" in node else node


def _resized(steps: list[T.Augmentation], width: int, height: int) -> tuple[int, int]:
    for step in steps:
        # an image of that shape in one byte of memory
        transform = step.get_transform(np.broadcast_to(np.uint8(0), (height, width, 3)))
        if isinstance(transform, T.ResizeTransform):
            width, height = transform.new_w, transform.new_h
    return width, height


def _k_means(values: np.ndarray, count: int) -> np.ndarray:
    """The `count` centres of 1-D values, ascending; started at quantiles, so always the same."""
    centres = np.quantile(values, (np.arange(count) + 0.5) / count)
    for _ in range(100):
        nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
        number = np.bincount(nearest, minlength=count)
        sums = np.bincount(nearest, values, minlength=count)
        moved = np.where(number > 0, sums / np.maximum(number, 1), centres)
        if np.allclose(moved, centres):
            break
        centres = moved
    return np.sort(centres)
