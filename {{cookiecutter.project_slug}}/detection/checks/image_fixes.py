"""Fixes what a COCO json says of its images; takes out those that nothing can be done with."""

from collections import Counter, defaultdict

from detection.checks.annotations import IMAGE, complaint, has_id, is_box
from detection.checks.fix_changes import Changes
from detection.checks.images import ImageFacts, file_name, same_content
from detection.utils.image_files import find_moved, find_twins, is_file


def find_names(splits: dict[str, dict], roots: dict[str, str]) -> dict[str, dict[str, str]]:
    """
    {split: {file_name that is not there: the one that it must mean}}.

    Args:
        splits: {name: parsed json}.
        roots: {name: the folder of its images}; a file is one image's only in all splits of it.
    """
    found = {}
    for root in {roots[split] for split in splits}:
        images = [i for s, coco in splits.items() if roots[s] == root for i in coco["images"]]
        names = {n for i in images if (n := file_name(i))} if "://" not in root else set()
        absent = sorted(name for name in names if not is_file(root, name))
        twins = find_twins(root, absent)
        listed = (names - twins.keys()) | set(twins.values())
        found[root] = twins | find_moved(root, [n for n in absent if n not in twins], listed)
    return {split: found[roots[split]] for split in splits}


def fix_images(
    coco: dict,
    facts: dict[str, ImageFacts],
    image_root: str,
    names: dict[str, str],
    changes: Changes,
) -> None:
    """
    Fix the image records in place; `names` are those of `find_names`.

    Images are only taken out of a json with annotations: else predictions are due for all.
    """
    for image in coco["images"]:
        if (name := file_name(image)) in names:
            image["file_name"] = names[name]
            changes.fix("missing_images", [image])
    _fix_sizes(coco, facts, set(names.values()), changes)
    _merge_records(coco, changes)
    _separate_ids(coco, changes)
    if not coco.get("annotations"):
        return

    def drop(kind: str, odd: list[dict]) -> None:
        changes.remove_images(coco, kind, odd)

    drop("malformed_images", [i for i in coco["images"] if complaint(i, IMAGE)])
    if "://" not in image_root:
        absent = [i for i in coco["images"] if not is_file(image_root, file_name(i) or "")]
        drop("missing_images", absent)
    problems = {name: fact.problem for name, fact in facts.items()}
    for problem in ("unreadable", "truncated"):
        odd = [i for i in coco["images"] if problems.get(file_name(i)) == problem]
        drop(f"{problem}_images", odd)
    counts = Counter(a["image_id"] for a in coco["annotations"] if has_id(a, "image_id"))
    for images in same_content(coco, facts):
        kept = max(
            images, key=lambda i: counts[i["id"]] if has_id(i, "id") else 0
        )  # of equals the first
        drop("repeated_images", [i for i in images if i is not kept])


def _fix_sizes(
    coco: dict, facts: dict[str, ImageFacts], renamed: set[str], changes: Changes
) -> None:
    of_image = defaultdict(list)
    for a in coco.get("annotations") or []:
        if has_id(a, "image_id") and is_box(a.get("bbox")):
            of_image[a["image_id"]].append(a)
    for image in coco["images"]:
        fact = facts.get(file_name(image), ImageFacts())
        if fact.size is None or fact.problem or complaint(image, {"id": IMAGE["id"]}):
            continue
        annotations = of_image[image["id"]]
        if complaint(image, IMAGE):
            kind = "malformed_images"
        elif fact.size != (image["width"], image["height"]):
            if file_name(image) in renamed:  # it may be another image of that name
                continue
            kind = "other_sizes"
            said = image["width"], image["height"]
            fits, fitted = _fit(annotations, fact.size), _fit(annotations, said)
            if fact.orientation > 4 and fact.size == said[::-1] and annotations and fitted:
                # drawn on the image as it lies in the file, if they fit nowhere else
                if fits or any(a.get("segmentation") or a.get("keypoints") for a in annotations):
                    continue
                for annotation in annotations:
                    annotation["bbox"] = _turn(annotation["bbox"], *said, fact.orientation)
            elif not fits:
                continue
        else:
            continue
        image["width"], image["height"] = fact.size
        changes.fix(kind, [image])


def _fit(annotations: list[dict], size: tuple[int, int]) -> bool:
    return all(
        x + w <= size[0] + 1 and y + h <= size[1] + 1
        for x, y, w, h in (a["bbox"] for a in annotations)
    )


def _turn(bbox: list[float], width: int, height: int, orientation: int) -> list[float]:
    """The (x, y, w, h) box of a width × height image, once that is turned as EXIF's 5 to 8 say."""
    x, y, w, h = bbox
    right, bottom = width - x - w, height - y - h
    left, top = {5: (y, x), 6: (bottom, x), 7: (bottom, right), 8: (y, right)}[orientation]
    return [left, top, h, w]


def _merge_records(coco: dict, changes: Changes) -> None:
    """Keep one record of each file; annotations of the others become its own."""
    first, ids, kept = {}, {}, []
    for image in coco["images"]:
        if complaint(image, IMAGE):
            kept.append(image)
            continue
        known = first.setdefault(image["file_name"], image)
        if known is image:
            kept.append(image)
        elif known["id"] == image["id"]:
            changes.fix("repeated_image_ids", [image])
        else:
            changes.fix("repeated_file_names", [image])
            ids[image["id"]] = known["id"]
    # an id that another file has as well says nothing
    ambiguous = {i["id"] for i in kept if not complaint(i, IMAGE)}
    coco["images"] = kept
    for a in coco.get("annotations") or []:
        if has_id(a, "image_id") and a["image_id"] in ids and a["image_id"] not in ambiguous:
            a["image_id"] = ids[a["image_id"]]


def _separate_ids(coco: dict, changes: Changes) -> None:
    """Give images without annotations that share an id their own, where annotations are due."""
    annotations = coco.get("annotations") or []
    used = {a["image_id"] for a in annotations if has_id(a, "image_id")}
    seen = {i["id"] for i in coco["images"] if has_id(i, "id")} | used
    first = set()
    for image in coco["images"] if annotations else []:
        if not has_id(image, "id") or image["id"] in used:
            continue
        if image["id"] in first:
            image["id"] = max(seen) + 1
            seen.add(image["id"])
            changes.fix("repeated_image_ids", [image])
        first.add(image["id"])
