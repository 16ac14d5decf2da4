"""Finds the images of a folder by what annotations call them, and reads their sizes."""

import os
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from detection.utils.errors import UserError
from detection.utils.images import image_size

# what OpenCV or Pillow reads; of a GIF, the first picture
EXTENSIONS = set(
    ".avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff "
    ".webp".split()
)
# what is often beside images and is not missed
OTHERS = set(".cache .csv .db .html .ini .json .md .names .txt .xml .yaml .yml .zip".split()) | {""}


class ImageFolder:
    """
    The images in a folder and its subfolders.

    Attributes:
        folder: where the images are.
        root: what the paths are relative to that are given out.
        paths: of the images, relative to `folder`, with slashes, sorted.
        passed_over: a line on the files that are no images we know; empty if there are none.
    """

    def __init__(self, folder: str | Path, root: str | Path):
        """
        Args:
            folder: where the images are looked for.
            root: what the paths are relative to that are given out; `folder` lies in it.

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
        self.passed_over = f"passed over, no known images: {', '.join(others[:9])}" * bool(others)
        self._by_name = defaultdict(list)
        for path in self.paths:
            parts = PurePosixPath(path)
            # with and without its extension and its folders
            for name in {path, parts.name, str(parts.with_suffix("")), parts.stem}:
                self._by_name[_composed(name)].append(path)

    def find(self, *names: str) -> str | None:
        """
        The image that one of the names means, the first that means one alone.

        Args:
            names: paths or bare names, with an extension or without.

        Returns:
            A path relative to `folder`, None where there is none.

        Raises:
            UserError: the names mean several images.
        """
        several = []
        for name in names:
            name = _composed(name.replace("\\", "/").removeprefix("./"))
            found = self._by_name.get(name, [])
            exact = [path for path in found if _composed(path) == name] or found
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
        Width and height in pixels of each image, turned as its EXIF data say, as detectron2 does.

        Raises:
            UserError: an image cannot be read.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            sizes = pool.map(lambda path: image_size(self.folder / path), paths)
            shown = sys.stderr.isatty()
            return list(tqdm(sizes, "reading image sizes", len(paths), disable=not shown))


def _composed(name: str) -> str:
    """Letters such as 한 have two forms, and archives from a Mac hold the other one."""
    return unicodedata.normalize("NFC", name)
