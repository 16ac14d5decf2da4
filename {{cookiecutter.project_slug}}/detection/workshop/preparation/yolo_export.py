"""Writes COCO files in the layout that YOLO trains on."""

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import yaml

from detection.checks.records import IMAGE
from detection.data.coco import category_id_map, read_coco, validate
from detection.utils.errors import UserError
from detection.utils.image_files import is_file
from detection.utils.text import folded, listed

BOX = ("id", "image_id", "category_id", "bbox")


def write_yolo(
    roots: Mapping[str, str], output: Path, classes: Sequence[str], skip_missing: bool = False
) -> list[str]:
    """
    Write `images/SPLIT/`, `labels/SPLIT/` and data.yaml, all or nothing.

    Images are hard links where the file system has them, else copies. Every image has a txt, an
    empty one without objects. Boxes end at the image's border, as YOLO wants them; crowds, which
    it does not know, are left out.

    Args:
        roots: {COCO file: what its `file_name`s are relative to}; a file's name is its split's.
        output: the folder to write; it must not exist.
        classes: the names, in the order of YOLO's numbers.
        skip_missing: leave out images that are not there.

    Returns:
        Lines that say what was written and left out.

    Raises:
        UserError: a file is not a sound COCO file, an image is missing, two would share a txt, or
            the folder exists or cannot be written.
    """
    if os.path.lexists(output):
        raise UserError(f"{output}: exists; remove it, or name another folder with --output")
    images: dict[PurePosixPath, Path] = {}  # {path below images/: the file}
    labels: dict[PurePosixPath, str] = {}  # {path below labels/: lines}
    splits, lines = [], []
    for json_file, root in roots.items():
        split = Path(json_file).stem
        if folded(split) in map(folded, splits):
            raise UserError(f"{json_file}: another file is called {split} too; rename one")
        splits.append(split)
        coco = read_coco(json_file)
        validate(coco, json_file, IMAGE, BOX)
        positions = category_id_map(coco, json_file)
        places, missing = _places(split, coco, root, json_file)
        if missing and not skip_missing:
            raise UserError(
                f"{json_file}: there is no {missing[0]} in {root} ({len(missing)} such); "
                "--image-root names another folder, --skip-missing leaves them out"
            )
        texts, counts = _texts(coco, places, positions)
        counts["missing images"] = len(missing)
        images |= {place: Path(root, name) for name, place in places.values()}
        labels |= {places[id_][1].with_suffix(".txt"): text for id_, text in texts.items()}
        num_boxes, num_masks = counts.pop("boxes", 0), counts.pop("masks", 0)
        left_out = listed([f"{what} {times}" for what, times in counts.items() if times])
        lines.append(
            f"{output / 'images' / split}: {len(places)} images, {num_boxes} boxes"
            + f"; left out: {left_out}" * bool(left_out)
            + f"; of {num_masks} masks the boxes alone" * bool(num_masks)
        )
    data = {split: f"images/{split}" for split in splits} | {"names": dict(enumerate(classes))}
    _write(output, images, labels, yaml.safe_dump(data, allow_unicode=True, sort_keys=False))
    if lacking := {"train", "val"} - {*splits}:
        lines.append(
            f"note     data.yaml lacks {' and '.join(sorted(lacking))}, without which YOLO does "
            "not train; name both jsons at once"
        )
    return lines


def _places(
    split: str, coco: dict, root: str, json_file: str
) -> tuple[dict[int, tuple[str, PurePosixPath]], list[str]]:
    """{id of an image: (file_name, path below images/)}, and the `file_name`s that are missing."""
    places, missing, names = {}, [], {}
    for image in coco["images"]:
        name = image["file_name"]
        if not is_file(root, name):
            missing.append(name)
            continue
        parts = [p for p in PurePosixPath(name.replace("\\", "/")).parts if p not in ("/", "..")]
        # YOLO looks for labels where the last `images` of a path is `labels`
        parents = ["image" if p == "images" else p.rstrip(":") for p in parts[:-1]]
        place = PurePosixPath(split, *parents, parts[-1])
        key = folded(str(place.with_suffix(".txt")))
        if key in names:
            raise UserError(
                f"{json_file}: {names[key]} and {name} would share {place.with_suffix('.txt').name}"
                "; rename one in the json and on the disk"
            )
        names[key] = name
        places[image["id"]] = name, place
    return places, missing


def _texts(
    coco: dict, places: dict[int, tuple], positions: dict[int, int]
) -> tuple[dict[int, str], Counter]:
    """{id of an image: its txt}, and how many boxes there are, or were left out for what reason."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    lines = {id_: [] for id_ in places}
    counts = Counter()
    for annotation in coco.get("annotations") or ():
        id_ = annotation["image_id"]
        if id_ not in places:
            continue
        width, height = sizes[id_]
        x, y, w, h = annotation["bbox"]
        x1, x2 = max(x, 0) / width, min(x + w, width) / width
        y1, y2 = max(y, 0) / height, min(y + h, height) / height
        if annotation.get("iscrowd"):
            counts["crowds"] += 1
        elif x2 <= x1 or y2 <= y1:
            counts["boxes outside of the image or without an area"] += 1
        else:
            counts["boxes"] += 1
            counts["masks"] += bool(annotation.get("segmentation"))
            values = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
            number = positions[annotation["category_id"]]
            lines[id_].append(" ".join([str(number), *(f"{v:.9f}" for v in values)]) + "\n")
    return {id_: "".join(text) for id_, text in lines.items()}, counts


def _write(
    output: Path, images: dict[PurePosixPath, Path], labels: dict[PurePosixPath, str], data: str
) -> None:
    partial = output.with_name(f"{output.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for place, text in labels.items():
            path = partial / "labels" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for place, file in images.items():
            path = partial / "images" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            _link(file, path)
        (partial / "data.yaml").write_text(data, encoding="utf-8")
        os.replace(partial, output)
    except OSError as e:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"{output}: cannot be written ({e.strerror or e})") from e
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _link(file: Path, path: Path) -> None:
    try:
        os.link(os.path.realpath(file), path)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, path)
