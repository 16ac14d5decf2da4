"""A training loader whose batches depend only on the seed and on their number."""

import itertools
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from omegaconf import DictConfig
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from detection.data.tiles import Tiles, tile_records
from detection.utils.errors import UserError
from detection.utils.signals import outlive_stop

logger = logging.getLogger(__name__)


def build_train_loader(
    dataset: list[dict],
    mapper: Callable[[dict], dict | None],
    total_batch_size: int,
    seed: int,
    start_iter: int = 0,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    repeat_threshold: float | None = None,
    tiles: Mapping | None = None,
) -> DataLoader:
    """
    An endless loader of shuffled batches, like detectron2's `build_detection_train_loader`.

    The order of the images and the random numbers of their augmentation do not depend on the
    number of workers or on where a run was interrupted: started at `start_iter`, the loader
    continues with the same batches that an uninterrupted run would have seen.

    Args:
        dataset: detectron2's data set dicts.
        mapper: turns one of them into a model input, or returns None to have it replaced. Its
            method `use_dataset`, if it has one, is called with the data set.
        total_batch_size: images per batch, over all processes.
        seed: of the order and of the augmentation; negative: another one each time.
        start_iter: batches to skip, without loading them.
        aspect_ratio_grouping: batch wide images with wide ones, to pad less.
        num_workers: loading processes per training process.
        repeat_threshold: images of a class that is in a smaller part of all images than this, 0 to
            1, are used √(threshold / part) times per epoch (Gupta et al., arXiv:1908.03195);
            None: each image is used once.
        tiles: of configs/common/tiles.py: if enabled, all that is said of images here holds for
            tiles. Another part of the empty ones is drawn for each epoch.

    Returns:
        Batches as lists of `total_batch_size / processes` model inputs.

    Raises:
        UserError: the batch is not divisible by the number of processes, or a setting of `tiles` is
            out of its range.
    """
    if total_batch_size % comm.get_world_size():
        raise UserError(
            f"total_batch_size={total_batch_size} is not divisible by the number of "
            f"processes, {comm.get_world_size()}; set dataloader.train.total_batch_size"
        )
    seed = comm.shared_random_seed() if seed < 0 else seed
    empty = []
    if cut := Tiles.of(tiles):
        dataset, empty = tile_records(dataset, cut)
    filled = len(dataset)
    repeats = _repeats(dataset, repeat_threshold) if repeat_threshold else None
    if empty:
        shares = np.full(len(empty), cut.empty_rate)
        repeats = np.append(np.ones(filled) if repeats is None else repeats, shares)
        dataset = [*dataset, *empty]
    is_wide = [d["width"] > d["height"] for d in dataset] if aspect_ratio_grouping else None
    sampler = ResumableBatchSampler(
        len(dataset), total_batch_size // comm.get_world_size(), seed, start_iter, is_wide, repeats
    )
    records = DatasetFromList(dataset, copy=False)
    if hasattr(mapper, "use_dataset"):
        mapper.use_dataset(Subset(records, range(filled)) if empty else records)
    return DataLoader(
        SeededMapDataset(records, mapper, seed, total_batch_size),
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
        pin_memory=False,  # model inputs are lists of Instances, which it cannot pin
        persistent_workers=num_workers > 0,
        worker_init_fn=outlive_stop,
    )


def with_start_iter_0(loader: DictConfig) -> DictConfig:
    """A copy of a loader's config that starts at the first batch, for a resumed training too."""
    loader = deepcopy(loader)
    if "start_iter" in loader:
        loader.start_iter = 0
    return loader


class ResumableBatchSampler(Sampler):
    """
    Endless batches of (position in the run, index of the image), one permutation after another.

    An image to be repeated 1.3 times is in 30% of the epochs twice, in the others once.

    With W processes, the one of rank r gets the positions r, r + W, r + 2 W, …
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        start_iter: int = 0,
        is_wide: list[bool] | None = None,
        repeats: Sequence[float] | None = None,
    ):
        """
        Args:
            size: images in the data set.
            batch_size: images per batch of this process.
            seed: of the permutations, the same in all processes.
            start_iter: batches to skip.
            is_wide: whether each image is wide; a batch then has images of one kind only.
            repeats: how often each image is used per epoch, on average; None: once.
        """
        self._size = size
        self.batch_size = batch_size
        self._seed = seed
        self._start_iter = start_iter
        self.is_wide = is_wide
        self._repeats = None if repeats is None else np.asarray(repeats, dtype=float)

    @property
    def epoch_size(self) -> float:
        """Images per epoch over all processes, on average, with their repetitions."""
        return self._size if self._repeats is None else float(self._repeats.sum())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # iterating over the skipped images takes 1 µs each and restores the groups' state
        return itertools.islice(self._batches(), self._start_iter, None)

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        groups = {False: [], True: []}
        mine = itertools.islice(self._images(), comm.get_rank(), None, comm.get_world_size())
        for position, index in mine:
            group = groups[self.is_wide[index] if self.is_wide else False]
            group.append((position, index))
            if len(group) == self.batch_size:
                yield group.copy()
                group.clear()

    def _images(self) -> Iterator[tuple[int, int]]:
        position = 0
        for epoch in itertools.count():
            rng = np.random.default_rng((self._seed, epoch))
            indices = np.arange(self._size)
            if self._repeats is not None:
                # the integer part always, and once more with the probability of the rest
                times = np.floor(self._repeats + rng.random(self._size))
                indices = indices.repeat(times.astype(int))
            for index in rng.permutation(indices):
                yield position, int(index)
                position += 1


class SeededMapDataset(Dataset):
    """Maps images with random numbers that depend only on the seed and the position in the run."""

    def __init__(
        self,
        dataset: Dataset,
        mapper: Callable[[dict], dict | None],
        seed: int,
        total_batch_size: int,
    ):
        self.dataset = dataset
        self.mapper = mapper
        self._seed = seed
        self._total_batch_size = total_batch_size
        # in memory that the loading processes share, as a plan of `train.hours` may change
        self._images_in_all = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_max_iter(self, max_iter: int) -> None:
        """Let the loader set the mapper's `progress`, for images that are not loaded yet."""
        self._images_in_all[0] = max_iter * self._total_batch_size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, at: tuple[int, int]) -> dict:
        position, index = at
        if (count := self._images_in_all.item()) and hasattr(self.mapper, "progress"):
            self.mapper.progress = position / count
        rng = np.random.default_rng((self._seed, position))
        # detectron2's augmentations draw from NumPy's global generator, torchvision's from
        # PyTorch's, and others from Python's
        np.random.seed(rng.integers(2**32, dtype=np.uint64))
        random.seed(int(rng.integers(2**63)))
        with torch.random.fork_rng(devices=[]):  # without workers, the model draws from it too
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            for _ in range(1000):
                sample = self.mapper(self.dataset[index])
                if sample is not None:
                    return sample
                index = int(rng.integers(len(self.dataset)))
        raise RuntimeError("the mapper returned None for 1000 images")


def _repeats(dataset: list[dict], threshold: float) -> np.ndarray:
    """How often each image is used per epoch, on average."""
    repeats = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dataset, threshold)
    logger.info(
        f"repeat_threshold={threshold:g}: an epoch has about {repeats.sum():.0f} images instead of "
        f"{len(dataset)}, single ones up to {repeats.max():.1f} times"
    )
    return repeats.numpy()
