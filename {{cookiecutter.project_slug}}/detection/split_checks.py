"""Checks over several splits of one data set: the same categories, and no image in two of them."""

from collections import defaultdict

from detection.annotation_checks import CATEGORY, complaint
from detection.findings import Finding
from detection.image_checks import ImageFacts, file_name


def check_splits(splits: dict[str, dict], facts: dict[str, ImageFacts]) -> list[Finding]:
    """
    Compare parsed COCO jsons.

    Args:
        splits: {name: parsed json}, in an order that has the training set first.
        facts: of the images that were read; the others are known by their file_name alone.

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
    shared = defaultdict(list)
    for places in shared_images(splits, facts):
        for split, image in places[:-1]:
            others = [f"{s}: {i['file_name']}" for s, i in places if s != split]
            shared[split].append((image["file_name"], "; ".join(others)))
    for split, images in shared.items():
        names, notes = zip(*images, strict=True)
        findings.append(Finding("shared_images", names, notes, split))
    return [f for f in findings if len(f.items)]


def shared_images(
    splits: dict[str, dict], facts: dict[str, ImageFacts]
) -> list[list[tuple[str, dict]]]:
    """For each image that several splits have: (split, image record), one a split, in order."""
    places = defaultdict(dict)
    for split, coco in splits.items():
        for image in coco["images"]:
            if name := file_name(image):
                content = facts[name].digest if name in facts else None
                places[content or name].setdefault(split, image)
    return [list(found.items()) for found in places.values() if len(found) > 1]


def _categories(coco: dict) -> list[tuple[int, str]]:
    return [(c["id"], c["name"]) for c in coco["categories"] if not complaint(c, CATEGORY)]
