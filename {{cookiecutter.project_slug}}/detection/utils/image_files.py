"""Finds the files that a json's `file_name`s mean, and candidates for missing ones."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import escape, glob
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from detection.utils.errors import UserError
from detection.utils.images import image_size
from detection.utils.progress import progress
from detection.utils.text import composed, folded, listed


def is_file(folder: str, name: str) -> bool:
    """Whether the folder has such a file; False for an impossible name too."""
    try:
        return os.path.isfile(os.path.join(folder, name))
    except ValueError:
        return False


def find_twins(folder: str, names: Iterable[str]) -> dict[str, str]:
    """
    For names that the folder lacks, those there that differ only in case or Unicode form.

    Letters such as é or 한 have two forms, and not every archive or file system keeps the one that
    it was given. Only unambiguous ones are found.
    """
    listings: dict[str, dict[str, list[str]]] = {}
    twins = {}
    for name in names:
        parent, base = os.path.split(name.replace("\\", "/"))
        if parent not in listings:
            listings[parent] = {}
            try:
                present = os.listdir(os.path.join(folder, parent))
            except (OSError, ValueError):
                present = []
            for other in present:
                listings[parent].setdefault(folded(other), []).append(other)
        found = listings[parent].get(folded(base), [])
        if len(found) == 1 and is_file(folder, os.path.join(parent, found[0])):
            twins[name] = f"{parent}/{found[0]}" if parent else found[0]
    return twins


def find_moved(folder: str, names: Iterable[str], listed: Iterable[str]) -> dict[str, str]:
    """
    For names that the folder lacks, the one file in it or below that they must mean.

    The file has their base name; theirs may have other folders, a root, a drive or an address
    before it, backslashes, the prefix that Label Studio puts before an upload, or no extension. Of
    several such files it is the one that shares most folders with the name. A file that is listed
    itself, or that two names seem to mean, is not used.

    Args:
        folder: the folder of the images.
        names: those that it lacks.
        listed: all names that are in use.

    Returns:
        {name: path from `folder` on, with slashes}.
    """
    names = set(names)
    if not names:
        return {}
    files = defaultdict(list)
    seen = set()
    for parent, folders, bases in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        where = Path(os.path.relpath(parent, folder))
        for base in bases:
            path = (where / base).as_posix()
            files[folded(base)].append(path)
            if Path(base).suffix.lower() in EXTENSIONS:
                files[folded(Path(base).stem)].append(path)
    taken = {os.path.normpath(name) for name in listed if name not in names}
    moved = {}
    for name in names:
        parents, bases = _parts(name)
        found = next((files[key] for key in map(folded, bases) if key in files), [])
        shared = {path: _common_end(parents, path.split("/")[:-1]) for path in found}
        best = [path for path in shared if shared[path] == max(shared.values())]
        if len(best) == 1 and best[0] not in taken:
            moved[name] = best[0]
    claims = Counter(moved.values())
    return {name: path for name, path in moved.items() if claims[path] == 1}


def likely_roots(folder: str, names: list[str]) -> list[str]:
    """The folders under `folder`, one or two levels down, that have all the files `names`."""
    if any("\0" in name or os.path.isabs(name) for name in names):
        return []
    for pattern in ("*", "*/*"):
        first = sorted(glob(os.path.join(escape(folder), pattern, escape(names[0]))))
        roots = [found.removesuffix(names[0]).rstrip("/\\") for found in first]
        if roots := [root for root in roots if all(is_file(root, name) for name in names)]:
            return roots
    return []


def _parts(name: str) -> tuple[list[str], list[str]]:
    """The folders of a name, from whatever system, and what its file may be called."""
    *parents, base = re.split(r"[/\\]|\?d=", name)
    bases = [base, unquote(base), re.sub(r"^[0-9a-f]{8}-", "", unquote(base))]
    return parents, [base for base in bases if base]


def _common_end(parents: list[str], others: list[str]) -> int:
    """How many folders, from the last on, are the same."""
    count = 0
    while count < min(len(parents), len(others)) and parents[-1 - count] == others[-1 - count]:
        count += 1
    return count


# what OpenCV or Pillow reads; of a GIF, the first picture
EXTENSIONS = set(
    ".avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff "
    ".webp".split()
)


# what is often beside images and is not missed
OTHERS = {""} | set(
    ".cache .csv .db .html .ini .json .labels .md .names .txt .xml .yaml .yml .zip".split()
)


class ImageFolder:
    """
    The images in a folder and its subfolders.

    Attributes:
        folder: where the images are.
        root: what the paths are relative to that are given out.
        paths: of the images, relative to `folder`, with slashes, sorted.
        passed_over: a line on the files of unknown types; empty without any.
    """

    def __init__(self, folder: str | Path, root: str | Path):
        """
        Args:
            folder: where the images are looked for.
            root: what the paths are relative to that are given out; `folder` is inside.

        Raises:
            UserError: no such folder, or it is outside of `root`.
        """
        self.folder, self.root = Path(folder), Path(root)
        if not self.folder.is_dir():
            raise UserError(f"{folder}: no such folder; --images says where the images are")
        try:  # not resolved: a folder of data is often a link
            self._prefix = Path(os.path.abspath(folder)).relative_to(os.path.abspath(root))
        except ValueError as e:
            raise UserError(f"{folder}: is not in {root}; --image-root must contain it") from e
        files = [
            Path(parent, name).relative_to(self.folder)
            for parent, _, names in os.walk(self.folder, followlinks=True)
            for name in names
        ]
        self.paths = sorted(f.as_posix() for f in files if f.suffix.lower() in EXTENSIONS)
        endings = Counter(f.suffix.lower() for f in files if not f.name.startswith("."))
        others = [f"{e[:20]} {n}" for e, n in endings.most_common() if e not in EXTENSIONS | OTHERS]
        self.passed_over = f"passed over, no known images: {listed(others, 9)}" * bool(others)
        self._by_name = defaultdict(list)
        for path in self.paths:
            parts = PurePosixPath(path)
            # with and without its extension and its folders
            for name in {path, parts.name, str(parts.with_suffix("")), parts.stem}:
                self._by_name[composed(name)].append(path)

    def find(self, *names: str) -> str | None:
        """
        The image that one of the names means, the first that means one alone.

        Args:
            names: paths or bare names, with an extension or without.

        Returns:
            A path relative to `folder`; None if no image matches.

        Raises:
            UserError: the names mean several images.
        """
        several = []
        for name in names:
            name = composed(name.replace("\\", "/").removeprefix("./"))
            found = self._by_name.get(name, [])
            exact = [path for path in found if composed(path) == name] or found
            if len(exact) == 1:
                return exact[0]
            several = several or found
        if several:
            raise UserError(
                f"{names[0]}: may be {several[0]} or {several[1]} in {self.folder}; "
                "give the folder of the right ones to --images"
            )
        return None

    def file_name(self, path: str) -> str:
        """`path`, relative to `folder`, as a json that is relative to `root` has it."""
        return (self._prefix / path).as_posix()

    def sizes(self, paths: Sequence[str]) -> list[tuple[int, int]]:
        """
        Width and height in pixels of each image, turned as its EXIF data say, as detectron2 does;
        UserError if an image cannot be read.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            sizes = pool.map(lambda path: image_size(self.folder / path), paths)
            return list(progress(sizes, len(paths), "reading image sizes"))
