"""Times a project's predict.py beside detectron2's inference_on_dataset, in one run.

    python benchmarks/prediction_speed.py PROJECT [--config FILE] [--size 1024] [--short-edge 320]

PROJECT is a generated project; run it with that project's Python. Both take the same JPEG files
through the same model with random weights, on the same threads, and turn its boxes into COCO
results: detectron2 through its own test loader and DatasetMapper, one image after another; the
project through `Predictor`, which also keeps finished batches on the disk, with batches of 1 and
of 4. They take turns; ratios are those of medians. Times hold the start of the loader's processes
on both sides.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from loader_throughput import make_photo

IMAGES = 32


def write_images(folder: Path, size: int) -> dict:
    """Write JPEG files and return their COCO json."""
    import cv2
    from detection.classes import CLASSES

    photos = [make_photo(size, seed) for seed in range(4)]
    images = []
    for number in range(IMAGES):
        name = f"{number}.jpg"
        cv2.imwrite(str(folder / name), photos[number % 4], [cv2.IMWRITE_JPEG_QUALITY, 90])
        images.append({"id": number, "file_name": name, "width": size, "height": size})
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES)]
    return {"images": images, "annotations": [], "categories": categories}


def make_theirs(cfg, model, coco: dict, folder: Path, workers: int):
    """Return a function that predicts on all images with detectron2's means."""
    import detectron2.data.transforms as T
    from detectron2.data import DatasetMapper, build_detection_test_loader
    from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json

    class Collect(DatasetEvaluator):
        def reset(self):
            self.results = []

        def process(self, inputs, outputs):
            for image, output in zip(inputs, outputs, strict=True):
                instances = output["instances"].to("cpu")
                self.results += instances_to_coco_json(instances, image["image_id"])

        def evaluate(self):
            return {"boxes": len(self.results)}

    resize = cfg.dataloader.test.mapper.augmentations[0]
    mapper = DatasetMapper(
        is_train=False,
        augmentations=[T.ResizeShortestEdge(resize.short_edge_length, resize.max_size)],
        image_format=cfg.dataloader.train.mapper.image_format,
    )
    records = [
        {
            "file_name": str(folder / image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
        }
        for image in coco["images"]
    ]

    def predict() -> int:
        loader = build_detection_test_loader(records, mapper=mapper, num_workers=workers)
        return inference_on_dataset(model, loader, Collect())["boxes"]

    return predict


def make_ours(cfg, model, coco: dict, folder: Path, workers: int, batch_size: int):
    """Return a function that predicts on all images as predict.py does."""
    from detection.inference.batches import batches_file
    from detection.inference.predictor import Predictor

    def predict() -> int:
        predictor = Predictor(cfg, model, coco, str(folder), batch_size, workers)
        output = folder / "results.json"
        boxes = len(predictor.predict(output, {}))
        batches_file(output).unlink()
        return boxes

    return predict


def main() -> None:
    """Print images a second and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", type=Path)
    parser.add_argument("--config", default="configs/debug/smoke.py")
    parser.add_argument("--size", type=int, default=1024, help="of the JPEG files, in pixels")
    parser.add_argument("--short-edge", type=int, default=320, help="of the model's input")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    os.chdir(args.project)
    sys.path.insert(0, str(Path.cwd()))

    import torch
    from detection.config import load_config
    from detection.inference.predictor import set_thresholds
    from detection.modeling.build import build_model

    overrides = [f"dataloader.test.mapper.augmentations.0.short_edge_length={args.short_edge}"]
    cfg = load_config(args.config, overrides)
    torch.manual_seed(0)
    model = build_model(cfg, pretrained=False).eval()
    set_thresholds(cfg, model, 0.05, 100)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        coco = write_images(folder, args.size)
        ways = {"detectron2": make_theirs(cfg, model, coco, folder, args.workers)}
        for batch_size in (1, 4):
            ours = make_ours(cfg, model, coco, folder, args.workers, batch_size)
            ways[f"ours, batches of {batch_size}"] = ours
        times = {label: [] for label in ways}
        for turn in range(args.runs + 1):
            for label, predict in ways.items():
                start = time.perf_counter()
                boxes = predict()
                if turn:  # the first warms up
                    times[label].append(time.perf_counter() - start)
                else:
                    print(f"{label}: {boxes} boxes")
    medians = {label: statistics.median(values) for label, values in times.items()}
    theirs = medians["detectron2"]
    print(f"{IMAGES} images of {args.size}² px, model input {args.short_edge}², {args.config}")
    for label, seconds in medians.items():
        print(f"{label:22s} {IMAGES / seconds:7.2f} images/s   {theirs / seconds:5.2f} ×")


if __name__ == "__main__":
    main()
