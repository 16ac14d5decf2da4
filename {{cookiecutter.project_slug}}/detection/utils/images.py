"""
Reads image files for training, prediction, checks and pictures.

Files of 8 bits become the pixels that detectron2 reads, in less time (but it turns TIFFs with an
EXIF orientation twice); bit_depth.py says what becomes of others.
"""

import io
import struct
import threading
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from detection.utils.bit_depth import BITS_PER_SAMPLE, bits_per_sample, to_eight_bits
from detection.utils.errors import UserError

# the one limit on memory, 1.5 GiB of pixels: larger images are refused wherever they are read
MAX_PIXELS = 2**29
# threads decode images larger than this one after another
LARGE = 2**26

# OpenCV's threads do not survive the fork that starts a loader's worker, which then hangs as it
# waits for them; and workers share the cores anyway.
cv2.setNumThreads(1)
with suppress(AttributeError):  # what it prints about damaged files, our errors say
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
Image.MAX_IMAGE_PIXELS = None  # of Pillow's users alone; MAX_PIXELS applies to all

JPEG = b"\xff\xd8"  # how such a file starts
EXIF_ORIENTATION = 0x0112
WIDTH, HEIGHT = 256, 257  # TIFF's tags
# How an image turned as EXIF says is put upright.
UPRIGHT = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image.transpose(1, 0, 2)[:, ::-1],
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda image: image.transpose(1, 0, 2)[::-1],
}

_one_large_image = threading.Lock()


class ImageError(UserError):
    """An image cannot be read; `reason` says why, without naming it."""

    reason = ""


@dataclass(frozen=True)
class Decoded:
    """
    An image and what its file says of it.

    Attributes:
        pixels: uint8 (H, W, 3) RGB, contiguous, upright.
        size: (width, height) of the whole image, upright; `pixels` may be smaller.
        orientation: EXIF's, 1 is upright.
        peak: the largest sample of a file with more than 8 bits, else None.
        white: the sample that became 255, where there is a `peak`.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    orientation: int = 1
    peak: float | None = None
    white: float | None = None


def read_image(path: str, at_least: int | None = None) -> np.ndarray:
    """
    Read an image, upright as its EXIF data say; transparency is ignored.

    Args:
        path: a file, or a URL that iopath's PathManager opens.
        at_least: the image may be shrunk, if that is faster, until its longer side has so many
            pixels; None: it is whole.

    Returns:
        uint8 (H, W, 3) RGB, contiguous.

    Raises:
        ImageError: the file is missing, no whole image, or larger than MAX_PIXELS.
    """
    try:
        return decode(read_bytes(path), at_least).pixels
    except Exception as e:  # decoders raise many kinds
        raise _error(path, e) from e


def image_size(path: str | Path) -> tuple[int, int]:
    """
    Width and height in pixels, upright as EXIF says, from the file's first bytes where possible.

    Raises:
        ImageError: the image cannot be read.
    """
    try:
        with Image.open(path) as image:
            size = image.size
            if image.format == "TIFF":  # of which Pillow's versions turn the size or do not
                size = image.tag_v2[WIDTH], image.tag_v2[HEIGHT]
            _check_size(*size)
            return size[::-1] if _orientation(image) > 4 else size
    except UnidentifiedImageError:  # perhaps a TIFF that OpenCV alone reads
        return read_image(str(path)).shape[1::-1]
    except (OSError, SyntaxError, ValueError, UserError) as e:
        raise _error(path, e) from e


def decode(data: bytes, at_least: int | None = None) -> Decoded:
    """
    Decode a file's content: JPEG by libjpeg-turbo, PNG by OpenCV, others by Pillow or, where it
    does not know them, OpenCV.

    Args:
        data: the content.
        at_least: see `read_image`.

    Raises:
        Exception: of many kinds; it is no whole image or larger than MAX_PIXELS.
    """
    decoded = None
    if data.startswith(JPEG):
        decoded = _decode_jpeg(data, at_least)
    elif data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > 28:
        decoded = _decode_png(data)
    return decoded or _decode_other(data)


def read_bytes(path: str) -> bytes:
    """The content of a file or of a URL that iopath's PathManager opens."""
    if "://" not in path:
        return Path(path).read_bytes()
    from detectron2.utils.file_io import PathManager  # slow to import, and knows URLs

    with PathManager.open(path, "rb") as f:
        return f.read()


def jpeg_orientation(data: bytes) -> int:
    """EXIF's, of a JPEG file's content; 1 is upright."""
    if b"Exif\0\0" not in data[:65536]:
        return 1
    return _orientation(Image.open(io.BytesIO(data)))


def _error(path: str | Path, error: Exception) -> ImageError:
    # the arguments are those of any exception, which a loader's worker can hand on
    reason = (getattr(error, "strerror", None) or str(error) or repr(error)).splitlines()[0]
    text = f"{path}: cannot be read as an image ({reason}); `make check` lists all such files"
    made = ImageError(text)
    made.reason = reason
    return made


def _decode_jpeg(data: bytes, at_least: int | None) -> Decoded | None:
    try:
        import simplejpeg  # no part of `predict.py --onnx`'s needs

        height, width, color_space, _ = simplejpeg.decode_jpeg_header(data)
        if color_space in ("CMYK", "YCCK"):
            return None
        least = {}
        if at_least is not None and max(height, width) > at_least:
            scale = max(at_least, 1) / max(height, width)
            least = {"min_height": max(1, round(height * scale))}
            least["min_width"] = max(1, round(width * scale))
        with _memory(width, height):
            pixels = simplejpeg.decode_jpeg(data, "RGB", **least)
    except UserError:
        raise
    except (ImportError, ValueError):  # damaged: Pillow knows whether all pixels are there
        return None
    return _upright(pixels, (width, height), jpeg_orientation(data))


def _decode_png(data: bytes) -> Decoded | None:
    width, height, bits = struct.unpack(">IIB", data[16:25])
    orientation = _orientation(Image.open(io.BytesIO(data))) if b"eXIf" in data else 1
    with _memory(width, height):
        if bits == 16:
            values = _opencv(data, cv2.IMREAD_UNCHANGED)
            return None if values is None else _deep(values, orientation, {BITS_PER_SAMPLE: 16})
        pixels = _opencv(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if pixels is None else _upright(pixels, (width, height), orientation)


def _decode_other(data: bytes) -> Decoded:
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        return _decode_unidentified(data)
    with image, _memory(*image.size):
        orientation = _orientation(image)
        if image.format == "TIFF":  # Pillow and OpenCV put it upright themselves
            return replace(_decode_tiff(data, image), orientation=orientation)
        if image.mode == "F":
            return _deep(np.asarray(image), orientation, {})
        if image.mode.startswith("I"):  # of 32 bits only to Pillow
            return _deep(np.asarray(image), orientation, {BITS_PER_SAMPLE: 16})
        return _upright(np.asarray(image.convert("RGB")), image.size, orientation)


def _decode_tiff(data: bytes, image: Image.Image) -> Decoded:
    tags = dict(image.tag_v2)
    if image.mode.startswith(("I", "F")):
        return _deep(np.asarray(image), 1, tags)
    if bits_per_sample(tags) > 8:  # Pillow keeps 8 of them
        values = _opencv(data, cv2.IMREAD_UNCHANGED)
        if values is not None and values.dtype != np.uint8:
            return _deep(values, 1, tags)
    pixels = np.asarray(image.convert("RGB"))
    return _upright(pixels, pixels.shape[1::-1], 1)


def _decode_unidentified(data: bytes) -> Decoded:
    """Of a file that Pillow does not know, such as a TIFF of colours in floats."""
    tags = {}
    if data[:4] in (b"II*\0", b"MM\0*"):
        with suppress(Exception), io.BytesIO(data) as file:
            directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
            file.seek(directory.next)
            directory.load(file)
            tags = dict(directory)
    with _memory(tags.get(WIDTH, 0), tags.get(HEIGHT, 0)):
        values = _opencv(data, cv2.IMREAD_UNCHANGED) if data else None
        if values is None:
            raise UnidentifiedImageError("no image" if data else "empty")
        if values.dtype == np.uint8:
            pixels = _opencv(data, cv2.IMREAD_COLOR)
            return _upright(pixels, pixels.shape[1::-1], 1)
        return replace(_deep(values, 1, tags), orientation=tags.get(EXIF_ORIENTATION, 1))


def _opencv(data: bytes, flags: int) -> np.ndarray | None:
    """The image, gray or RGB and without transparency; None if there is none."""
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if values is None or values.ndim < 3:
        return values
    if values.dtype == np.uint8 and values.shape[2] == 3:
        return cv2.cvtColor(values, cv2.COLOR_BGR2RGB)
    return values[:, :, 2::-1]


def _deep(values: np.ndarray, orientation: int, tags: dict) -> Decoded:
    pixels, peak, white = to_eight_bits(values, tags)
    if pixels.ndim < 3:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return _upright(pixels, pixels.shape[1::-1], orientation, peak, white)


def _upright(
    pixels: np.ndarray,
    size: tuple[int, int],
    orientation: int,
    peak: float | None = None,
    white: float | None = None,
) -> Decoded:
    if orientation in UPRIGHT:
        pixels = UPRIGHT[orientation](pixels)
        size = size[::-1] if orientation > 4 else size
    else:
        orientation = 1
    # writable, as augmentations change it in place
    pixels = np.require(pixels, requirements=("C", "W"))
    return Decoded(pixels, tuple(size), orientation, peak, white)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # broken EXIF, which detectron2 passes over too
        return 1
    return value if value in UPRIGHT else 1


def _memory(width: int, height: int):
    """The context to decode in, once it is sure that the image is not too large."""
    _check_size(width, height)
    return _one_large_image if width * height > LARGE else nullcontext()


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{width} × {height} pixels are more than {MAX_PIXELS:,}: cut it into tiles, or raise "
            "MAX_PIXELS in detection/utils/images.py"
        )
