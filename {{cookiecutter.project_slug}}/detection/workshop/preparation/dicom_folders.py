"""Converts a folder of DICOM files to PNGs."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import cv2
from PIL import Image

from detection.utils.errors import UserError
from detection.utils.files import write_atomically
from detection.utils.progress import progress
from detection.utils.text import folded
from detection.workshop.preparation.dicom import check_header, load_pydicom, read_dicom

ENDINGS = (".dcm", ".dicom", ".dic", ".ima")
SHOWN = 5  # files left out that are listed
MOST_THREADS = 8  # each may hold several copies of a large image


def find_files(folder: Path) -> dict[PurePosixPath, Path]:
    """
    Find the DICOM files of a folder: those with a usual ending, and those that begin as DICOM does.

    Returns:
        {the PNG's path, relative to its folder: the file}, in order.

    Raises:
        UserError: there is no folder, no DICOM file in it, or two would become one PNG.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found, names = {}, {}
    for path in sorted(Path(p, name) for p, _, files in os.walk(folder) for name in files):
        has_ending = path.suffix.lower() in ENDINGS
        if path.name.upper() == "DICOMDIR" or not (has_ending or _is_dicom(path)):
            continue
        name = path.stem if has_ending else path.name  # which may be a UID, with dots
        target = PurePosixPath(path.relative_to(folder).parent.as_posix(), f"{name}.png")
        if (other := names.setdefault(folded(str(target)), path)) != path:
            raise UserError(f"{other} and {path} would both become {target}; rename one")
        found[target] = path
    if not found:
        raise UserError(f"{folder}: holds no DICOM files (*.dcm, *.dicom); unpack archives first")
    return found


def convert(
    files: dict[PurePosixPath, Path],
    output: Path,
    bits: int = 8,
    skip_bad: bool = False,
    force: bool = False,
) -> list[str]:
    """
    Write a PNG of each file; all headers are looked at before the first is written.

    Args:
        files: of `find_files`.
        output: the folder of the PNGs. Those that are there with as many bits are kept, so that an
            interrupted run continues.
        bits: 8 or 16, of the grey levels.
        skip_bad: leave out files that cannot be converted.
        force: whether PNGs that are there are written again.

    Returns:
        Lines that say what was done.

    Raises:
        UserError: a file cannot be converted, pydicom is missing, or PNGs are there of other bits.
    """
    load_pydicom()
    todo = {t: path for t, path in files.items() if force or not (output / t).exists()}
    kept = [output / target for target in files if target not in todo]
    for path in kept:
        _check_kept(path, bits)

    def attempt(work, item):
        try:
            return work(*item)
        except UserError as e:
            if not skip_bad:
                raise
            return e

    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        looks = pool.map(lambda path: attempt(check_header, (path,)), todo.values())
        looks = list(progress(looks, len(todo), "reading headers"))
        bad = [e for e in looks if isinstance(e, UserError)]
        good = [item for item, e in zip(todo.items(), looks, strict=True) if e is None]

        def write(target: PurePosixPath, path: Path) -> list[str]:
            image, facts = read_dicom(path, bits)
            is_encoded, png = cv2.imencode(".png", image)
            assert is_encoded
            write_atomically(output / target, png.tobytes())
            return facts

        writes = pool.map(lambda item: attempt(write, item), good)
        writes = list(progress(writes, len(good), "writing PNGs"))
    bad += [e for e in writes if isinstance(e, UserError)]
    facts = Counter(f for facts in writes if not isinstance(facts, UserError) for f in facts)
    lines = [f"{output}: {len(todo) - len(bad)} PNGs written, {len(kept)} were there"]
    lines += [f"note     {fact}: {times}" for fact, times in facts.most_common()]
    if bad:
        lines.append(f"note     left out: {len(bad)}{', such as' * (len(bad) > SHOWN)}")
        lines += [f"         {e}" for e in bad[:SHOWN]]
    return lines


def _check_kept(path: Path, bits: int) -> None:
    try:
        with Image.open(path) as image:
            mode = image.mode
    except (OSError, SyntaxError, ValueError) as e:
        raise UserError(f"{path}: is not an image; remove it, or use --force") from e
    if mode != "RGB" and (mode == "L") != (bits == 8):
        raise UserError(f"{path}: has other bits than {bits}; --force writes all again")


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as f:
            return f.read(132)[128:] == b"DICM"
    except OSError:
        return False
