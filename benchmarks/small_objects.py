"""Compares a detector of small objects with and without tiles, and times both.

    python benchmarks/small_objects.py PROJECT [--iterations 800] [--side 256] [--tile 256]

PROJECT is a generated project; run it with that project's Python. Draws images of 1536 × 1536
pixels with objects of 8 to 24 pixels on a busy ground. The detector of configs/debug/smoke.py is
trained twice from the same random weights, for as many iterations and with inputs of the same size,
`--side` pixels: once on whole images, once on tiles and whole images. An input of tiles holds fewer
objects, so that a hundred iterations are too few to learn the classes from them. Prints AP by
the objects' size, and what an image costs in the evaluation beside the detector's own time for as
many inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

IMAGE = 1536
SIZES = (8, 12, 16, 25)  # pixels; the objects' sides are between 8 and 24


def draw(folder: Path, name: str, count: int, classes: list[str], seed: int) -> Path:
    """Images with discs of the first class and squares of the second one; returns their json."""
    rng = np.random.default_rng(seed)
    coco = {"images": [], "annotations": []}
    coco["categories"] = [{"id": k, "name": c} for k, c in enumerate(classes, start=1)]
    for number in range(1, count + 1):
        coarse = rng.integers(60, 140, (IMAGE // 16, IMAGE // 16, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, (IMAGE, IMAGE), interpolation=cv2.INTER_CUBIC)
        taken = np.zeros((IMAGE, IMAGE), bool)
        for _ in range(60):
            side = int(rng.integers(8, 25))
            x, y = (int(v) for v in rng.integers(0, IMAGE - side, 2))
            around = np.s_[max(0, y - 4) : y + side + 4, max(0, x - 4) : x + side + 4]
            if taken[around].any():
                continue
            taken[around] = True
            color, label = rng.integers(170, 256, 3).tolist(), int(rng.integers(2))
            if label:
                pixels[y : y + side, x : x + side] = color
            else:
                axes = (side // 2, side // 2)
                centre = (x + side // 2, y + side // 2)
                cv2.ellipse(pixels, centre, axes, 0, 0, 360, color, -1)
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x, y, side, side],
                    "area": side**2,
                    "iscrowd": 0,
                }
            )
        file = f"{name}_{number}.jpg"
        cv2.imwrite(str(folder / file), pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])
        coco["images"].append({"id": number, "file_name": file, "width": IMAGE, "height": IMAGE})
    path = folder / f"{name}.json"
    path.write_text(json.dumps(coco))
    return path


def by_size(truth: Path, results: Path) -> list[float]:
    """AP of all objects, and of those of each range of SIZES, 0 to 100."""
    found = json.loads(results.read_text())
    if not found:
        return [0.0] * len(SIZES)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
    ranges = list(itertools.pairwise(SIZES))
    evaluation.params.areaRng = [[0, 1e10], *([a**2, b**2 - 1] for a, b in ranges)]
    evaluation.params.areaRngLbl = ["all", *(f"{a}-{b - 1}" for a, b in ranges)]
    evaluation.params.maxDets = [100]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0]  # of thresholds, recalls, classes, areas
    return [
        float(100 * p[p > -1].mean()) if (p > -1).any() else 0.0
        for p in np.moveaxis(precision, 3, 0)
    ]


def cost(cfg, checkpoint: Path) -> tuple[float, float, int]:
    """
    Seconds for an image in tiles, seconds that the detector alone takes for as many inputs, and
    their number; medians over the images.
    """
    import torch
    from detection.checkpoint.load import load_weights
    from detection.data.tiles import Tiles
    from detection.inference.tiles import with_tiles
    from detection.modeling.build import build_model
    from detectron2.config import instantiate

    model = build_model(cfg, pretrained=False).eval()
    load_weights(model, cfg.train.output_dir, str(checkpoint))
    tiled = with_tiles(cfg, model)
    images = [batch[0] for batch in instantiate(cfg.dataloader.test)]
    tiles = Tiles.of(cfg.tiles)
    number = len(tiles.windows(IMAGE, IMAGE)) + tiles.full_image
    times = ([], [])
    with torch.no_grad():
        tiled(images[:1])
        for image in images:
            pixels = torch.as_tensor(cv2.imread(image["file_name"])).permute(2, 0, 1)
            tile = {"image": pixels[:, : tiles.size, : tiles.size].contiguous()}
            tile |= {"height": tiles.size, "width": tiles.size}
            start = time.perf_counter()
            tiled([image])
            times[0].append(time.perf_counter() - start)
            start = time.perf_counter()
            for done in range(0, number, tiles.batch_size):
                model([tile] * min(tiles.batch_size, number - done))
            times[1].append(time.perf_counter() - start)
    return float(np.median(times[0])), float(np.median(times[1])), number


def main() -> None:
    """Print a table of AP, and the cost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", type=Path)
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=256, help="of an input, in pixels")
    parser.add_argument("--tile", type=int, default=256, help="tiles.size")
    parser.add_argument("--train", type=int, default=24, help="images to train on")
    parser.add_argument("--val", type=int, default=8, help="images to evaluate on")
    parser.add_argument("--output", type=Path, help="a folder to keep; default: a temporary one")
    parser.add_argument("--overrides", default="", help="of both, as for train_net.py")
    args = parser.parse_args()
    project = args.project.resolve()
    sys.path.insert(0, str(project))
    from detection.classes import CLASSES
    from detection.config import load_config

    folder = args.output or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": args.train, "val": args.val}
    files = {p: draw(folder, p, n, CLASSES, seed) for seed, (p, n) in enumerate(parts.items())}
    common = [f"dataset.{p}.json_file={file}" for p, file in files.items()]
    common += [f"dataset.{p}.image_root={folder}" for p in files]
    common += [f"train.{k}={args.iterations}" for k in ("max_iter", "eval_period")]
    common += [f"train.checkpointer.period={args.iterations}", "train.pictures.count=0"]
    common += ["writers.wandb=null", "writers.tensorboard=null"]
    common += [f"dataloader.train.total_batch_size={args.batch}"]
    common += [f"dataloader.train.mapper.augmentations.0.short_edge_length=[{args.side}]"]
    common += [f"dataloader.test.mapper.augmentations.0.short_edge_length={args.side}"]
    common += args.overrides.split()
    ranges = (f"{a}–{b - 1} px" for a, b in itertools.pairwise(SIZES))
    print(f"{'AP':12s}" + "".join(f"{text:>11s}" for text in ("all", *ranges)), flush=True)
    config = str(project / "configs/debug/smoke.py")
    for name, tiles in (("whole images", []), ("tiles", [f"tiles.size={args.tile}"])):
        overrides = [*common, f"train.output_dir={folder / name.split()[0]}"]
        if tiles:
            overrides += ["tiles.enabled=True", *tiles]
        command = [sys.executable, "train_net.py", "--config-file", config, *overrides]
        subprocess.run(command, cwd=project, check=True, capture_output=True)
        output = folder / name.split()[0]
        results = output / "inference/coco_instances_results.json"
        scores = by_size(files["val"], results)
        print(f"{name:12s}" + "".join(f"{score:11.1f}" for score in scores), flush=True)
    seconds, alone, number = cost(load_config(config, overrides), output / "model_best.pth")
    print(
        f"an image in {number - 1} tiles and whole: {seconds:.2f} s; the detector alone on "
        f"{number} inputs: {alone:.2f} s; ratio {seconds / alone:.2f}"
    )


if __name__ == "__main__":
    main()
