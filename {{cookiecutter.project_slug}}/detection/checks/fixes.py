"""Fixes COCO files where only one fix is possible; ambiguous cases are left to you."""

from collections import Counter, defaultdict
from collections.abc import Collection
from functools import reduce
from typing import NamedTuple

from detection.checks.annotation_fixes import fix_annotations
from detection.checks.class_names import compare_names, only_spelling
from detection.checks.fix_changes import Changes, Removal
from detection.checks.image_fixes import find_names, fix_images
from detection.checks.images import SplitFacts
from detection.checks.record_repairs import number_ids, whole_number
from detection.checks.records import CATEGORY, has_id, schema_error
from detection.checks.splits import doubtful_roots, shared_images
from detection.classes import CLASSES


class Fixed(NamedTuple):
    """
    Attributes:
        splits: the fixed copies.
        changes: {split: {kind, a key of KINDS: records fixed or removed}}.
        removed: {split: what has been removed}.
        refused: {split: what would have to be removed too, and stays}.
    """

    splits: dict[str, dict]
    changes: dict[str, Counter]
    removed: dict[str, Removal]
    refused: dict[str, Removal]


def fix_splits(
    splits: dict[str, dict],
    facts: SplitFacts,
    roots: dict[str, str],
    drop: bool = False,
    shift: bool = False,
) -> Fixed:
    """
    Fix copies of the parsed files.

    No image is removed from a file without annotations, since predictions are due for all of
    them, and never the last one of any. Unless `drop` is set, the kinds of problems are refused,
    largest first, whose removal takes more than a small share of a file or all annotations of an
    image; the last annotation is never removed.

    Args:
        splits: {name: parsed file}, in an order that has the training set first.
        facts: of the images that were read.
        roots: {name: the folder of its images}.
        drop: remove what cannot be fixed, however much it is.
        shift: move category ids that are off by one.
    """
    refused = {split: {} for split in splits}  # {split: {kind: what it would remove}}
    while True:
        fixed, changes = _attempt(splits, facts, roots, refused, shift)
        too_large = {s: changes[s].too_large(splits[s], fixed[s], drop) for s in splits}
        if not any(too_large.values()):
            break
        refused = {split: refused[split] | too_large[split] for split in splits}
    removed = {split: changes[split].removal(splits[split], fixed[split]) for split in splits}
    return Fixed(
        fixed,
        {split: changes[split].counts() for split in splits},
        {split: removal for split, removal in removed.items() if removal.kinds},
        {
            split: reduce(Removal.joined, of_kinds.values())
            for split, of_kinds in refused.items()
            if of_kinds
        },
    )


def _attempt(
    splits: dict[str, dict],
    facts: SplitFacts,
    roots: dict[str, str],
    refused: dict[str, Collection[str]],
    shift: bool,
) -> tuple[dict[str, dict], dict[str, Changes]]:
    fixed = {split: _copied(coco) for split, coco in splits.items()}
    changes = {split: Changes(refused[split]) for split in splits}
    names = find_names(fixed, roots)
    for split, coco in fixed.items():
        _write_whole_numbers(coco, changes[split])
        _fix_categories(coco, changes[split])
        fix_images(coco, facts.get(split, {}), roots[split], names[split], changes[split])
        if coco.get("annotations"):
            fix_annotations(coco, changes[split], shift)
    doubtful = doubtful_roots(fixed, roots)
    shared = defaultdict(list)
    for places in shared_images(fixed, facts, roots):
        if not doubtful & {split for split, _ in places}:
            # one place stays: where predictions are due, else the last
            places.sort(key=lambda place: not fixed[place[0]].get("annotations"))
            for split, image in places[:-1]:
                shared[split].append(image)
    for split, images in shared.items():
        if fixed[split].get("annotations"):
            changes[split].remove_images(fixed[split], "shared_images", images)
    return fixed, changes


def _copied(coco: dict) -> dict:
    """A copy down to the fields of the records, which are replaced whole, never changed inside."""
    lists = {key: coco[key] for key in ("images", "categories", "annotations") if coco.get(key)}
    return coco | {
        key: [dict(record) if isinstance(record, dict) else record for record in records]
        for key, records in lists.items()
    }


def _write_whole_numbers(coco: dict, changes: Changes) -> None:
    """
    Write ids and sizes as whole numbers; ids of other text are numbered, references follow.

    The ids of images without annotations stay, since predictions use them.
    """
    annotations = [a for a in coco.get("annotations") or [] if isinstance(a, dict)]
    for section, kind, name, reference, sizes in (
        ("images", "malformed_images", "file_name", "image_id", ("width", "height")),
        ("categories", "categories", "name", "category_id", ()),
    ):
        records = [r for r in coco[section] if isinstance(r, dict)]
        numbers = number_ids(record.get("id") for record in records)
        if not annotations:
            numbers = {i: number for i, number in numbers.items() if whole_number(i) == number}
        for record in records:
            _replace(record, "id", numbers, kind, changes)
            for side in sizes:
                _replace(record, side, {}, kind, changes)
        named = [r for r in records if isinstance(r.get(name), str)]
        times = Counter(r[name] for r in named)
        ids = {  # some refer by name
            r[name]: r["id"]
            for r in named
            if has_id(r, "id") and times[r[name]] == 1 and whole_number(r[name]) is None
        }
        for a in annotations:
            _replace(a, reference, ids | numbers, "malformed_annotations", changes)
    numbers = number_ids(a.get("id") for a in annotations)
    taken = [*(a["id"] for a in annotations if has_id(a, "id")), *numbers.values()]
    next_id = max(taken, default=0) + 1
    for a in annotations:
        _replace(a, "id", numbers, "malformed_annotations", changes)
        if schema_error(a, ["id"]):
            a["id"] = next_id
            next_id += 1
            changes.fix("malformed_annotations", [a])


def _replace(record: dict, key: str, numbers: dict, kind: str, changes: Changes) -> None:
    """Replace a value by the number that it stands for or means, if there is one."""
    value = record.get(key)
    if type(value) not in (int, float, str):
        return
    number = numbers.get(value, whole_number(value))
    if number is not None and (type(value) is not int or number != value):
        record[key] = number
        changes.fix(kind, [record])


def _fix_categories(coco: dict, changes: Changes) -> None:
    """Take CLASSES' spelling, remove unused categories and add missing ones, if all is clear."""
    categories = coco["categories"]
    names = [c["name"] for c in categories if not schema_error(c, CATEGORY)]
    if len(names) < len(categories) or len(set(names)) < len(names):
        return
    renamed, missing, extra = compare_names(names, CLASSES)
    if any(not only_spelling(*pair) for pair in renamed.items()):
        return
    annotations = coco.get("annotations") or []
    used = {a["category_id"] for a in annotations if has_id(a, "category_id")}
    unused = [c for c in categories if c["name"] in extra and c["id"] not in used]
    if len(unused) < len(extra) or len(extra) == len(names):
        return
    next_id = max(c["id"] for c in categories) + 1
    respelt = [c for c in categories if c["name"] in renamed]
    for category in respelt:
        category["name"] = renamed[category["name"]]
    added = [{"id": next_id + k, "name": name} for k, name in enumerate(missing)]
    coco["categories"] = [c for c in categories if c not in unused] + added
    changes.fix("categories", respelt + unused + added)
