"""Checks of the images themselves: each is read and decoded once, by several threads."""

import hashlib
import io
import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from detection.annotation_checks import IMAGE, complaint
from detection.findings import Finding, sort_findings
from detection.image_files import is_file

ORIENTATION = 0x0112  # EXIF's tag
TURNED = {  # its values
    2: "mirrored",
    3: "upside down",
    4: "upside down and mirrored",
    5: "a quarter turned and mirrored",
    6: "a quarter turned",
    7: "a quarter turned and mirrored",
    8: "a quarter turned",
}
LOG_PERIOD = 10  # seconds between two lines where there is no terminal


@dataclass(frozen=True)
class ImageFacts:
    """
    What reading an image has told.

    Attributes:
        problem: "unreadable", "truncated", or empty.
        reason: for that, in the decoder's words.
        size: (width, height) as detectron2 sees it, turned as EXIF says; None if unknown.
        orientation: EXIF's, 1 is upright.
        digest: of the file's bytes; None if they cannot be read.
    """

    problem: str = ""
    reason: str = ""
    size: tuple[int, int] | None = None
    orientation: int = 1
    digest: bytes | None = None


def read_images(image_root: str, file_names: Iterable[str]) -> dict[str, ImageFacts]:
    """
    Read and decode all images that are there, in as many threads as there are processors.

    stderr gets a progress bar on a terminal, a line every few seconds elsewhere.
    """
    present = [name for name in dict.fromkeys(file_names) if is_file(image_root, name)]
    paths = [os.path.join(image_root, name) for name in present]
    # decoders let go of Python's lock, so that threads are as fast as processes and start at once
    with ThreadPoolExecutor(_processors()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about broken EXIF and the like
        return dict(zip(present, _with_progress(pool.map(_read, paths), len(paths)), strict=True))


def check_images(coco: dict, facts: dict[str, ImageFacts]) -> list[Finding]:
    """Compare a COCO json with its images, as far as they have been read."""
    images = [i for i in coco["images"] if file_name(i) in facts]
    found = defaultdict(list)
    for image in images:
        name, fact = image["file_name"], facts[image["file_name"]]
        if fact.problem:
            found[f"{fact.problem}_images"].append((name, fact.reason))
            continue
        if not complaint(image, IMAGE) and fact.size != (image["width"], image["height"]):
            said, real = f"{image['width']}×{image['height']}", "{}×{}".format(*fact.size)
            note = f"{said} in the json, {real} in the file"
            if fact.orientation > 4 and fact.size == (image["height"], image["width"]):
                note += ", whose EXIF turns it"
            found["other_sizes"].append((name, note))
        if fact.orientation > 1:
            found["turned_by_exif"].append((name, TURNED[fact.orientation]))
    for _, *repeats in same_content(coco, facts):
        found["repeated_images"] += [(i["file_name"], "") for i in repeats]
    return sort_findings(
        [
            Finding(kind, [name for name, _ in odd], [note for _, note in odd])
            for kind, odd in found.items()
        ]
    )


def same_content(coco: dict, facts: dict[str, ImageFacts]) -> list[list[dict]]:
    """Groups of the json's images, two at least, whose files hold the same bytes."""
    groups = defaultdict(dict)
    for image in coco["images"]:
        name = file_name(image)
        if name in facts and facts[name].digest:
            groups[facts[name].digest].setdefault(name, image)  # one name twice is another oddity
    return [list(images.values()) for images in groups.values() if len(images) > 1]


def file_name(image: object) -> str | None:
    """Of an image record; None if it has none."""
    name = image.get("file_name") if isinstance(image, dict) else None
    return name if isinstance(name, str) else None


def _read(path: str) -> ImageFacts:
    try:
        content = Path(path).read_bytes()
    except OSError as e:
        return ImageFacts("unreadable", e.strerror or str(e))
    digest = hashlib.blake2b(content, digest_size=16).digest()
    size, orientation = None, 1
    try:
        with Image.open(io.BytesIO(content)) as image:
            size, orientation = image.size, _orientation(image)
            if orientation > 4:
                size = size[::-1]
            # an eighth of each side, where JPEG allows it, reads all of the file at half the cost
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    except UnidentifiedImageError:
        return ImageFacts("unreadable", "empty" if not content else "no image", digest=digest)
    except Exception as e:  # decoders raise nearly anything, and to detectron2 they will too
        reason = f"{e}"[:80] or type(e).__name__
        is_cut = "trunca" in reason.lower()
        return ImageFacts("truncated" if is_cut else "unreadable", reason, size, 1, digest)
    return ImageFacts("", "", size, orientation, digest)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF, which detectron2 passes over too
        return 1
    return value if value in TURNED else 1


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))  # those that this process may use
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def _with_progress(facts: Iterator[ImageFacts], total: int) -> Iterator[ImageFacts]:
    if sys.stderr.isatty():
        yield from tqdm(facts, "images", total, unit="", dynamic_ncols=True, leave=False)
        return
    told = time.monotonic()
    for number, fact in enumerate(facts):
        if time.monotonic() - told > LOG_PERIOD:
            told = time.monotonic()
            print(f"images: {number} of {total} read", file=sys.stderr, flush=True)
        yield fact
