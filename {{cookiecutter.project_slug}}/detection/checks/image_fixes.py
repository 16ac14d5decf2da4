"""Fixes what a COCO file says of its images; removes those that nothing can be done with."""

from collections import Counter, defaultdict

from detection.checks.annotations import sound
from detection.checks.fix_changes import Changes
from detection.checks.images import ImageFacts, file_name, same_content
from detection.checks.records import IMAGE, has_id, is_box, schema_error
from detection.utils.image_files import find_moved, find_twins, is_file


def find_names(splits: dict[str, dict], roots: dict[str, str]) -> dict[str, dict[str, str]]:
    """
    {split: {file_name of a missing file: the one that it must mean}}.

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
    Fix the image records in place, with `names`, {file_name: the one to write instead}.

    Images are only removed from a file with annotations: else predictions are due for all.
    """
    for image in coco["images"]:
        if (name := file_name(image)) in names:
            image["file_name"] = names[name]
            changes.fix("missing_images", [image])
    _fix_sizes(coco, facts, set(names.values()), changes)
    _merge_records(coco, changes)
    if not coco.get("annotations"):
        return
    _separate_ids(coco, changes)

    def remove(kind: str, odd: list[dict]) -> None:
        changes.remove_images(coco, kind, odd)

    remove("malformed_images", [i for i in coco["images"] if schema_error(i, IMAGE)])
    if "://" not in image_root:
        absent = [i for i in coco["images"] if not is_file(image_root, file_name(i) or "")]
        remove("missing_images", absent)
    for problem in ("unreadable", "truncated"):
        of_problem = {name for name, fact in facts.items() if fact.problem == problem}
        remove(f"{problem}_images", [i for i in coco["images"] if file_name(i) in of_problem])
    counts = Counter(a["image_id"] for a in coco["annotations"] if has_id(a, "image_id"))
    for images in same_content(coco, facts):  # of equal counts the first stays
        kept = max(images, key=lambda i: counts[i["id"]] if has_id(i, "id") else 0)
        remove("repeated_images", [i for i in images if i is not kept])


def _fix_sizes(
    coco: dict, facts: dict[str, ImageFacts], renamed: set[str], changes: Changes
) -> None:
    of_image = defaultdict(list)
    for a in coco.get("annotations") or []:
        if has_id(a, "image_id") and is_box(a.get("bbox")):
            of_image[a["image_id"]].append(a)
    for image in coco["images"]:
        fact = facts.get(file_name(image), ImageFacts())
        if fact.size is None or fact.problem or schema_error(image, ["id"]):
            continue
        kind = "malformed_images"
        if not schema_error(image, IMAGE):
            kind, annotations = "other_sizes", of_image[image["id"]]
            listed = image["width"], image["height"]
            # a renamed one may be another image of that name
            if listed == fact.size or file_name(image) in renamed:
                continue
            fits = _fit(annotations, fact.size)
            is_turned = fact.orientation > 4 and fact.size == listed[::-1]
            if is_turned and annotations and _fit(annotations, listed):
                # drawn on the image as it is in the file, if they fit nowhere else
                if fits or any(a.get("segmentation") or a.get("keypoints") for a in annotations):
                    continue
                for a in annotations:
                    a["bbox"] = _turn(a["bbox"], *listed, fact.orientation)
            elif not fits:
                continue
        image["width"], image["height"] = fact.size
        changes.fix(kind, [image])


def _fit(annotations: list[dict], size: tuple[int, int]) -> bool:
    boxes = [a["bbox"] for a in annotations]
    return all(x + w <= size[0] + 1 and y + h <= size[1] + 1 for x, y, w, h in boxes)


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
        known = image if schema_error(image, IMAGE) else first.setdefault(image["file_name"], image)
        if known is image:
            kept.append(image)
        elif known["id"] == image["id"]:
            changes.fix("repeated_image_ids", [image])
        else:
            changes.fix("repeated_file_names", [image])
            ids[image["id"]] = known["id"]
    coco["images"] = kept
    for image in sound(kept, IMAGE):  # an id that another file has as well says nothing
        ids.pop(image["id"], None)
    for a in coco.get("annotations") or []:
        if has_id(a, "image_id"):
            a["image_id"] = ids.get(a["image_id"], a["image_id"])


def _separate_ids(coco: dict, changes: Changes) -> None:
    """Give images without annotations that share an id their own."""
    used = {a["image_id"] for a in coco["annotations"] if has_id(a, "image_id")}
    images = [i for i in coco["images"] if has_id(i, "id")]
    next_id = max({i["id"] for i in images} | used, default=0) + 1
    seen = set()
    for image in images:
        if image["id"] in seen and image["id"] not in used:
            image["id"], next_id = next_id, next_id + 1
            changes.fix("repeated_image_ids", [image])
        seen.add(image["id"])
