#!/usr/bin/env python
"""
Print how large models are: parameters, and arithmetic for one image.

    python tools/model_info.py configs/faster_rcnn_R_50_FPN.py configs/retinanet_R_50_FPN.py
    python tools/model_info.py configs/*.py --size 1024 1024 --measure

A GFLOP is 10^9 multiplications, each with its addition. Two-stage models are counted with as many
proposals as they may make: on many images a trained one needs less.

With --measure also the memory that each image of a training batch takes for the backward pass, in
float32 (weights, gradients and momentum come once more, 12 bytes per parameter); and how
many images per second the model processes on this machine, one by one.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.utils.arguments import find_config
from detection.utils.cli import command_parser, tool


@tool
def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("configs", nargs="+", metavar="config")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=(800, 1333),
        metavar=("HEIGHT", "WIDTH"),
        help="of the image in pixels (default: 800 1333)",
    )
    parser.add_argument("--measure", action="store_true", help="memory and images per second too")
    args = parser.parse_args(argv)
    for config in args.configs:
        find_config(config)
    # slow to import
    from detection.config import load_config
    from detection.modeling.build import build_model
    from detection.workshop.analysis.model_size import count, memory, speed

    heading = f"{'':40} {'parameters (M)':>15} {'GFLOPs':>8}"
    print(heading + f" {'GB per image':>12} {'images/s':>9}" * args.measure)
    for config in args.configs:
        cfg = load_config(config)
        model = build_model(cfg, pretrained=False)
        parameters, gflops = count(model, *args.size)
        print(f"{Path(config).stem:40} {parameters:15.1f} {gflops:8.0f}", end="", flush=True)
        if args.measure:
            print(f" {memory(model, *args.size):12.1f}", end="", flush=True)
            print(f" {speed(model, *args.size):9.3g}", end="")
        print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
