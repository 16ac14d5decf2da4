"""Whether tiles are likely to help, and of which size, from how large a model sees the boxes."""

import numpy as np
from omegaconf import DictConfig

from detection.data.tiles import Tiles
from detection.workshop.analysis.anchors import resize_factors
from detection.workshop.analysis.dataset_statistics import MAX_SMALL, Split, share

SIZES = (2048, 1536, 1280, 1024, 896, 768, 640, 512, 384, 256, 192, 128)  # pixels
MANY = 0.2  # of the boxes: where fewer are small, tiles rarely pay for their time
FEWER = 0.5  # a size is suggested that leaves at most this part of the small ones
LITTLE = 0.8  # and none if the best one leaves more than this part


def tile_note(cfg: DictConfig, split: Split) -> str:
    """
    A sentence on the boxes that are small, under 32 × 32 pixels, in the model's input: how many
    there are, how many tiles would leave, and the overrides that set those tiles.
    """
    boxes, owners = split.boxes[split.has_area], split.owners[split.has_area]
    areas = boxes[:, 2:].prod(axis=1)
    is_small = areas * resize_factors(cfg, split.sizes)[owners].prod(axis=1) < MAX_SMALL
    seen = (
        f"{share(is_small.sum(), len(is_small))} of the boxes of {split.name} are under 32 × 32 px "
        "as the model sees them"
    )
    if is_small.sum() <= MANY * len(is_small):
        return f"Tiles are not likely to help: {seen}."
    # neighbours share a whole object
    least = np.quantile(boxes[is_small, 2:].max(axis=1), 0.95) / max(cfg.tiles.overlap, 0.01)
    sizes = [s for s in SIZES if least <= s < np.median(split.sizes.max(axis=1))]
    left = {
        s: (areas * resize_factors(cfg, np.array([(s, s)])).prod() < MAX_SMALL).mean()
        for s in sizes
    }
    enough = [s for s in sizes if left[s] <= FEWER * is_small.mean()]
    size = max(enough) if enough else min(sizes, key=left.get, default=None)
    if size is None or left[size] > LITTLE * is_small.mean():
        return f"{seen}, and tiles would not change that much: the images are not much larger."
    tiles = Tiles(**{**cfg.tiles, "size": size})
    inputs = np.mean([len(tiles.windows(int(w), int(h))) for w, h in split.sizes])
    return (
        f"{seen}: tiles are likely to help. Those of {size} px leave "
        f"{share(left[size], 1)} that small; an evaluation takes {inputs + tiles.full_image:.0f} "
        f"times as long: tiles.enabled=True tiles.size={size}"
    )
