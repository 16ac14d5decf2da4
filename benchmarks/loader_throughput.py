"""Times a project's loading and augmenting of images beside detectron2's, in one run.

    python benchmarks/loader_throughput.py PROJECT [--runs 40] [--size 1024]

PROJECT is a generated project; run it with that project's Python. One process, one thread: images
a second of CPU time are those of one core. JPEG files of quality 90 with what photos have (soft
light, edges, texture, some grain) are read, augmented and turned into model inputs:

- bare decoding: libjpeg-turbo to BGR pixels in memory, the least that any loader must do;
- detectron2's DatasetMapper with the default augmentations (resize the shorter side to one of
  seven lengths, flip half of the images);
- the project's mapper with the same list, and then with more.

All take turns on the same images with the same random numbers, and ratios are those of medians
over all images and turns. Both mappers must give the same boxes, and the same pixels to two levels
of 255.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

IMAGES = 6
LEAST_SPEEDUP, MOST_OF_DECODING = 1.5, 2.5


def make_photo(size: int, seed: int):
    """Return uint8 (size, size, 3) BGR: soft light, coloured shapes with texture, some grain."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(seed)

    def soft(cells: int, strength: float, channels: int):
        noise = rng.uniform(-strength, strength, (cells, cells, channels)).astype(np.float32)
        return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC).reshape(
            size, size, channels
        )

    image = 120 + soft(3, 60, 3) + soft(12, 30, 1)
    for _ in range(25):
        mask = np.zeros((size, size), np.uint8)
        center, axes = rng.integers(0, size, 2).tolist(), rng.integers(20, size // 5, 2).tolist()
        cv2.ellipse(mask, center, axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
        surface = rng.uniform(20, 230, 3).astype(np.float32) + soft(size // 16, 25, 1)
        share = mask[:, :, None] / np.float32(255)
        image += share * (surface - image)
    image += soft(size // 3, 8, 1) + rng.normal(0, 2, image.shape).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def make_records(folder: Path, size: int) -> list[dict]:
    """Write JPEG files into `folder` and return data set dicts with eight boxes each."""
    import cv2
    import numpy as np
    from detectron2.structures import BoxMode

    records = []
    for number in range(IMAGES):
        path = folder / f"{number}.jpg"
        cv2.imwrite(str(path), make_photo(size, number), [cv2.IMWRITE_JPEG_QUALITY, 90])
        rng = np.random.default_rng(number)
        boxes = np.hstack([rng.uniform(0, 0.7 * size, (8, 2)), rng.uniform(8, 0.3 * size, (8, 2))])
        annotations = [
            {"bbox": b, "bbox_mode": BoxMode.XYWH_ABS, "category_id": k % 3, "iscrowd": 0}
            for k, b in enumerate(boxes.tolist())
        ]
        records.append(
            {
                "file_name": str(path),
                "image_id": number,
                "width": size,
                "height": size,
                "annotations": annotations,
            }
        )
    return records


def make_mappers(records: list[dict]) -> dict:
    """Return what is timed: {label: function of a record}."""
    import detectron2.data.transforms as T
    import simplejpeg
    from configs.common import augmentations
    from detection.config import load_config
    from detection.data.mapper import BoxMapper
    from detectron2.config import instantiate
    from detectron2.data import DatasetMapper

    node = load_config("configs/faster_rcnn_R_50_FPN.py").dataloader.train.mapper
    ours = instantiate(node.augmentations)
    resize = T.ResizeShortestEdge(
        tuple(node.augmentations[0].short_edge_length), node.augmentations[0].max_size, "choice"
    )
    theirs = [resize, T.RandomFlip(horizontal=True)]

    def mapper(**more) -> BoxMapper:
        made = BoxMapper(is_train=True, augmentations=ours, image_format="BGR", **more)
        made.use_dataset(records)
        return made

    def decode(record: dict):
        return simplejpeg.decode_jpeg(Path(record["file_name"]).read_bytes(), "BGR")

    return {
        "bare decoding": decode,
        "detectron2's mapper": DatasetMapper(
            is_train=True, augmentations=theirs, image_format="BGR"
        ),
        "ours, same output": mapper(),
        "ours + photometric": mapper(transforms=instantiate(augmentations.photometric)),
        "ours + strong": mapper(transforms=instantiate(augmentations.strong)),
        "ours + mosaic, mixup": mapper(mixing=instantiate(augmentations.mixing)),
        "ours + copy-paste": mapper(mixing=instantiate(augmentations.copy_paste)),
    }


def compare_outputs(ours, theirs, records: list[dict]) -> tuple[int, float]:
    """Return the largest difference of a pixel, and the part of those that differ; check boxes."""
    import numpy as np

    largest, different, total = 0, 0, 0
    for seed in range(4 * len(records)):
        outputs = []
        for function in (ours, theirs):
            np.random.seed(seed)
            outputs.append(function(records[seed % len(records)]))
        a, b = outputs
        # detectron2 adds x and width in single precision
        if (a["instances"].gt_boxes.tensor - b["instances"].gt_boxes.tensor).abs().max() > 1e-3:
            sys.exit("the boxes differ")
        difference = (a["image"].int() - b["image"].int()).abs()
        largest = max(largest, int(difference.max()))
        different, total = different + int((difference > 0).sum()), total + difference.numel()
    return largest, different / total


def measure(mappers: dict, records: list[dict], runs: int) -> dict[str, float]:
    """Return the median CPU seconds an image of each mapper, all taking turns."""
    import numpy as np
    import torch

    times: dict[str, list[float]] = {label: [] for label in mappers}
    for run in range(runs + 1):
        for number, record in enumerate(records):
            for label, function in mappers.items():
                np.random.seed(1000 * run + number)
                torch.manual_seed(1000 * run + number)
                start = time.process_time()
                function(record)
                if run:  # the first one warms caches
                    times[label].append(time.process_time() - start)
    return {label: statistics.median(values) for label, values in times.items()}


def main() -> None:
    """Compare, measure, print; exit with 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, help="folder of a generated project")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--size", type=int, default=1024, help="side of the images in pixels")
    args = parser.parse_args()
    os.chdir(args.project)
    sys.path.insert(0, str(Path.cwd()))
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        records = make_records(Path(folder), args.size)
        kilobytes = sum(Path(r["file_name"]).stat().st_size for r in records) / len(records) / 1000
        mappers = make_mappers(records)
        theirs, ours = mappers["detectron2's mapper"], mappers["ours, same output"]
        largest, part = compare_outputs(ours, theirs, records)
        medians = measure(mappers, records, args.runs)

    print(f"{IMAGES} JPEG files of {args.size} x {args.size} pixels, {kilobytes:.0f} kB each")
    print(
        f"  same boxes; pixels differ by at most {largest} of 255, {100 * part:.3f} % differ at all"
    )
    decoding, reference = medians["bare decoding"], medians["detectron2's mapper"]
    print(f"{'':24}{'ms':>8}{'images/s':>10}{'x detectron2':>14}{'cost / decoding':>17}")
    for label, seconds in medians.items():
        print(
            f"  {label:22}{1000 * seconds:8.1f}{1 / seconds:10.0f}"
            f"{reference / seconds:14.2f}{seconds / decoding:17.2f}"
        )
    seconds = medians["ours, same output"]
    if reference / seconds < LEAST_SPEEDUP or seconds / decoding > MOST_OF_DECODING or largest > 2:
        sys.exit(
            f"to reach: {LEAST_SPEEDUP} x detectron2 at the same output, "
            f"at most {MOST_OF_DECODING} x the cost of decoding"
        )


if __name__ == "__main__":
    main()
