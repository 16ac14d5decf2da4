#!/usr/bin/env python
"""
Look at the data before training on it: one HTML page that opens offline.

    python tools/explore_dataset.py                       # the data and anchors of the config
    python tools/explore_dataset.py --config-file configs/retinanet_R_50_FPN.py
    python tools/explore_dataset.py more/train.json more/val.json --image-root more/images
    python tools/explore_dataset.py dataset.fold=0        # of make split
    python tools/explore_dataset.py --write-anchors       # the anchors it suggests, for all models

Classes, box sizes against the config's anchors, boxes per image, classes together, examples of each
class, and the images with their boxes, the most unusual first.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.data import image_roots
from detection.utils.arguments import find_config, split_overrides
from detection.utils.cli import (
    DEFAULT_CONFIG,
    add_config_file,
    command_parser,
    non_negative_int,
    tool,
)
from detection.utils.errors import UserError
from detection.utils.paths import DATASETS, PROJECT_ROOT, in_project
from detection.workshop.analysis.dataset_statistics import read_splits


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="json or key=value",
        help="COCO annotations, and overrides of the config (default: the config's data)",
    )
    add_config_file(parser, "whose anchors, resizing and data to take", DEFAULT_CONFIG)
    parser.add_argument(
        "--image-root",
        action="append",
        default=[],
        metavar="[FILE=]ROOT",
        help=image_roots.HELP,
    )
    parser.add_argument(
        "--output",
        default=in_project(f"{DATASETS}/explore.html"),
        help="the page (default: %(default)s)",
    )
    parser.add_argument(
        "--count", type=non_negative_int, default=48, help="pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--sample",
        type=non_negative_int,
        default=1000,
        help="images to look at for brightness and sharpness (default: %(default)s)",
    )
    parser.add_argument(
        "--write-anchors",
        action="store_true",
        help="write anchors that follow the boxes to common/anchors.py of the configs, if they "
        "fit clearly better",
    )
    return parser.parse_intermixed_args(argv)  # options and inputs in any order


def explore(args: argparse.Namespace) -> list[str]:
    """
    Write the page; returns its notes, sentences on what stands out.

    Raises:
        UserError: the config or an annotation file cannot be used, or there is nothing to show.
    """
    files, overrides = split_overrides(args.inputs)
    config_file = find_config(args.config_file)
    # slow to import
    from detection.config import load_config
    from detection.workshop.analysis.anchors import find_anchors, resize_factors, write_anchors
    from detection.workshop.analysis.rare_classes import rare_class_section
    from detection.workshop.analysis.tiling import tile_note
    from detection.workshop.reports.contact_sheet import sheet_section
    from detection.workshop.reports.crops import example_strips
    from detection.workshop.reports.exploration import anchor_section, overview
    from detection.workshop.reports.page import render_page, write_page

    cfg = load_config(args.config_file, overrides)
    sources = _sources(cfg, files, args.image_root)
    notes = [f"No {name}: {path} does not exist." for name, path in _absent(sources).items()]
    for name in _absent(sources):
        del sources[name]
    class_names, splits = read_splits({name: path for name, (path, _) in sources.items()})
    empty = [split.json_file for split in splits if not len(split.boxes)]
    splits = [split for split in splits if len(split.boxes)]
    if not splits:
        raise UserError(f"{empty[0]}: has no annotations to explore; name a file that has some")
    notes += [f"Left out, as it has no annotations: {_shown(json_file)}." for json_file in empty]

    page = overview(class_names, splits)
    page["notes"] += notes
    for split in page["splits"]:
        split["json_file"] = _shown(split["json_file"])
    model = _shown(args.config_file)
    factors = resize_factors(cfg, splits[0].sizes)
    anchors = find_anchors(cfg)
    if args.write_anchors and anchors is None:
        raise UserError(f"{model}: the model has no anchors; name a config of one that has some")
    page |= anchor_section(class_names, splits[0], anchors, factors, model)
    page |= rare_class_section(class_names, splits[0])
    page["notes"].append(tile_note(cfg, splits[0]))
    roots = [sources[split.name][1] for split in splits]
    page["strips"] = example_strips(class_names, splits[0], roots[0]) if args.count else []
    page["sheet"] = sheet_section(class_names, splits, roots, args.count, args.sample)
    write_page(args.output, render_page("exploration.html.jinja", title=PROJECT_ROOT.name, **page))
    if args.write_anchors:
        found = (page["suggestion"] or {}).get("anchors")
        page["notes"] += write_anchors(config_file, page["splits"][0]["json_file"], found)
    missing = page["sheet"]["missing"]
    return page["notes"] + (
        [f"{missing} (--image-root: {', '.join(dict.fromkeys(roots))})"] if missing else []
    )


def _sources(cfg, json_files: list[str], options: list[str]) -> dict[str, tuple[str, str]]:
    """{name of the split: (its json, the folder of its images)}."""
    # a config from elsewhere does not say where the data are
    dataset = cfg.get("dataset", {})
    if json_files:
        names = [Path(f).stem for f in json_files]
        names = names if len(set(names)) == len(names) else json_files
        files = dict(zip(names, json_files, strict=True))
    else:
        files = {
            name: in_project(dataset.get(name, {}).get("json_file", f"{DATASETS}/{name}.json"))
            for name in ("train", "val")
        }
    roots = image_roots.image_roots(options, files, lambda: dataset)
    return {name: (path, roots[name]) for name, path in files.items()}


def _absent(sources: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Splits after the first whose file does not exist; a missing first one is an error."""
    later = list(sources.items())[1:]
    return {
        n: _shown(path) for n, (path, _) in later if "://" not in path and not Path(path).exists()
    }


def _shown(path: str) -> str:
    """The path relative to the project's root, if it is inside."""
    whole = Path(path).resolve()
    return str(whole.relative_to(PROJECT_ROOT)) if whole.is_relative_to(PROJECT_ROOT) else path


@tool
def main(argv: list[str] | None = None) -> None:
    """Print what stands out and where the page is."""
    args = parse_args(argv)
    for line in explore(args):
        print(line)
    print(args.output)


if __name__ == "__main__":
    sys.exit(main())
