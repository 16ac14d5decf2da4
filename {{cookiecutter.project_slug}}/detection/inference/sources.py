"""Lists the images to predict on: a COCO json, a folder or a glob pattern."""

import glob
import logging
import os
from pathlib import Path

from detection.classes import CLASSES
from detection.data.coco import category_id_map, read_coco, validate
from detection.utils.errors import UserError
from detection.utils.image_files import ImageFolder, image_size, is_file, likely_roots
from detection.utils.paths import DATASETS, in_project

logger = logging.getLogger(__name__)


def list_images(source: str, image_root: str | None) -> tuple[dict, str]:
    """
    List the images to predict on.

    Args:
        source: a COCO json, with or without annotations; a folder, with its subfolders; or a
            glob pattern, e.g. "images/*.jpg".
        image_root: what `file_name`s are relative to. None: the json's folder; the folder
            itself; or the part of a pattern before its first wildcard.

    Returns:
        A COCO dict with `images` and `categories`, the json's own or numbered from 1 in the
        order of the names; and the absolute image root.

    Raises:
        UserError: the source does not exist, has no image, or an image that cannot be opened.
    """
    if source.endswith(".json"):
        coco = read_coco(source)
        category_id_map(coco, source)  # refuses other classes than CLASSES
        validate(coco, source)
        image_root = os.path.abspath(image_root or os.path.dirname(source))
        _check_presence([image["file_name"] for image in coco["images"]], image_root, source)
        return coco, image_root
    if os.path.isdir(source):
        root = image_root or source
        folder = ImageFolder(source, source)
        files = [Path(source, path) for path in folder.paths]
        if folder.passed_over:
            logger.warning(f"{source}: {folder.passed_over}")
    else:
        root = image_root or _fixed_part(source)
        files = sorted(Path(p) for p in glob.glob(source, recursive=True) if os.path.isfile(p))
    if not files:
        raise UserError(f"{source}: no image there; give a COCO json, a folder or a quoted pattern")
    root = os.path.abspath(root)
    images = []
    for number, file in enumerate(files, start=1):
        width, height = image_size(file)
        name = Path(os.path.relpath(file, root)).as_posix()
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)]
    return {"images": images, "annotations": [], "categories": categories}, root


def results_name(source: str) -> str:
    """
    Name the results of a source, without suffix; the Makefile uses the same rule.

    datasets/test.json gives test, datasets/folds/0/val.json gives folds_0_val, the folder
    datasets/test gives test.folder, and the pattern datasets/test/*.jpg gives test_any.jpg.
    """
    path = Path(os.path.abspath(source))
    datasets = os.path.abspath(in_project(DATASETS))
    name = path.name
    if path.is_relative_to(datasets) and path != Path(datasets):
        name = "_".join(path.relative_to(datasets).parts)
    if source.endswith(".json"):
        return name.removesuffix(".json")
    plain = name.replace("**", "any").replace("*", "any").replace("?", "one")
    plain = plain.replace("[", "").replace("]", "")
    return plain if plain != name else f"{name}.folder"


def _check_presence(names: list[str], image_root: str, source: str) -> None:
    if not any(is_file(image_root, name) for name in names):
        roots = likely_roots(image_root, names)
        where = f" (they are in {' and in '.join(roots)})" if roots else ""
        raise UserError(
            f"{source}: none of its images, such as {names[0]}, is in {image_root}; give "
            f"--image-root{where}"
        )


def _fixed_part(pattern: str) -> str:
    parts = Path(pattern).parts[:-1]
    fixed = []
    for part in parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return os.path.join(*fixed) if fixed else "."
