"""Makes a COCO json of what was read of other formats, under the project's own classes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from shlex import quote

from detection.utils.errors import UserError
from detection.utils.image_files import ImageFolder
from detection.utils.text import listed
from detection.workshop.preparation.foreign_annotations import ForeignImage

SHOWN = 5  # examples a note names
MANY = 50  # classes a line names


def to_coco(
    images: Iterable[ForeignImage],
    folder: ImageFolder,
    classes: Sequence[str],
    first_pixel: int = 0,
    skip_missing: bool = False,
    add_unlisted: bool = False,
    skip: Sequence[str] = (),
) -> tuple[dict, list[str]]:
    """
    Convert annotations; ids of images, annotations and categories run from 1, in order.

    Args:
        images: what was read.
        folder: where their images are; sizes come from the images themselves.
        classes: the names of the categories.
        first_pixel: 0 if corners are where a box begins and ends; 1 if they are the numbers, from
            1, of its first and last pixel, as in VOC's own data: (1, 1, W, H) is the whole image.
        skip_missing: leave out images that are not in `folder`.
        add_unlisted: add images of `folder` that the annotations do not mention, without boxes.
        skip: names in the annotations whose boxes are left out.

    Returns:
        The json, boxes as (x, y, w, h) in pixels to a thousandth, and notes for the user.

    Raises:
        UserError: names that are no classes, a name to skip that no box has, a shape without a box,
            an image listed twice, or one that is missing though its size stands nowhere.
    """
    images, notes = list(images), []
    if folder.passed_over:
        notes.append(folder.passed_over)
    notes += _skip(images, skip)
    paths = [folder.find(*image.names) for image in images]
    missing = [image for image, path in zip(images, paths, strict=True) if path is None]
    if missing:
        what = f"images that are not in {folder.folder}: {_some(i.names[0] for i in missing)}"
        if skip_missing:
            notes.append(f"left out, {what}")
        elif lost := [i for i in missing if i.size is None or i.is_relative]:
            what = f"{lost[0].where}: there is no {lost[0].names[0]} in {folder.folder}"
            raise UserError(
                f"{what} ({len(lost)} such); --images names another folder, --skip-missing "
                "leaves them out"
            )
        else:
            notes.append(f"kept with the size that the annotations say, {what}")
    found = [path for path in paths if path is not None]
    for path, times in Counter(found).items():
        if times > 1:
            twice = [i.where for i, p in zip(images, paths, strict=True) if p == path]
            raise UserError(f"{twice[0]} and {twice[1]} are both of {path}; keep one")
    mentioned = set(found)
    unlisted = [path for path in folder.paths if path not in mentioned]
    if unlisted and add_unlisted:
        images += [ForeignImage([path], path) for path in unlisted]
        paths += unlisted
        notes.append(f"added, images without annotations: {_some(unlisted)}")
    elif unlisted:
        notes.append(
            f"left out, images that the annotations do not mention: {_some(unlisted)} "
            "(--add-unlisted takes them in, without boxes)"
        )
    known = [path for path in paths if path is not None]
    sizes = dict(zip(known, folder.sizes(known), strict=True))

    _refuse_unknown(images, classes)
    categories = [{"id": k, "name": name} for k, name in enumerate(classes, 1)]
    ids = {category["name"]: category["id"] for category in categories}
    coco = {"images": [], "categories": categories, "annotations": []}
    resized = []
    for image, path in zip(images, paths, strict=True):
        if path is None and skip_missing:
            continue
        width, height = sizes.get(path, image.size)
        if image.size not in (None, (width, height)):
            resized.append(image.names[0])
        file_name = folder.file_name(path or image.names[0])
        image_id = len(coco["images"]) + 1
        coco["images"].append(
            {"id": image_id, "file_name": file_name, "width": width, "height": height}
        )
        for name, (x1, y1, x2, y2), is_crowd in image.boxes:
            if image.is_relative:
                x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width, y2 * height
            else:
                x1, y1 = x1 - first_pixel, y1 - first_pixel
            box = [round(v, 3) + 0.0 for v in (x1, y1, x2 - x1, y2 - y1)]  # + 0.0: no -0.0
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": ids[name],
                    "bbox": box,
                    "area": round(box[2] * box[3], 3),
                    "iscrowd": int(is_crowd),
                }
            )
    if resized:
        notes.append(f"of another size than the annotations say, trusted: {_some(resized)}")
    if not any(image.is_relative for image in images):
        is_from_tool = all(image.is_from_tool for image in images if image.boxes)
        notes += _first_pixel_note(coco, first_pixel, is_from_tool)
    return coco, notes


def _skip(images: Sequence[ForeignImage], names: Sequence[str]) -> list[str]:
    """Take boxes of these names out of the images; what is to be said of it."""
    counts = Counter(name for image in images for name, *_ in image.boxes)
    for name in names:
        if name not in counts:
            there = listed(list(counts), MANY)
            raise UserError(f"--skip {name[:60]}: no box has this class; the classes are {there}")
    for image in images:
        image.boxes = [box for box in image.boxes if box[0] not in names]
        for name, corners, _ in image.boxes:
            if not corners:
                raise UserError(
                    f"{image.where}: a shape of the class {name[:60]!r} is a point or a line, "
                    "which has no box; remove it, or leave the class out with --skip "
                    f"{quote(name[:60])}"
                )
    left_out = listed([f"{name} {counts[name]}" for name in names], MANY)
    return [f"left out, boxes of the classes to skip: {left_out}"] if names else []


def _refuse_unknown(images: Sequence[ForeignImage], classes: Sequence[str]) -> None:
    unknown = Counter(
        name for image in images for name, *_ in image.boxes if name not in set(classes)
    )
    if unknown:
        names = listed([f"{name[:60]!r} ({times})" for name, times in unknown.most_common()], MANY)
        raise UserError(
            f"names that are not in detection/classes.py: {names}; add them there, rename them "
            "in the data, give a file of names to --names, or leave them out with --skip NAME"
        )


def _first_pixel_note(coco: dict, first_pixel: int, is_from_tool: bool) -> list[str]:
    """
    What the boxes say for or against numbering the pixels from 1.

    Where the first pixel is 1, boxes at the left and top begin at 1 and those at the right and
    bottom end at the width and height. A tool that numbers from 0 and writes 1 for 0, as LabelImg
    does, has the same at the left and top. At the right and bottom it may end at the last pixel's
    number, one below the width; if it ends at the width, the corners alone do not tell.
    """
    sizes = {i["id"]: (i["width"], i["height"]) for i in coco["images"]}
    edges = []  # (where a side begins, where it ends, how long the image is)
    for a in coco["annotations"]:
        x, y, w, h = a["bbox"]
        width, height = sizes[a["image_id"]]
        edges += [(x + first_pixel, x + w, width), (y + first_pixel, y + h, height)]
    if any(not float(v).is_integer() for edge in edges for v in edge[:2]):
        return []  # no numbers of pixels
    earlier = sum(first < 1 for first, _, _ in edges)
    at_1 = sum(first == 1 for first, _, _ in edges)
    at_end = sum(last == length for _, last, length in edges)
    at_last = sum(last == length - 1 for _, last, length in edges)
    begin = f"sides of boxes that begin at pixel 1, and none before: {at_1}"
    if first_pixel:
        if earlier or is_from_tool:
            reason = "some boxes begin at 0" if earlier else "a drawing tool made the files"
            return [f"{reason}: without --first-pixel 1 they would be right, it shifts every box"]
        return []
    if at_1 < 2 or earlier:
        return []
    if is_from_tool or (at_last > 1 and not at_end):
        reason = (
            "the files are from a drawing tool such as LabelImg"
            if is_from_tool
            else f"none ends at the image's width or height, but {at_last} one before"
        )
        return [
            f"{begin}; {reason}, which numbers pixels from 0 and writes 1 for 0: leave "
            "--first-pixel at 0, since 1 would shift every box"
        ]
    ends = f"{at_end} end at its width or height" if at_end else "no side ends at its last pixel"
    return [
        f"{begin}; {ends}: if the first pixel is number 1, as in VOC's own data, convert with "
        "--first-pixel 1; not if a tool made the files that merely writes 1 for 0 at the image's "
        "border, as LabelImg does, since that would shift every box"
    ]


def _some(items: Iterable[str]) -> str:
    items = list(items)
    return f"{len(items)} ({listed(items, SHOWN)})"
