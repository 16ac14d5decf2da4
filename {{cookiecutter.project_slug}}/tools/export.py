#!/usr/bin/env python
"""
Export a trained model to one ONNX file, and prove that it predicts as well as the model:

    python tools/export.py --config-file configs/faster_rcnn_R_50_FPN.py
    python tools/export.py --config-file … --size 800x1344 --batch 1 --output model.onnx
    python predict.py --onnx output/…/model.onnx datasets/test.json

Both predict on the validation images; AP and the competition's metric are printed side by side, and
the file is not kept if it loses more than 0.1 points. Normalization, NMS and all that is needed to
read the results are in the file: `predict.py --onnx` needs neither detectron2 nor PyTorch.
Test-time augmentation and tiles are not in it. Exit status 1: the file was refused.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

import argparse
import importlib.util
import os
import re

from detection.utils.arguments import find_config, split_override
from detection.utils.cli import (
    add_config_file,
    command_parser,
    non_negative_int,
    positive_int,
    tool,
    unit_interval,
)
from detection.utils.errors import UserError
from detection.utils.files import refuse_to_overwrite

NEEDED = ("onnx", "onnxscript", "onnxruntime")


@tool
def main(argv: list[str] | None = None) -> int:
    """Write the file, and compare; 1 if it is refused."""
    args = parse(argv)
    # slow to import
    from detection.checkpoint.load import load_weights
    from detection.config import load_config
    from detection.inference.onnx.export import describe, refuse_views, write
    from detection.inference.onnx.proof import Proof
    from detection.inference.predictor import set_thresholds
    from detection.modeling.build import build_model

    cfg = load_config(args.config_file, args.opts)
    refuse_views(cfg)
    output = Path(args.output or f"{cfg.train.output_dir}/model.onnx")
    refuse_to_overwrite(output, args.json, find_config(args.config_file), args.checkpoint)
    proof = Proof(cfg, args.json, args.image_root, args.images, args.batch or 1)
    model = build_model(cfg, pretrained=False).eval()
    weights = load_weights(model, cfg.train.output_dir, args.checkpoint)
    set_thresholds(cfg, model, args.min_score, args.max_per_image)
    metadata = describe(
        *(cfg, model, weights),
        config=Path(args.config_file).name,
        size=args.size,
        batch=args.batch,
        min_score=args.min_score,
        max_per_image=args.max_per_image,
    )
    partial = output.with_name(f"{output.stem}.partial.onnx")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        print(f"exporting {weights}, which takes a minute or two", flush=True)
        write(model, metadata, partial)
        print(f"predicting on {len(proof.coco['images'])} images with both", flush=True)
        refused = proof.compare(model, partial)
        if args.runs:
            proof.time(model, partial, args.runs)
        if refused:
            print(f"{output}: not written: {refused}", file=sys.stderr)
            return 1
        os.replace(partial, output)
    except OSError as e:
        raise UserError(f"{output}: cannot be written ({e.strerror or e})") from e
    finally:
        partial.unlink(missing_ok=True)
    print(f"{output}: {output.stat().st_size / 1e6:.0f} MB, of {weights}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options, checked without slow imports."""
    parser = command_parser(__doc__)
    add_config_file(parser, "of the training")
    parser.add_argument("--checkpoint", default="best", help="as of predict.py (default: best)")
    parser.add_argument("--output", help="default: <output_dir>/model.onnx")
    parser.add_argument(
        "--size",
        type=canvas,
        help="dynamic, or HEIGHTxWIDTH of the canvas that each image is padded to (default: that "
        "of a config that makes squares, else dynamic)",
    )
    parser.add_argument("--batch", type=positive_int, help="images per run (default: any number)")
    parser.add_argument(
        "--min-score", type=unit_interval, default=0.0, help="of the boxes (default: %(default)s)"
    )
    parser.add_argument(
        "--max-per-image", type=positive_int, default=100, help="boxes (default: %(default)s)"
    )
    parser.add_argument(
        "--json", help="annotated images to compare on (default: dataset.val.json_file)"
    )
    parser.add_argument("--image-root", help="what the file_name of each is relative to")
    parser.add_argument("--images", type=positive_int, help="compare on the first so many alone")
    parser.add_argument(
        "--runs",
        type=non_negative_int,
        default=20,
        help="that time PyTorch and ONNX Runtime on the CPU; 0: none (default: %(default)s)",
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    args = parser.parse_intermixed_args(argv)
    find_config(args.config_file)
    for override in args.opts:
        split_override(override)
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"export needs {', '.join(missing)}; `uv pip install --group export`, or `pip install "
            f"{' '.join(NEEDED)}`, installs it"
        )
    return args


def canvas(text: str) -> tuple[int, int] | str:
    """HEIGHTxWIDTH in pixels, or dynamic; argparse shows the error of another text."""
    if text == "dynamic":
        return text
    if match := re.fullmatch(r"(\d{1,5})x(\d{1,5})", text):
        height, width = map(int, match.groups())
        if height and width:
            return height, width
    raise argparse.ArgumentTypeError(f"has to be dynamic or HEIGHTxWIDTH, not {text!r}")


if __name__ == "__main__":
    sys.exit(main())
