"""Predicts on images that workers load, in batches."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.build import trivial_batch_collator
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from detection.classes import CLASSES
from detection.config import to_plain
from detection.data.batching import detect
from detection.data.coco import category_id_map
from detection.inference.batches import predict_in_batches
from detection.utils.errors import UserError
from detection.utils.files import sha256


def set_thresholds(cfg: DictConfig, model: torch.nn.Module, min_score: float, limit: int) -> None:
    """
    Keep the best `limit` boxes per image with a score of `min_score` or more; changes the model.

    With test-time augmentation this applies to the fused boxes. Each view keeps as many as in an
    evaluation, at least `limit`, since the fused scores depend on all of them. Modules without
    such settings stay as they are.
    """
    cfg.tta.detector.min_score, cfg.tta.detector.max_per_image = min_score, limit
    cfg.tiles.max_per_image = limit
    for module in model.modules():
        if hasattr(module, "test_score_thresh") and not cfg.tta.enabled:
            module.test_score_thresh = min_score
        # the names in ROI heads and in dense detectors
        for name in ("test_topk_per_image", "max_detections_per_image"):
            if hasattr(module, name):
                least = getattr(module, name) if cfg.tta.enabled else 0
                setattr(module, name, max(limit, least))


class Predictor:
    """Predicts on all images in batches, and keeps each finished batch on disk."""

    def __init__(
        self,
        cfg: DictConfig,
        model: torch.nn.Module,
        coco: dict,
        image_root: str,
        batch_size: int,
        num_workers: int,
    ):
        """
        Args:
            cfg: its `dataloader.test.mapper` reads the images.
            model: in evaluation mode, on its device.
            coco: as `list_images` returns it.
            image_root: what the `file_name`s in it are relative to.
            batch_size: images per batch.
            num_workers: processes that load images.
        """
        self._model = model
        self._images = coco["images"]
        positions = category_id_map(coco, "the images' json")
        self._category_ids = {position: id_ for id_, position in positions.items()}
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._mapper = _Read(instantiate(cfg.dataloader.test.mapper))
        self._dataset_dicts = [
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "image_id": image["id"],
                "width": image["width"],
                "height": image["height"],
            }
            for image in self._images
        ]

    def predict(self, output: Path, settings: dict) -> list[dict]:
        """
        Predict, or continue an interrupted prediction with the same settings.

        Args:
            output: file of the results; finished batches are in `batches_file(output)`.
            settings: what the results depend on; other settings start again.

        Returns:
            COCO results: `image_id, category_id, bbox, score`, boxes as (x, y, w, h) in pixels,
            with the ids of the json.
        """
        count = -(-len(self._images) // self._batch_size)
        return predict_in_batches(output, settings, count, self.batches)

    def batches(self, start: int = 0) -> Iterator[list[dict]]:
        """Yield the results of each batch from a number on."""
        rest = self._dataset_dicts[start * self._batch_size :]
        loader = DataLoader(
            MapDataset(DatasetFromList(rest, copy=False), self._mapper),
            batch_size=self._batch_size,
            num_workers=self._num_workers,
            collate_fn=trivial_batch_collator,
        )
        for batch in loader:
            for image in batch:
                if isinstance(image, UserError):
                    raise image
            with torch.inference_mode():
                outputs = detect(self._model, batch)
            results = []
            for image, output in zip(batch, outputs, strict=True):
                instances = output["instances"].to("cpu")
                results += instances_to_coco_json(instances, image["image_id"])
            for result in results:
                result["category_id"] = self._category_ids[result["category_id"]]
            yield results


class _Read:
    """A mapper that returns errors; raised in a worker, they would contain a traceback."""

    def __init__(self, mapper):
        self._mapper = mapper

    def __call__(self, dataset_dict: dict) -> dict | UserError:
        try:
            return self._mapper(dataset_dict)
        except UserError as e:  # about an image
            return e
        except (OSError, SizeMismatchError) as e:
            file = dataset_dict["file_name"]
            reason = "there is no such file" if isinstance(e, FileNotFoundError) else e
            return UserError(f"{file}: cannot be read ({reason}); repair it or leave it out")


def prediction_settings(cfg: DictConfig, coco: dict, weights: str, **other) -> dict:
    """Collect what results depend on: the model, its weights, the images and their mapper."""
    weights = Path(weights)
    stat = weights.stat() if weights.is_file() else None
    return {
        "model": to_plain(cfg.model),
        "mapper": to_plain(cfg.dataloader.test.mapper),
        "tta": to_plain(cfg.tta),
        "tiles": to_plain(cfg.tiles),
        "classes": list(CLASSES),
        "weights": [str(weights), stat and stat.st_size, stat and stat.st_mtime_ns],
        "images": [
            [image[key] for key in ("id", "file_name", "width", "height")]
            for image in coco["images"]
        ],
        "categories": [(category["id"], category["name"]) for category in coco["categories"]],
        **other,
    }


def model_name(cfg: DictConfig, weights: str) -> str:
    """What tells predictions of one model from another's: `weights@fingerprint`."""
    views = {name: to_plain(cfg[name]) for name in ("tta", "tiles") if cfg[name].enabled}
    known = json.dumps(views, sort_keys=True).encode()
    digest = sha256(weights, known)
    return f"{weights}{''.join(f' with {name}' for name in views)}@{digest[:12]}"
