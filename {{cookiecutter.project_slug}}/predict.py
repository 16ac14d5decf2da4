#!/usr/bin/env python
"""
Predict on images with a trained model, for submissions, ensembles and reports:

    python predict.py --config-file configs/faster_rcnn_R_50_FPN.py datasets/test.json
    python predict.py --config-file … --checkpoint model.pth "photos/*.jpg" --output photos.json
    python predict.py --config-file … datasets/test.json tta.enabled=True
    python predict.py --onnx output/…/model.onnx datasets/test.json

Writes COCO results with the json's image and category ids; the images of a folder are numbered.
`….images.json` beside the results lists the images. If interrupted, the same command continues.
"""

import sys

from detection.utils.arguments import early_args, parse_prediction_args
from detection.utils.cli import exit_status

if __name__ == "__main__":  # before the imports below, which take seconds
    args = early_args(parse_prediction_args, __doc__)
    if args.onnx:  # what needs neither PyTorch nor detectron2
        from detection.inference.onnx.predict import predict

        sys.exit(exit_status(lambda: predict(args), "interrupted; the same command continues"))

import os
from pathlib import Path

from detectron2.utils.logger import setup_logger

from detection.checkpoint.load import load_weights
from detection.config import load_config
from detection.data.coco import write_json
from detection.data.image_roots import config_root
from detection.data.results import check_same_images, images_file, write_images
from detection.inference.batches import batches_file
from detection.inference.predictor import (
    Predictor,
    model_name,
    prediction_settings,
    set_thresholds,
)
from detection.inference.sources import list_images, results_name
from detection.inference.tiles import with_tiles
from detection.inference.tta import with_tta
from detection.modeling.build import build_model
from detection.utils.arguments import find_config
from detection.utils.failures import explained
from detection.utils.files import refuse_to_overwrite
from detection.utils.output_lock import locked_file


def main(argv: list[str] | None = None) -> None:
    """
    Predict as the command line, or `argv`, says.

    Raises:
        UserError: the problem and its remedy; finished batches are kept.
    """
    args = parse_prediction_args(argv, __doc__)
    cfg = load_config(args.config_file, args.opts)
    is_json = args.images.endswith(".json")
    name = results_name(args.images)
    output = Path(args.output or f"{cfg.train.output_dir}/predictions/{name}.json")
    refuse_to_overwrite(output, args.images, find_config(args.config_file), args.checkpoint)
    root = args.image_root
    if root is None and is_json and "dataset" in cfg:
        root = config_root(cfg.dataset, args.images)
    coco, image_root = list_images(args.images, root)
    if args.output is None:
        check_same_images(output, coco["images"], args.images)  # or overwrite theirs
    model = build_model(cfg, pretrained=False).eval()
    weights = load_weights(model, cfg.train.output_dir, args.checkpoint)
    set_thresholds(cfg, model, args.min_score, args.max_per_image)

    model = with_tiles(cfg, with_tta(cfg, model))
    predictor = Predictor(cfg, model, coco, image_root, args.batch_size, args.num_workers)
    settings = prediction_settings(
        *(cfg, coco, weights),
        image_root=image_root,
        batch_size=args.batch_size,
        min_score=args.min_score,
        max_per_image=args.max_per_image,
    )
    remedy, workers = "the same command continues", "--num-workers or --batch-size"
    with locked_file(output), explained(str(output), remedy, workers):
        results = predictor.predict(output, settings)
        if os.path.realpath(images_file(output)) != os.path.realpath(args.images):
            write_images(coco, output, [model_name(cfg, weights)])
        write_json(results, str(output))
        batches_file(output).unlink()
    print(f"{output}: {len(coco['images'])} images, {len(results)} boxes")


if __name__ == "__main__":
    setup_logger()
    setup_logger(name="detection")
    sys.exit(exit_status(main, "interrupted; the same command continues"))
