"""Times a project's evaluation beside pycocotools, on the same data, in one run.

    python benchmarks/evaluation_speed.py PROJECT [--images 2000] [--runs 3]

PROJECT is a generated project; run it with that project's Python. First AP and AP50, in all and of
each class, of 10 classes and 100 detections an image: the evaluate and accumulate of the project's
evaluation beside those of pycocotools, and both with all that comes before, from the parsed json
and the list of detections on. The numbers must agree to 1e-9. Then a validation pass as training
does it: a small Faster R-CNN on the CPU over toy images, and what of its time goes into the
evaluation.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLASSES, DETECTIONS, SIZE = 10, 100, 1024
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def make_data(images: int) -> tuple[dict, list[dict]]:
    """Return a COCO json with about 7 boxes an image, and detections scattered around them."""
    import numpy as np

    rng = np.random.default_rng(0)
    truth = {
        "images": [{"id": i, "width": SIZE, "height": SIZE} for i in range(images)],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)],
        "annotations": [],
    }
    results = []
    for image_id in range(images):
        count = int(rng.integers(3, 12))
        boxes = np.hstack([rng.uniform(0, 800, (count, 2)), rng.uniform(8, 300, (count, 2))])
        labels = rng.integers(1, CLASSES + 1, count)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        found = np.arange(DETECTIONS) % count
        moved = np.maximum(boxes[found] + rng.normal(0, 15, (DETECTIONS, 4)), 1)
        other = rng.integers(1, CLASSES + 1, DETECTIONS)
        named = np.where(rng.random(DETECTIONS) < 0.7, labels[found], other)
        for box, label, score in zip(
            moved.tolist(), named.tolist(), rng.random(DETECTIONS).tolist(), strict=True
        ):
            results.append(
                {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
            )
    return truth, results


def pycocotools_scores(truth: dict, results: list[dict]) -> tuple[dict, float, float]:
    """Return the scores by our names, the seconds in all, and those of evaluate + accumulate."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results = copy.deepcopy(truth), copy.deepcopy(results)  # it writes into them
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        loaded = time.perf_counter()
        evaluation.evaluate()
        evaluation.accumulate()
        done = time.perf_counter()
        evaluation.summarize()
    scores = dict(zip(METRICS, 100 * evaluation.stats[:6], strict=True))
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    for k, category in enumerate(truth["categories"]):
        for name, values in (("AP", precision[:, :, k]), ("AP50", precision[0, :, k])):
            scores[f"{name}-{category['name']}"] = 100 * values[values > -1].mean()
    return scores, done - start, done - loaded


class WatchedEvaluation:
    """hotcoco's COCOeval, which adds its time to `seconds`."""

    seconds = 0.0

    def __init__(self, *args):
        from hotcoco import COCOeval

        self._evaluation = COCOeval(*args)

    def evaluate(self):
        """Evaluate and accumulate; nothing is done in between."""
        start = time.perf_counter()
        self._evaluation.evaluate()
        self._evaluation.accumulate()
        WatchedEvaluation.seconds = time.perf_counter() - start

    def accumulate(self):
        """Nothing is left to do."""

    @property
    def eval(self):
        return self._evaluation.eval


def project_scores(truth: dict, results: list[dict]) -> tuple[dict, float, float]:
    """Return the project's scores, and seconds as `pycocotools_scores` does."""
    from detection.evaluation import average_precision as module

    module.COCOeval = WatchedEvaluation
    start = time.perf_counter()
    scores = module.average_precision(truth, results)
    return scores, time.perf_counter() - start, WatchedEvaluation.seconds


def compare(images: int, runs: int) -> None:
    """Print the seconds of both, their ratio, and the largest difference of a number."""
    truth, results = make_data(images)
    ours, theirs = [], []
    for _ in range(runs):  # in turn, so that both see the same machine
        scores, *seconds = project_scores(truth, results)
        ours.append(seconds)
        expected, *seconds = pycocotools_scores(truth, results)
        theirs.append(seconds)
    assert scores.keys() == expected.keys()
    largest = max(abs(scores[name] - expected[name]) for name in scores)
    print(f"{images} images, {len(results)} detections, {CLASSES} classes; the best of {runs} runs")
    print(f"{'':32}{'pycocotools':>12}{'project':>12}")
    for number, label in ((1, "evaluate + accumulate"), (0, "with all that comes before")):
        slow, fast = min(run[number] for run in theirs), min(run[number] for run in ours)
        print(f"  {label:30}{slow:10.3f} s{fast:10.3f} s{slow / fast:8.1f} x")
    print(f"  {len(scores)} numbers, the largest difference {largest:.1e}")
    if largest > 1e-9:
        sys.exit("the numbers differ")


def validate(images: int) -> None:
    """Print the seconds of a validation pass, and the share of evaluating in it."""
    import torch
    from detection.config import load_config
    from detectron2.config import instantiate
    from detectron2.evaluation import inference_on_dataset

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "tools/make_toy_dataset.py", "--output", folder]
        subprocess.run(
            [*command, "--train", "1", "--val", str(images)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        overrides = [
            f"dataset.val.json_file='{folder}/val.json'",
            f"dataset.val.image_root='{folder}/images'",
            f"train.output_dir='{folder}/output'",
            "model.roi_heads.box_predictor.test_score_thresh=0.0",  # 100 detections on every image
        ]
        cfg = load_config("configs/debug/smoke.py", overrides)
        torch.manual_seed(0)
        model = instantiate(cfg.model).eval()
        loader = instantiate(cfg.dataloader.test)
        evaluator = instantiate(cfg.dataloader.evaluator)

        seconds = {"process": 0.0, "evaluate": 0.0}
        for name in seconds:
            setattr(evaluator, name, timed(getattr(evaluator, name), name, seconds))
        start = time.perf_counter()
        inference_on_dataset(model, loader, evaluator)
        whole = time.perf_counter() - start
    print(f"validation pass over {images} images, ResNet-18 at 128 pixels on the CPU")
    print(f"  {'whole':30}{whole:10.3f} s")
    for name, taken in seconds.items():
        print(f"  {'COCOEvaluator.' + name:30}{taken:10.3f} s{100 * taken / whole:8.1f} %")


def timed(function, name: str, seconds: dict[str, float]):
    """Return `function`, adding its time to `seconds[name]`."""

    def run(*args):
        start = time.perf_counter()
        result = function(*args)
        seconds[name] += time.perf_counter() - start
        return result

    return run


def main() -> None:
    """Compare, then validate, in the project's folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, help="folder of a generated project")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--validation-images", type=int, default=100)
    args = parser.parse_args()
    os.chdir(args.project)
    sys.path.insert(0, str(Path.cwd()))
    compare(args.images, args.runs)
    validate(args.validation_images)


if __name__ == "__main__":
    main()
