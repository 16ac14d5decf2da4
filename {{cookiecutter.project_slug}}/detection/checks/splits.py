"""Checks over several splits of one data set: the same categories, and no image in two of them."""

import os
from collections import defaultdict

from detection.checks.annotations import CATEGORY, complaint
from detection.checks.findings import Finding
from detection.checks.images import SplitFacts, file_name
from detection.utils.image_files import is_file


def check_splits(
    splits: dict[str, dict], facts: SplitFacts, roots: dict[str, str]
) -> list[Finding]:
    """
    Compare parsed COCO jsons.

    Args:
        splits: {name: parsed json}, in an order that has the training set first.
        facts: of the images that were read.
        roots: {name: what its `file_name`s are relative to}.

    Returns:
        Findings with the name of their split.
    """
    findings = []
    if splits:
        first, *others = splits
        wanted = _categories(splits[first])
        for split in others:
            odd = [c for c in _categories(splits[split]) if c not in wanted]
            notes = [f"id {id_}" for id_, _ in odd]
            names = [name for _, name in odd]
            findings.append(Finding("differing_categories", names, notes, split))
    odd_roots = doubtful_roots(splits, roots)
    shared = defaultdict(list)
    for places in shared_images(splits, facts, roots):
        for split, image in places[:-1]:
            others = [f"{s}: {i['file_name']}" for s, i in places if s != split]
            if odd := odd_roots & {s for s, _ in places}:
                others.append(f"the same file: is {roots[split]} the root of {min(odd)} too?")
            shared[split].append((image["file_name"], "; ".join(others)))
    for split, images in shared.items():
        names, notes = zip(*images, strict=True)
        findings.append(Finding("shared_images", names, notes, split))
    return [f for f in findings if len(f.items)]


def shared_images(
    splits: dict[str, dict], facts: SplitFacts, roots: dict[str, str]
) -> list[list[tuple[str, dict]]]:
    """
    For each image that several splits have: (split, image record), one a split, in order.

    They have the same content; or, where images are not read, the same file, which is there.
    """
    places = defaultdict(dict)
    for split, coco in splits.items():
        of_split, root = facts.get(split, {}), roots[split]
        for image in coco["images"]:
            if (name := file_name(image)) is None:
                continue
            content = of_split[name].digest if name in of_split else None
            if content is None and ("://" in root or is_file(root, name)):
                content = os.path.realpath(os.path.join(root, name))
            if content is not None:
                places[content].setdefault(split, image)
    return [list(found.items()) for found in places.values() if len(found) > 1]


def doubtful_roots(splits: dict[str, dict], roots: dict[str, str]) -> set[str]:
    """Splits all of whose names an earlier one has too, under the same root: perhaps not theirs."""
    names = {s: {file_name(i) for i in coco["images"]} for s, coco in splits.items()}
    order = list(splits)
    return {
        split
        for k, split in enumerate(order)
        if any(roots[s] == roots[split] and names[split] <= names[s] for s in order[:k])
    }


def _categories(coco: dict) -> list[tuple[int, str]]:
    return [(c["id"], c["name"]) for c in coco["categories"] if not complaint(c, CATEGORY)]
