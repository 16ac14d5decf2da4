"""Images with ground truth and predictions at each evaluation, for the writers that show them."""

import logging
import os
from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import TensorboardXWriter

from detection.data.coco import read_coco
from detection.utils.drawing import Box, BoxPainter
from detection.utils.images import read_image
from detection.writers.wandb_media import boxes_image
from detection.writers.wandb_writer import WandbWriter
from detection.writers.writer import Writer

logger = logging.getLogger(__name__)


class PredictionImages(HookBase, DatasetEvaluator):
    """
    Show the same validation images at each evaluation.

    W&B gets them as one list, `pictures`, with ground truth and predictions as boxes, to be
    switched by class and score in its pages; TensorBoard gets both drawn side by side, as
    `pictures/1`, `pictures/2` …, as do writers with an attribute `pictures`. The hook is also an
    evaluator, which sees the predictions of an evaluation and makes none itself. It goes after
    EvalHook and before the writers.
    """

    def __init__(
        self,
        dataset_name: str,
        writers: Sequence[Writer],
        count: int = 8,
        max_size: int = 1024,
        min_score: float = 0.3,
    ):
        """
        Args:
            dataset_name: a registered data set with `json_file`, `image_root` and `thing_classes`
                in its metadata; without a json file nothing is shown.
            writers: those of this process.
            count: how many images, spread evenly over the annotated ones; 0: none.
            max_size: in pixels; larger images are shrunk to it, for TensorBoard, whose PNGs are
                slow to write, both halves together.
            min_score: the lowest score that is drawn for TensorBoard; W&B gets all.
        """
        self._dataset_name = dataset_name
        self._wandb_writers = [w for w in writers if isinstance(w, WandbWriter)]
        self._has_tensorboard = any(isinstance(w, TensorboardXWriter) for w in writers)
        self._picture_writers = [w for w in writers if getattr(w, "pictures", None) is not None]
        self._count = count
        self._max_size = max_size
        self._min_score = min_score
        self._chosen = {}
        self._predictions = {}
        self._gathered = None

    def before_train(self):
        # not earlier: loading a data set may register its metadata again
        self._metadata = MetadataCatalog.get(self._dataset_name)
        json_file = self._metadata.get("json_file")
        if self._count > 0 and json_file:
            self._chosen = _choose(read_coco(json_file), self._count)
            titles = [image["file_name"] for image in self._chosen.values()]
            self._painter = BoxPainter(self._metadata.thing_classes, titles)

    def reset(self):
        self._predictions = {}

    def process(self, inputs, outputs):
        for image, output in zip(inputs, outputs, strict=True):
            if image["image_id"] in self._chosen and "instances" in output:
                found = output["instances"].to("cpu")
                found = found[found.scores.argsort()]  # the best last, and so on top
                self._predictions[image["image_id"]] = [
                    Box(label, tuple(corners), score)
                    for label, corners, score in zip(
                        found.pred_classes.tolist(),
                        found.pred_boxes.tensor.tolist(),
                        found.scores.tolist(),
                        strict=True,
                    )
                ]

    def evaluate(self):
        # on every process, as gathering is in step; only the main one shows them
        self._gathered = {k: v for part in comm.gather(self._predictions) for k, v in part.items()}

    def after_step(self):
        if not self._gathered:
            return
        try:
            for image in self._chosen.values():
                if "pixels" not in image:  # kept, as reading takes longest
                    path = os.path.join(self._metadata.image_root, image["file_name"])
                    image["pixels"] = _shrink(read_image(path), self._max_size, self._max_size)
            # W&B shows all of a list at the size of its first
            canvas = np.max([image["pixels"].shape for image in self._chosen.values()], axis=0)
            for number, (image_id, image) in enumerate(self._chosen.items(), start=1):
                self._show(f"pictures/{number}", image, self._gathered.get(image_id, []), canvas)
        except Exception as e:  # no picture is worth losing a training
            logger.warning(f"no pictures of iteration {self.trainer.iter}: {e!r}")
        self._gathered = None

    def _show(self, name: str, image: dict, predictions: list[Box], canvas: np.ndarray) -> None:
        pixels = image["pixels"]
        # boxes are in pixels of the image as the json has it
        size = image["width"], image["height"]
        labels = self._metadata.thing_dataset_id_to_contiguous_id
        truth = [
            Box(labels[a["category_id"]], (x, y, x + w, y + h))
            for a in image["annotations"]
            for x, y, w, h in [a["bbox"]]
        ]
        for writer in self._wandb_writers:
            media = writer.media.setdefault(self.trainer.iter, {})
            padding = [(0, all_ - own) for all_, own in zip(canvas, pixels.shape, strict=True)]
            height, width = canvas[:2] / pixels.shape[:2] * size[::-1]
            media.setdefault("pictures", []).append(
                boxes_image(
                    np.pad(pixels, padding, constant_values=128),
                    (width, height),
                    truth,
                    predictions,
                    self._metadata.thing_classes,
                    image["file_name"],
                )
            )
        if self._has_tensorboard or self._picture_writers:
            pixels = _shrink(pixels, self._max_size // 2, self._max_size)
            predictions = [box for box in predictions if box.score >= self._min_score]
            factors = np.array(pixels.shape[1::-1] * 2) / (size * 2)
            truth, predictions = (
                [box._replace(corners=tuple(box.corners * factors)) for box in boxes]
                for boxes in (truth, predictions)
            )
            halves = {
                f"{image['file_name']}: ground truth": truth,
                f"predictions, score {self._min_score:g} and up": predictions,
            }
            picture = self._painter.side_by_side(pixels, halves)
            if self._has_tensorboard:
                self.trainer.storage.put_image(name, picture.transpose(2, 0, 1))
            for writer in self._picture_writers:
                if writer.pictures is not None:  # it has not failed
                    writer.pictures.setdefault(self.trainer.iter, {})[name] = picture


def _choose(coco: dict, count: int) -> dict[int, dict]:
    """{image id: the json's image with its annotations}, spread evenly over the annotated ones."""
    annotated = {a["image_id"] for a in coco.get("annotations", [])}
    images = [i for i in coco["images"] if i["id"] in annotated] or coco["images"]
    positions = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    chosen = {images[k]["id"]: {**images[k], "annotations": []} for k in positions}
    for annotation in coco.get("annotations", []):
        if annotation["image_id"] in chosen and not annotation.get("iscrowd"):
            chosen[annotation["image_id"]]["annotations"].append(annotation)
    return chosen


def _shrink(pixels: np.ndarray, max_width: int, max_height: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = min(max_width / width, max_height / height)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
