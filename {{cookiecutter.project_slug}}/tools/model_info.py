#!/usr/bin/env python
"""
Tell how large models are: parameters, and arithmetic for one image.

    python tools/model_info.py configs/faster_rcnn_R_50_FPN.py configs/retinanet_R_50_FPN.py
    python tools/model_info.py configs/*.py --size 1024 1024

A GFLOP is 10^9 multiplications, each with its addition. Two-stage models are counted with as many
proposals as they may make: on many images a trained one needs less.
"""

import argparse
import sys
import warnings
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.utils.analysis import FlopCountAnalysis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.checkpoints import without_pretrained
from detection.config import load_config
from detection.errors import UserError


def count(model: torch.nn.Module, height: int, width: int) -> tuple[float, float]:
    """Millions of parameters, and GFLOPs for one image of that many pixels."""
    model.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing
        # boxes are the anchors, and none suppresses another: nothing but shapes counts here
        for parameter in model.parameters():
            parameter.zero_()
        for module in model.modules():
            if hasattr(module, "nms_thresh"):
                module.nms_thresh = 1.0
        flops = FlopCountAnalysis(model, [{"image": torch.zeros(3, height, width)}])
        flops.uncalled_modules_warnings(False).unsupported_ops_warnings(False)
        return sum(p.numel() for p in model.parameters()) / 1e6, flops.total() / 1e9


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", metavar="config")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=(800, 1333),
        metavar=("HEIGHT", "WIDTH"),
        help="of the image in pixels (default: 800 1333)",
    )
    args = parser.parse_args(argv)
    print(f"{'':40} {'parameters (M)':>15} {'GFLOPs':>8}")
    for config in args.configs:
        model = instantiate(without_pretrained(load_config(config).model))
        parameters, gflops = count(model, *args.size)
        print(f"{Path(config).stem:40} {parameters:15.1f} {gflops:8.0f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        sys.exit(f"error: {e}")
