"""Checks over several splits of one data set: the same categories, and no image in two of them."""

import os
from collections import defaultdict

from detection.checks.annotations import sound
from detection.checks.findings import Finding
from detection.checks.images import SplitFacts, file_name
from detection.checks.records import CATEGORY
from detection.utils.image_files import is_file


def check_splits(
    splits: dict[str, dict], facts: SplitFacts, roots: dict[str, str]
) -> list[Finding]:
    """
    Compare parsed COCO files.

    Args:
        splits: {name: parsed json}, in an order that has the training set first.
        facts: of the images that were read.
        roots: {name: what its `file_name`s are relative to}.

    Returns:
        Findings with the name of their split.
    """
    cases = defaultdict(list)  # {(kind, split): [(item, note)]}
    categories = {
        split: [(c["id"], c["name"]) for c in sound(coco["categories"], CATEGORY)]
        for split, coco in splits.items()
    }
    for split, pairs in categories.items():
        for id_, name in pairs:
            if (id_, name) not in next(iter(categories.values())):
                cases["differing_categories", split].append((name, f"id {id_}"))
    odd_roots = doubtful_roots(splits, roots)
    for places in shared_images(splits, facts, roots):
        for split, image in places[:-1]:
            others = [f"{s}: {i['file_name']}" for s, i in places if s != split]
            if odd := odd_roots & {s for s, _ in places}:
                others.append(f"the same file: is {roots[split]} the root of {min(odd)} too?")
            cases["shared_images", split].append((image["file_name"], "; ".join(others)))
    return [Finding(k, *zip(*pairs, strict=True), split) for (k, split), pairs in cases.items()]


def shared_images(
    splits: dict[str, dict], facts: SplitFacts, roots: dict[str, str]
) -> list[list[tuple[str, dict]]]:
    """
    For each image that several splits have: (split, image record), one per split, in order.

    They have the same content; or, where images are not read, the same existing file.
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
    """Splits whose names an earlier one of the same root has all too: it may not be their root."""
    names = {s: {file_name(i) for i in coco["images"]} for s, coco in splits.items()}
    order = list(splits)
    return {
        split
        for k, split in enumerate(order)
        if any(roots[s] == roots[split] and names[split] <= names[s] for s in order[:k])
    }
