#!/usr/bin/env python
"""
Predict on images with a trained model, for submissions, ensembles and reports:

    python predict.py --config-file configs/faster_rcnn_R_50_FPN.py datasets/test.json
    python predict.py --config-file … --checkpoint model.pth "photos/*.jpg" --output photos.json
    python predict.py --config-file … datasets/test.json tta.enabled=True

Writes COCO results with the json's own image and category ids; a folder's images are numbered. The
list of images that these ids mean is beside them, as `….images.json`. Cut off, the same command
goes on where it was.
"""

import argparse
import os
import sys
from pathlib import Path

from detectron2.utils.logger import setup_logger

from detection.checkpoint.load import load_weights
from detection.config import find_config, load_config, split_overrides
from detection.data.coco import write_json
from detection.data.results import check_same_images, images_file, write_images
from detection.inference.predictor import (
    Predictor,
    batches_file,
    prediction_settings,
    set_thresholds,
)
from detection.inference.sources import list_images, results_name
from detection.inference.tta import with_tta
from detection.modeling.build import build_model
from detection.utils.cli import fraction, natural, positive
from detection.utils.errors import UserError
from detection.utils.failures import explained
from detection.utils.files import keep_inputs
from detection.utils.image_roots import config_root
from detection.utils.output_lock import locked_file


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="FILE", default="", help="of the training")
    parser.add_argument(
        "--checkpoint",
        default="best",
        help="best, last, a path, a URL or wandb-artifact://… (default: %(default)s)",
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="images or key=value",
        help="a COCO json, a folder or a quoted glob pattern; and overrides of the config",
    )
    parser.add_argument(
        "--image-root",
        help="what the file_name of each image is relative to (default: image_root of the split "
        "that a json is, else dataset.val.image_root)",
    )
    parser.add_argument("--output", help="default: <output_dir>/predictions/<images>.json")
    parser.add_argument("--batch-size", type=positive, default=4, help="default: %(default)s")
    parser.add_argument("--num-workers", type=natural, default=2, help="default: %(default)s")
    parser.add_argument(
        "--min-score",
        type=fraction,
        default=0.0,
        help="leave out boxes below; mAP wants all (default: %(default)s)",
    )
    parser.add_argument(
        "--max-per-image",
        type=positive,
        default=100,
        help="the best boxes kept (default: %(default)s)",
    )
    args = parser.parse_intermixed_args(argv)
    files, args.opts = split_overrides(args.images)
    if len(files) != 1:
        named = "; not " + ", ".join(files) if files else ""
        parser.error(f"name the images by one json, folder or quoted pattern{named}")
    (args.images,) = files
    return args


def main(argv: list[str] | None = None) -> None:
    """
    Predict as the command line, or `argv`, says.

    Raises:
        UserError: what cannot be, and the remedy; finished batches are kept.
    """
    args = parse_args(argv)
    cfg = load_config(args.config_file, args.opts)
    is_json = args.images.endswith(".json")
    name = results_name(args.images)
    output = Path(args.output or f"{cfg.train.output_dir}/predictions/{name}.json")
    keep_inputs(output, args.images, find_config(args.config_file), args.checkpoint)
    root = args.image_root
    if root is None and is_json and "dataset" in cfg:
        root = config_root(cfg.dataset, args.images)
    coco, image_root = list_images(args.images, root)
    if args.output is None:
        check_same_images(output, coco["images"], args.images)  # else they are overwritten
    model = build_model(cfg, pretrained=False).eval()
    weights = load_weights(model, cfg.train.output_dir, args.checkpoint)
    set_thresholds(cfg, model, args.min_score, args.max_per_image)

    predictor = Predictor(
        cfg, with_tta(cfg, model), coco, image_root, args.batch_size, args.num_workers
    )
    settings = prediction_settings(
        *(cfg, coco, weights),
        image_root=image_root,
        batch_size=args.batch_size,
        min_score=args.min_score,
        max_per_image=args.max_per_image,
    )
    remedy, workers = "the same command goes on", "--num-workers or --batch-size"
    with locked_file(output), explained(str(output), remedy, workers):
        results = predictor.predict(output, settings)
        if os.path.realpath(images_file(output)) != os.path.realpath(args.images):
            write_images(coco, output)
        write_json(results, str(output))
        batches_file(output).unlink()
    print(f"{output}: {len(coco['images'])} images, {len(results)} boxes")


if __name__ == "__main__":
    setup_logger(name="detectron2")
    try:
        main()
    except UserError as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
