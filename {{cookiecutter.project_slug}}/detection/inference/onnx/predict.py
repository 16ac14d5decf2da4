"""Predicts with an ONNX file, as predict.py does with a checkpoint; without PyTorch."""

import argparse
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from detection.classes import CLASSES
from detection.data.coco import category_id_map, write_json
from detection.data.image_roots import config_root, load_dataset
from detection.data.results import check_same_images, images_file, write_images
from detection.inference.batches import batches_file, predict_in_batches
from detection.inference.onnx.runner import Detections, OnnxDetector
from detection.inference.sources import list_images, results_name
from detection.utils.errors import UserError
from detection.utils.failures import explained
from detection.utils.files import refuse_to_overwrite, sha256
from detection.utils.images import read_image
from detection.utils.output_lock import locked_file
from detection.utils.run_lengths import run_lengths


def predict(args: argparse.Namespace) -> None:
    """
    Predict as predict.py's options with --onnx say.

    Raises:
        UserError: the problem and its remedy; finished batches are kept.
    """
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    detector = OnnxDetector(args.onnx)
    min_score, limit = limits(detector, args.min_score, args.max_per_image)
    name = results_name(args.images)
    output = Path(args.output or Path(args.onnx).parent / "predictions" / f"{name}.json")
    refuse_to_overwrite(output, args.images, args.onnx)
    root = args.image_root
    if root is None and args.images.endswith(".json"):
        root = config_root(load_dataset(), args.images)
    coco, root = list_images(args.images, root)
    if args.output is None:
        check_same_images(output, coco["images"], args.images)  # or overwrite theirs
    digest = sha256(args.onnx)
    settings = {
        "onnx": digest,
        "images": [[i[k] for k in ("id", "file_name", "width", "height")] for i in coco["images"]],
        "categories": [[category["id"], category["name"]] for category in coco["categories"]],
        "image_root": root,
        "batch_size": args.batch_size,
        "limits": [min_score, limit],
    }
    predictor = OnnxPredictor(detector, coco, root, args.batch_size, args.num_workers)
    predictor.min_score, predictor.limit = min_score, limit
    remedy, workers = "the same command continues", "--num-workers or --batch-size"
    with locked_file(output), explained(str(output), remedy, workers):
        results = predict_in_batches(output, settings, predictor.count, predictor.batches)
        if os.path.realpath(images_file(output)) != os.path.realpath(args.images):
            write_images(coco, output, [f"{args.onnx}@{digest[:12]}"])
        write_json(results, str(output))
        batches_file(output).unlink()
    print(f"{output}: {len(coco['images'])} images, {len(results)} boxes")


def limits(detector: OnnxDetector, min_score: float | None, limit: int | None) -> tuple[float, int]:
    """What is kept of a detector's boxes, its own limits by default; UserError if it lacks some."""
    own = detector.metadata
    if min_score is not None and min_score < own.min_score:
        raise UserError(
            f"--min-score {min_score}: the file has boxes from {own.min_score} on; export again "
            "with that --min-score"
        )
    if limit is not None and limit > own.max_per_image:
        raise UserError(
            f"--max-per-image {limit}: the file gives {own.max_per_image}; export again with that "
            "--max-per-image"
        )
    return own.min_score if min_score is None else min_score, limit or own.max_per_image


class OnnxPredictor:
    """
    Predicts on all images in batches.

    Attributes:
        count: of batches.
        min_score, limit: what is kept of each image's boxes; None: all.
    """

    def __init__(
        self,
        detector: OnnxDetector,
        coco: dict,
        image_root: str,
        batch_size: int,
        num_workers: int,
    ):
        """
        Args:
            detector: of these classes.
            coco: as `list_images` returns it.
            image_root: what the `file_name`s in it are relative to.
            batch_size: images per batch.
            num_workers: threads that load images.

        Raises:
            UserError: the detector has other classes than the project.
        """
        names = detector.metadata.classes
        if sorted(names) != sorted(CLASSES):
            raise UserError(
                f"the ONNX file has the classes {', '.join(names)}, and detection/classes.py has "
                f"{', '.join(CLASSES)}; export a model of these"
            )
        positions = category_id_map(coco, "the images' json")
        by_name = {CLASSES[position]: id_ for id_, position in positions.items()}
        self._category_ids = [by_name[name] for name in names]
        self._detector = detector
        self._images = coco["images"]
        self._root = image_root
        self._batch_size = batch_size
        self._num_workers = num_workers
        self.count = -(-len(self._images) // batch_size)
        self.min_score, self.limit = 0.0, None

    def batches(self, start: int = 0) -> Iterator[list[dict]]:
        """
        Yield the results of each batch from a number on: `image_id, category_id, bbox, score` and,
        of a model with masks, `segmentation`.
        """
        rest = self._images[start * self._batch_size :]
        parts = [rest[k : k + self._batch_size] for k in range(0, len(rest), self._batch_size)]
        for records, images in zip(parts, self._loaded(parts), strict=True):
            sizes = [(record["height"], record["width"]) for record in records]
            found = self._detector.detect(images, sizes)
            yield [
                result
                for record, own in zip(records, found, strict=True)
                for result in self._results(record["id"], own)
            ]

    def _loaded(self, parts: Iterable[Sequence[dict]]) -> Iterator[list[np.ndarray]]:
        """The images of each part, while the next ones are being read."""
        if not self._num_workers:
            yield from ([self._load(record) for record in part] for part in parts)
            return
        with ThreadPoolExecutor(self._num_workers) as pool:
            ahead = deque()
            for part in parts:
                ahead.append([pool.submit(self._load, record) for record in part])
                if len(ahead) > 2:
                    yield [image.result() for image in ahead.popleft()]
            for images in ahead:
                yield [image.result() for image in images]

    def _load(self, record: dict) -> np.ndarray:
        file = os.path.join(self._root, record["file_name"])
        image = read_image(file)
        height, width = image.shape[:2]
        if (width, height) != (record["width"], record["height"]):
            raise UserError(
                f"{file}: has {width}×{height} pixels, but the json says "
                f"{record['width']}×{record['height']}; `make check` lists all such files"
            )
        return self._detector.resized(image)

    def _results(self, image_id: int, found: Detections) -> Iterator[dict]:
        boxes = np.hstack([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]])
        rows = zip(found.scores.tolist(), found.labels.tolist(), boxes.tolist(), strict=True)
        for number, (score, label, box) in enumerate(rows):
            if score < self.min_score or number == self.limit:
                break
            result = {"image_id": image_id, "category_id": self._category_ids[label]}
            result |= {"bbox": box, "score": score}
            if found.masks is not None:
                result["segmentation"] = run_lengths(found.masks[number])
            yield result
