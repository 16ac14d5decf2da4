"""Checks folds that `make split` wrote: no image in both parts, and all images of the json."""

from pathlib import Path

from detection.checks.findings import Finding
from detection.checks.images import ImageFacts, SplitFacts, file_name
from detection.data.coco import read_coco


def check_folds(files: dict[str, str], splits: dict[str, dict], facts: SplitFacts) -> list[Finding]:
    """
    Compare the folds in folders `folds` beside annotation files with what they are folds of.

    Args:
        files: {name: path}.
        splits: {name: parsed json}; the one that shares most images with a fold was split.
        facts: of the images that were read.

    Returns:
        Findings with the name of their fold.

    Raises:
        UserError: a fold's file cannot be read.
    """
    findings = []
    beside = {split: Path(files[split]).parent / "folds" for split in splits}
    for folder in dict.fromkeys(beside.values()):
        names = {s: _names(splits[s]) for s, folds in beside.items() if folds == folder}
        for fold in sorted(path.parent for path in folder.glob("*/val.json")):
            if not (fold / "train.json").is_file():
                continue
            train, val = (read_coco(str(fold / f"{part}.json")) for part in ("train", "val"))
            in_fold = _names(train) | _names(val)
            whole = max(names, key=lambda split: len(names[split] & in_fold))
            if not names[whole] & in_fold:
                continue
            torn = _torn(_names(train), _names(val), facts.get(whole, {}))
            old = _outdated(train, val, splits[whole], Path(files[whole]).name)
            for kind, notes in (("torn_images", torn), ("old_folds", old)):
                label = f"{folder.name}/{fold.name}"
                findings.append(Finding(kind, list(notes), list(notes.values()), label))
    return [finding for finding in findings if len(finding.items)]


def _torn(train: set[str], val: set[str], facts: dict[str, ImageFacts]) -> dict[str, str]:
    """{image of val: a note on the image of train with the same content}."""

    def content(name: str) -> bytes | str:
        return (name in facts and facts[name].digest) or name

    trained = {content(name): name for name in sorted(train)}
    return {n: f"train: {trained[content(n)]}" for n in sorted(val) if content(n) in trained}


def _outdated(train: dict, val: dict, whole: dict, file: str) -> dict[str, str]:
    """{image that only the fold or only the split file has: a note on that}."""
    names, in_fold = _names(whole), _names(train) | _names(val)
    notes = dict.fromkeys(sorted(in_fold - names), f"not in {file}")
    notes |= dict.fromkeys(sorted(names - in_fold), f"in {file} alone")
    count = sum(len(part.get("annotations") or []) for part in (train, val))
    if not notes and count != (of_whole := len(whole.get("annotations") or [])):
        notes = {f"{count} annotations": f"{of_whole} in {file}"}
    return notes


def _names(coco: dict) -> set[str]:
    return {name for image in coco["images"] if (name := file_name(image)) is not None}
