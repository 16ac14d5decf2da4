"""Compares an ONNX file with the model that it was written from: scores and time."""

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from tabulate import tabulate
from torch import nn

from detection.data.image_roots import config_root
from detection.data.results import check_ground_truth
from detection.evaluation.average_precision import average_precision
from detection.evaluation.competition_metrics import find_metric
from detection.inference.onnx.predict import OnnxPredictor
from detection.inference.onnx.runner import OnnxDetector
from detection.inference.predictor import Predictor
from detection.inference.sources import list_images
from detection.utils.images import read_image
from detection.utils.paths import in_project
from detection.utils.progress import progress

LOSS = 0.1  # points of 100 that a file may lose


class Proof:
    """
    The comparison on annotated images.

    Attributes:
        coco: the images and annotations.
    """

    def __init__(
        self,
        cfg: DictConfig,
        json_file: str | None,
        image_root: str | None,
        count: int | None,
        batch_size: int,
    ):
        """
        Args:
            cfg: of the training.
            json_file: a COCO json with annotations; None: that of `dataset.val`.
            image_root: what its `file_name`s are relative to; None: as the config has it.
            count: of images, the first ones; None: all.
            batch_size: images that go through the model together.

        Raises:
            UserError: the json has no annotations, or no images.
        """
        json_file = json_file or in_project(cfg.dataset.val.json_file)
        root = image_root or config_root(cfg.dataset, json_file)
        self.coco, self._root = list_images(json_file, root)
        check_ground_truth(self.coco, json_file)
        if count:
            self.coco = first_images(self.coco, count)
        self._cfg = cfg
        self._metric = cfg.train.metric
        self._batch_size = batch_size

    def compare(self, model: nn.Module, file: str | Path) -> str:
        """
        Predict with both, and print their scores side by side.

        Args:
            model: in evaluation mode, with the thresholds of the file.
            file: the ONNX file.

        Returns:
            Why the file cannot be trusted; empty if it can.
        """
        rest = self.coco, self._root, self._batch_size, 2
        before = self._scores("PyTorch", Predictor(self._cfg, model, *rest))
        after = self._scores("ONNX Runtime", OnnxPredictor(OnnxDetector(file), *rest))
        rows = [[name, before[name], after[name], after[name] - before[name]] for name in before]
        headings = ["", "PyTorch", "ONNX Runtime", "difference"]
        print(tabulate(rows, headers=headings, floatfmt=".3f"))
        if not before["AP"]:
            return "the model itself has an AP of 0 on these images, which proves nothing"
        lost = [name for name in before if not before[name] - after[name] <= LOSS]
        return f"it loses more than {LOSS} points of {' and '.join(lost)}" if lost else ""

    def time(self, model: nn.Module, file: str | Path, runs: int) -> None:
        """Print how long both take for an image on the CPU, with equally many threads."""
        image = read_image(f"{self._root}/{self.coco['images'][0]['file_name']}")
        detector = OnnxDetector(file, torch.get_num_threads(), is_on_cpu=True)
        rows = [
            [name, *(1000 * np.percentile(times, (50, 95)))]
            for name, times in latencies(copy.deepcopy(model).cpu(), detector, image, runs).items()
        ]
        height, width = detector.metadata.resized(*image.shape[:2])
        print(
            f"an image of {height}×{width} on the CPU, {torch.get_num_threads()} threads, "
            f"{runs} runs, in milliseconds:"
        )
        print(tabulate(rows, headers=["", "p50", "p95"], floatfmt=".1f"))

    def _scores(self, name: str, predictor: Predictor | OnnxPredictor) -> dict[str, float]:
        count = -(-len(self.coco["images"]) // self._batch_size)
        batches = progress(predictor.batches(), count, f"{name}, batches")
        return scores(self.coco, [result for batch in batches for result in batch], self._metric)


def first_images(coco: dict, count: int) -> dict:
    """A COCO json's first images and their annotations."""
    images = coco["images"][:count]
    ids = {image["id"] for image in images}
    kept = [a for a in coco["annotations"] if a["image_id"] in ids]
    return {**coco, "images": images, "annotations": kept}


def scores(coco: dict, results: Sequence[dict], metric: str) -> dict[str, float]:
    """AP, that of masks where there are some, and the competition's metric, in points of 100."""
    found = {"AP": average_precision(coco, results).get("AP", 0.0)} if results else {"AP": 0.0}
    if any("segmentation" in result for result in results):
        found["AP of masks"] = average_precision(coco, results, "segm").get("AP", 0.0)
    value = find_metric(metric).score(coco, results).value if results else 0.0
    return {**found, f"100 × {metric}": 100 * value}


def seconds(run: Callable[[], object], count: int) -> np.ndarray:
    """The seconds of each of `count` runs, after two that warm up."""
    times = []
    for _ in range(count + 2):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return np.array(times[2:])


def latencies(
    model: nn.Module, detector: OnnxDetector, image: np.ndarray, count: int
) -> dict[str, np.ndarray]:
    """
    Seconds for an image on the CPU, from the resized image to the boxes.

    Args:
        model: in evaluation mode, on the CPU.
        detector: with as many threads.
        image: uint8 (H, W, 3) RGB.
        count: of runs.
    """
    resized = detector.resized(image)
    size = image.shape[:2]
    inputs = [{"image": torch.from_numpy(resized), "height": size[0], "width": size[1]}]
    with torch.inference_mode():
        own = seconds(lambda: model(inputs), count)
    return {
        "PyTorch": own,
        "ONNX Runtime": seconds(lambda: detector.detect([resized], [size]), count),
    }
