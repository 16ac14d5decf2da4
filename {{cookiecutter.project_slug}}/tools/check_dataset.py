#!/usr/bin/env python
"""
Report what is wrong with a COCO data set, before training fails on it less clearly.

    python tools/check_dataset.py                         # datasets/{train,val,test}.json
    python tools/check_dataset.py --fix                   # and write corrected copies
    python tools/check_dataset.py --fix=drop              # take out much that cannot be corrected
    python tools/check_dataset.py --review output/label_errors.csv  # reviewed; of make labels
    python tools/check_dataset.py data/a.json data/b.json --image-root data/images
    python tools/check_dataset.py a.json b.json --image-root a.json=a --image-root b.json=b

Errors stop training or falsify scores, and make the exit status 1. Warnings and notes leave it at
0; it is 2 if a file cannot be read or written at all. --fix keeps what can be kept. Records that
cannot be fixed are taken out if they are few; if a kind of problem would take more than a small
share of the annotations, or all of an image, its records stay and are named, and the status is 1.
"""

import argparse
import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.checks.annotations import check_annotations
from detection.checks.findings import Finding
from detection.checks.fixes import Fixed, fix_splits
from detection.checks.images import SplitFacts, check_images, read_images
from detection.checks.report import (
    count_findings,
    findings_json,
    format_changes,
    format_findings,
    format_splits,
)
from detection.checks.reviews import apply_review
from detection.checks.splits import check_splits
from detection.classes import CLASSES
from detection.data.coco import category_id_map, read_coco, write_json
from detection.data.folds import check_folds
from detection.data.image_roots import COMMON, image_roots, load_dataset
from detection.data.image_roots import HELP as ROOT_HELP
from detection.utils.arguments import find_config
from detection.utils.cli import add_config_file, command_parser, complain, tool
from detection.utils.errors import UserError
from detection.utils.paths import DATASETS, in_project
from detection.writers.metric_names import find_collision, preset_in_use


def check(splits: dict[str, dict], facts: SplitFacts, roots: dict[str, str]) -> list[Finding]:
    """All findings about the splits, {name: parsed json}, and the images that were read."""
    findings = []
    for split, coco in splits.items():
        found = check_annotations(coco, roots[split]) + check_images(coco, facts[split])
        try:
            category_id_map(coco, split)
        except UserError as e:
            found.append(Finding("categories", [str(e).removeprefix(f"{split}: ")]))
        findings += [replace(finding, split=split) for finding in found]
    if (preset := preset_in_use()) and (collision := find_collision(preset, CLASSES)):
        findings.append(Finding("metric_collisions", [f"{collision} ({preset})"]))
    return findings + check_splits(splits, facts, roots)


def name_splits(args: argparse.Namespace) -> dict[str, str]:
    """
    {short name: path} of the files; the name is a file's stem, unless two files have the same.

    Without files on the command line they are the config's and the images to predict on.

    Raises:
        UserError: the config cannot be used.
    """
    if args.json_files:
        stems = [Path(f).stem for f in args.json_files]
        is_unique = len(set(stems)) == len(stems)
        return dict(zip(stems if is_unique else args.json_files, args.json_files, strict=True))
    find_config(args.config_file)
    dataset = load_dataset(args.config_file)
    files = {
        split: in_project((dataset.get(split) or {}).get("json_file") or f"{DATASETS}/{split}.json")
        for split in ("train", "val", "test")
    }
    return {s: f for s, f in files.items() if "://" in f or s != "test" or Path(f).exists()}


def fix(
    splits: dict[str, dict], facts: SplitFacts, roots: dict[str, str], args: argparse.Namespace
) -> tuple[Fixed, SplitFacts]:
    """Fix the splits; images that turn out to have other names are read too."""
    while True:
        fixed = fix_splits(splits, facts, roots, args.drop, args.shift)
        known = facts if args.no_images else read_images(fixed.splits, roots, facts)
        if all(len(known[split]) == len(facts[split]) for split in splits):
            return fixed, facts
        facts = known


def write_fixed(fixed: Fixed, files: dict[str, str], folder: str) -> dict[str, str]:
    """
    Write the corrected copies into the folder, under their files' names.

    Returns:
        {split: path}.

    Raises:
        UserError: that would overwrite something that is not such a copy, or cannot be written.
    """
    targets = {split: str(Path(folder) / Path(files[split]).name) for split in fixed.splits}
    if len(set(targets.values())) < len(targets):
        raise UserError(f"{folder}: two of the files would have the same name; fix them one by one")
    originals = {Path(file).resolve() for file in files.values()}
    for target in targets.values():
        is_original = Path(target).resolve() in originals
        if is_original or (Path(target).exists() and "fixes" not in read_coco(target)):
            raise UserError(
                f"{target}: is there already and is not a corrected copy; choose --output"
            )
    for split, target in targets.items():
        write_json({**fixed.splits[split], "fixes": dict(fixed.changes[split])}, target)
    return targets


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument(
        "json_files",
        nargs="*",
        help="COCO annotations, those to train on first "
        f"(default: the config's and {DATASETS}/test.json, those of them that exist)",
    )
    parser.add_argument(
        "--image-root", action="append", default=[], metavar="[FILE=]ROOT", help=ROOT_HELP
    )
    add_config_file(parser, "whose data to check", COMMON)
    parser.add_argument(
        "--no-images", action="store_true", help="do not open the images: seconds, not minutes"
    )
    parser.add_argument("--fix", action="store_true", help="write corrected copies to --output")
    parser.add_argument(
        "--fix=drop",
        dest="drop",
        action="store_true",
        help="also remove what cannot be corrected, however much it is",
    )
    parser.add_argument(
        "--fix=shift",
        dest="shift",
        action="store_true",
        help="also move category_ids by one where they are off by one",
    )
    parser.add_argument(
        "--review",
        metavar="CSV",
        help="write copies to --output, corrected as this CSV of make labels says when reviewed",
    )
    parser.add_argument(
        "--output",
        default=in_project(f"{DATASETS}/fixed"),
        help="folder for the corrected copies (default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the findings as JSON; -: to stdout")
    args = parser.parse_args(argv)
    args.fix |= args.drop or args.shift
    return args


def run(args: argparse.Namespace) -> int:
    """Check, fix and report; returns the exit status."""
    out = sys.stderr if args.json == "-" else sys.stdout
    files, splits, status = name_splits(args), {}, 0
    if args.json not in (None, "-") and Path(args.json).resolve() in {
        Path(f).resolve() for f in files.values()
    }:
        raise UserError(f"--json {args.json}: is one of the files to check; name another")
    for split, json_file in files.items():
        try:
            splits[split] = read_coco(json_file)
        except UserError as e:
            complain(str(e))
            status = 2
    if not splits:
        return status
    roots = image_roots(args.image_root, files, partial(load_dataset, args.config_file))
    reviewed = apply_review(splits, args.review) if args.review else {}
    facts = {split: {} for split in splits} if args.no_images else read_images(splits, roots)
    num_read = sum(map(len, facts.values()))
    of_folds = check_folds(files, splits, facts)
    findings = check(splits, facts, roots) + of_folds
    report = {"files": files, "images_read": num_read, "findings": findings_json(findings)}
    print(format_splits(splits, files, num_read), end="\n\n", file=out)
    width = min(shutil.get_terminal_size().columns, 110)
    if findings:
        print(format_findings(findings, width), end="\n\n", file=out)
    print(count_findings(findings), file=out)
    if args.review:
        done = [f"{split}: {n} {what}" for split, c in reviewed.items() for what, n in c.items()]
        done = done or [f"{args.review}: nothing to do, as no row says fix or drop"]
        print("", *done, sep="\n", file=out)
    if args.fix:
        fixed, facts = fix(splits, facts, roots, args)
        written = write_fixed(fixed, files, args.output)
        findings = check(fixed.splits, facts, roots) + of_folds
        report |= {
            "fixed": written,
            "changes": fixed.changes,
            "removed": {split: removal._asdict() for split, removal in fixed.removed.items()},
            "refused": {split: removal._asdict() for split, removal in fixed.refused.items()},
            "findings_left": findings_json(findings),
        }
        status = status or int(bool(fixed.refused))
        print(f"\n{format_changes(fixed, findings, args.drop, width)}\n", file=out)
        print("\n".join(f"written  {path}" for path in written.values()), file=out)
        print(f"these have {count_findings(findings)}", file=out)
    elif args.review:
        corrected = {split: splits[split] for split in splits if reviewed[split]}
        written = write_fixed(Fixed(corrected, reviewed, {}, {}), files, args.output)
        print("\n".join(f"written  {path}" for path in written.values()), file=out)
        report |= {"fixed": written, "changes": reviewed}
    if args.json == "-":
        print(json.dumps(report, indent=1))  # in ASCII, whatever the terminal's encoding
    elif args.json:
        write_json(report, args.json)
    return status or int(any(f.is_error for f in findings))


@tool
def main(argv: list[str] | None = None) -> int:
    """Returns 1 if there are errors, in the corrected copies with --fix; else 0; 2: no result."""
    return run(parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
