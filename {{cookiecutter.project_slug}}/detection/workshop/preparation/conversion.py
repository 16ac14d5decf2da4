"""Makes a COCO file of what was read from other formats, with the project's classes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from shlex import quote

from detection.utils.errors import UserError
from detection.utils.image_files import ImageFolder
from detection.utils.text import listed
from detection.workshop.preparation.foreign_images import ForeignImage

SHOWN = 5  # examples a note names
MANY = 50  # classes a line names


def choose_boxes(
    images: Sequence[ForeignImage],
    classes: Sequence[str],
    skip: Sequence[str] = (),
    skip_others: bool = False,
    skip_points: bool = False,
) -> list[str]:
    """
    Take what is not wanted out of the images' boxes.

    Args:
        images: what was read.
        classes: the names of the categories.
        skip: classes in the annotations whose boxes are left out.
        skip_others: whether boxes of all that is not in `classes` are left out too.
        skip_points: whether shapes without an area are left out too.

    Returns:
        Notes for the user: what was left out, and what was no upright box.

    Raises:
        UserError: a name to skip that no box has, a shape without an area, or a name that is not
            in `classes`.
    """
    counts = Counter(box.label for image in images for box in image.boxes)
    for name in skip:
        if name not in counts:
            known = listed(list(counts), MANY)
            raise UserError(f"--skip {name[:60]}: no box has this class; the classes are {known}")
    skip = {*skip, *(counts.keys() - set(classes) if skip_others else ())}
    drawn, points = Counter(), Counter()
    for image in images:
        image.boxes = [box for box in image.boxes if box.label not in skip]
        for box in image.boxes:
            if not box.corners and not skip_points:
                what = f"a shape{f' ({box.shape[:40]})' if box.shape else ''} of the class"
                name = box.label[:60]
                raise UserError(
                    f"{image.where}: {what} {name!r} has no box, as a point or a line; "
                    "remove it, leave all such out with --skip-points, or leave the class out with "
                    f"--skip {quote(name)}"
                )
            (drawn if box.corners else points)[box.shape[:40] or "box"] += 1
        image.boxes = [box for box in image.boxes if box.corners]
    left = Counter(box.label for image in images for box in image.boxes)
    unknown = [f"{n[:60]!r} ({times})" for n, times in left.most_common() if n not in classes]
    if unknown:
        raise UserError(
            f"names that are not in detection/classes.py: {listed(unknown, MANY)}; add them there, "
            "rename them in the data, give a file of names to --names, or leave them out with "
            "--skip NAME or --skip-others"
        )
    left_out = {n[:60]: times for n, times in counts.most_common() if n in skip}
    del drawn["box"]
    notes = {
        "left out, boxes of the classes to skip": left_out,
        "left out, shapes without an area": dict(points.most_common()),
        "taken, the upright boxes around other shapes": dict(drawn.most_common()),
    }
    return [
        f"{what}: {listed([f'{name} {times}' for name, times in found.items()], MANY)}"
        for what, found in notes.items()
        if found
    ]


def to_coco(
    images: Iterable[ForeignImage],
    folder: ImageFolder,
    classes: Sequence[str],
    first_pixel: int = 0,
    skip_missing: bool = False,
    add_unlisted: bool = False,
) -> tuple[dict, list[str]]:
    """
    Convert annotations; ids of images, annotations and categories run from 1, in order.

    Args:
        images: what `choose_boxes` has left.
        folder: where their images are; sizes come from the images themselves.
        classes: the names of the categories.
        first_pixel: 0 if corners are where a box begins and ends; 1 if they are the numbers, from
            1, of its first and last pixel, as in VOC's own data: (1, 1, W, H) is the whole image.
        skip_missing: leave out images that are not in `folder`.
        add_unlisted: add images of `folder` that the annotations do not mention, without boxes.

    Returns:
        The json, boxes as (x, y, w, h) in pixels to a thousandth, and notes for the user.

    Raises:
        UserError: an image is listed twice, or missing without a size that is known.
    """
    images = list(images)
    notes = [folder.passed_over] if folder.passed_over else []
    pairs = [(image, folder.find(*image.names)) for image in images]
    missing = [image for image, path in pairs if path is None]
    if missing:
        what = f"images that are not in {folder.folder}: {_some(i.names[0] for i in missing)}"
        if skip_missing:
            notes.append(f"left out, {what}")
            pairs = [(image, path) for image, path in pairs if path is not None]
        elif lost := [i for i in missing if i.size is None or i.is_relative]:
            has_dicom = any(ending in folder.passed_over for ending in (".dcm ", ".dicom "))
            remedy = "tools/convert_dicom.py makes PNGs of DICOM files, " * has_dicom
            raise UserError(
                f"{lost[0].where}: there is no {lost[0].names[0]} in {folder.folder} ({len(lost)} "
                f"such); {remedy}--images names another folder, --skip-missing leaves them out"
            )
        else:
            notes.append(f"kept with the size that the annotations say, {what}")
    where = {}
    for image, path in pairs:
        if path in where:
            raise UserError(f"{where[path]} and {image.where} are both of {path}; keep one")
        if path is not None:
            where[path] = image.where
    unlisted = [path for path in folder.paths if path not in where]
    if unlisted and add_unlisted:
        pairs += [(ForeignImage([path], path), path) for path in unlisted]
        notes.append(f"added, images without annotations: {_some(unlisted)}")
    elif unlisted:
        notes.append(
            f"left out, images that the annotations do not mention: {_some(unlisted)} "
            "(--add-unlisted takes them in, without boxes)"
        )
    known = [path for _, path in pairs if path is not None]
    sizes = dict(zip(known, folder.sizes(known), strict=True))
    coco = {
        "images": [],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes, 1)],
        "annotations": [],
    }
    ids = {category["name"]: category["id"] for category in coco["categories"]}
    for image, path in pairs:
        file_name = folder.file_name(path or image.names[0])
        _add_image(coco, ids, image, file_name, sizes.get(path, image.size), first_pixel)
    resized = [i.names[0] for i, path in pairs if i.size not in (None, sizes.get(path, i.size))]
    if resized:
        notes.append(f"of another size than the annotations say, trusted: {_some(resized)}")
    if not any(image.is_relative for image, _ in pairs):
        is_from_tool = all(image.is_from_tool for image, _ in pairs if image.boxes)
        notes += _first_pixel_note(coco, first_pixel, is_from_tool)
    return coco, notes


def _add_image(
    coco: dict,
    category_ids: dict[str, int],
    image: ForeignImage,
    file_name: str,
    size: tuple[int, int],
    first_pixel: int,
) -> None:
    """Add an image of (width, height) `size` and its boxes."""
    width, height = size
    image_id = len(coco["images"]) + 1
    record = {"id": image_id, "file_name": file_name, "width": width, "height": height}
    coco["images"].append(image.fields | record)
    for name, (x1, y1, x2, y2), is_crowd, _, fields in image.boxes:
        if image.is_relative:
            x1, y1, x2, y2 = x1 * width, y1 * height, x2 * width, y2 * height
        else:
            x1, y1 = x1 - first_pixel, y1 - first_pixel
        box = [round(v, 3) + 0.0 for v in (x1, y1, x2 - x1, y2 - y1)]  # + 0.0: no -0.0
        coco["annotations"].append(
            {
                "id": len(coco["annotations"]) + 1,
                "image_id": image_id,
                "category_id": category_ids[name],
                "bbox": box,
                "area": round(box[2] * box[3], 3),
                "iscrowd": int(is_crowd),
                **(fields or {}),
            }
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


def join(parts: Sequence[dict]) -> dict:
    """One COCO json of several of `to_coco`, with ids that run on."""
    joined = {**parts[0], "images": [], "annotations": []}
    for part in parts:
        first_image, first_annotation = len(joined["images"]), len(joined["annotations"])
        joined["images"] += [{**i, "id": i["id"] + first_image} for i in part["images"]]
        joined["annotations"] += [
            {**a, "id": a["id"] + first_annotation, "image_id": a["image_id"] + first_image}
            for a in part["annotations"]
        ]
    return joined


def _some(items: Iterable[str]) -> str:
    items = list(items)
    return f"{len(items)} ({listed(items, SHOWN)})"
