"""Checks of the image files: each is read and decoded once, by several threads."""

import os
import warnings
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import UnidentifiedImageError

from detection.checks.findings import Finding, sort_findings
from detection.checks.records import IMAGE, schema_error
from detection.utils.image_contents import content_digest
from detection.utils.image_files import is_file
from detection.utils.images import decode, read_bytes
from detection.utils.progress import progress

TURNED = {  # its values
    2: "mirrored",
    3: "upside down",
    4: "upside down and mirrored",
    5: "a quarter turned and mirrored",
    6: "a quarter turned",
    7: "a quarter turned and mirrored",
    8: "a quarter turned",
}
FLAT = 16  # levels of 255: an image whose channels span fewer shows nothing


@dataclass(frozen=True)
class ImageFacts:
    """
    What is known of an image that was read.

    Attributes:
        problem: "unreadable", "truncated", or empty.
        reason: for that, in the decoder's words.
        size: (width, height) as detectron2 sees it, turned as EXIF says; None if unknown.
        orientation: EXIF's, 1 is upright.
        digest: the same for files of equal pixels; None if they cannot be read.
        blank: why it shows nothing, e.g. "nearly black"; empty if it shows something.
        is_flat: whether it is blank in that all pixels are nearly the same.
        peak, white: of an image of more than 8 bits, its largest sample and the one that becomes
            255; None of others.
    """

    problem: str = ""
    reason: str = ""
    size: tuple[int, int] | None = None
    orientation: int = 1
    digest: bytes | None = None
    blank: str = ""
    is_flat: bool = False
    peak: float | None = None
    white: float | None = None


SplitFacts = dict[str, dict[str, ImageFacts]]  # {split: {file_name: of its image}}


def read_images(
    splits: dict[str, dict], roots: dict[str, str], known: SplitFacts | None = None
) -> SplitFacts:
    """
    Read and decode all existing images, in as many threads as there are processors.

    stderr gets a progress bar on a terminal, a line every few seconds elsewhere. URLs are not
    fetched.

    Args:
        splits: {name: parsed json}.
        roots: {name: what its `file_name`s are relative to}.
        known: what was read before, and is not read again.
    """
    facts = {split: dict((known or {}).get(split, {})) for split in splits}
    wanted = defaultdict(list)  # for each path; splits may have images in common
    for split, coco in splits.items():
        if "://" not in roots[split]:
            names = dict.fromkeys(n for i in coco["images"] if (n := file_name(i)) is not None)
            for name in names.keys() - facts[split].keys():
                if is_file(roots[split], name):
                    wanted[os.path.join(roots[split], name)].append((split, name))
    # decoders release the GIL: threads are as fast as processes and start at once
    with ThreadPoolExecutor(os.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about broken EXIF and the like
        paths = sorted(wanted)
        found = progress(pool.map(_read, paths), len(paths), "reading images")
        for path, fact in zip(paths, found, strict=True):
            for split, name in wanted[path]:
                facts[split][name] = fact
    return facts


def check_images(coco: dict, facts: dict[str, ImageFacts]) -> list[Finding]:
    """
    Compare a COCO json with its images, as far as they have been read.

    Args:
        coco: parsed.
        facts: {file_name: of its image}.
    """
    images = [i for i in coco["images"] if file_name(i) in facts]
    found = defaultdict(list)
    for image in images:
        name, fact = image["file_name"], facts[image["file_name"]]
        if fact.problem:
            found[f"{fact.problem}_images"].append((name, fact.reason))
            continue
        if not schema_error(image, IMAGE) and fact.size != (image["width"], image["height"]):
            said, real = f"{image['width']}×{image['height']}", "{}×{}".format(*fact.size)
            note = f"{said} in the json, {real} in the file"
            if fact.orientation > 4 and fact.size == (image["height"], image["width"]):
                note += ", whose EXIF turns it"
            found["other_sizes"].append((name, note))
        if fact.orientation > 1:
            found["turned_by_exif"].append((name, TURNED[fact.orientation]))
    _add_blank_images(found, {i["file_name"]: facts[i["file_name"]] for i in images})
    for _, *repeats in same_content(coco, facts):
        found["repeated_images"] += [(i["file_name"], "") for i in repeats]
    return sort_findings(Finding(k, *zip(*odd, strict=True)) for k, odd in found.items() if odd)


def same_content(coco: dict, facts: dict[str, ImageFacts]) -> list[list[dict]]:
    """Groups of two or more of the json's images whose files have the same content."""
    groups = defaultdict(dict)
    for image in coco["images"]:
        name = file_name(image)
        if name in facts and facts[name].digest:
            groups[facts[name].digest].setdefault(name, image)  # one name twice is another oddity
    return [list(images.values()) for images in groups.values() if len(images) > 1]


def file_name(image: object) -> str | None:
    """The file_name of an image record; None if it has none."""
    name = image.get("file_name") if isinstance(image, dict) else None
    return name if isinstance(name, str) else None


def _add_blank_images(found: dict[str, list], facts: dict[str, ImageFacts]) -> None:
    """Add to `found`, {kind: [(name, note)]}, images that show nothing or use few of their bits."""
    facts = {name: fact for name, fact in facts.items() if not fact.problem}
    blank = [(name, fact.blank) for name, fact in facts.items() if fact.blank]
    all_flat = len(facts) > 1 and all(fact.is_flat for fact in facts.values())
    found["only_blank_images" if all_flat else "blank_images"] += blank
    deep = {name: fact for name, fact in facts.items() if fact.peak is not None}
    if deep and all(fact.peak < fact.white / 4 for fact in deep.values()):
        found["unused_bits"] += [
            (name, f"largest value {f.peak:g} of {f.white:g}") for name, f in deep.items()
        ]


def _read(path: str) -> ImageFacts:
    try:
        content = read_bytes(path)
    except OSError as e:
        return ImageFacts("unreadable", e.strerror or str(e))
    try:
        # an eighth of each side, where JPEG allows it, reads all of the file at half the cost
        image = decode(content, at_least=1)
        if _blank(image.pixels)[0]:  # which may be due to that
            image = decode(content)
        digest = content_digest(content, image)
    except UnidentifiedImageError:
        return ImageFacts("unreadable", "no image" if content else "empty")
    except Exception as e:  # decoders raise nearly anything, and do so in training too
        reason = f"{e}"[:100] or type(e).__name__
        return ImageFacts("truncated" if "trunca" in reason.lower() else "unreadable", reason)
    blank, is_flat = _blank(image.pixels)
    return ImageFacts(
        size=image.size,
        orientation=image.orientation,
        digest=digest,
        blank=blank,
        is_flat=is_flat,
        peak=image.peak,
        white=image.white,
    )


def _blank(pixels: np.ndarray) -> tuple[str, bool]:
    """Why a uint8 image (H, W, 3) shows nothing, or ""; whether it has one level."""
    mean, deviation = cv2.meanStdDev(pixels)
    is_dark, is_bright = (mean + deviation).max() < FLAT, (mean - deviation).min() > 255 - FLAT
    shade = "black" if is_dark else "white" if is_bright else "one colour"
    if deviation.max() < FLAT:
        if not (spread := np.ptp(pixels, axis=(0, 1)).max()):
            return shade, True
        if spread < FLAT:
            return f"nearly {shade}", True
    return (f"nearly {shade}" if is_dark or is_bright else ""), False
