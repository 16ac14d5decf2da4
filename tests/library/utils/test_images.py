"""Every kind of image file is read as detectron2 reads it."""

import pickle
import struct

import cv2
import numpy as np
import pytest
from detection.utils import bit_depth, images
from detection.utils.errors import UserError
from detection.utils.images import EXIF_ORIENTATION, image_size, read_image
from detection.utils.thumbnails import read_thumbnail
from detection.workshop.preparation.near_duplicates import hash_images
from detectron2.data.detection_utils import read_image as detectron2_read_image
from PIL import Image


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Uneven sides, no symmetry: uint8 (48, 80, 3) RGB."""
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8), (80, 48))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg(photo, tmp_path, mode, subsampling):
    path = str(tmp_path / "사진 1.jpg")
    image = Image.fromarray(photo).convert(mode)
    image.save(path, quality=90, subsampling=subsampling if mode == "RGB" else -1)
    assert np.array_equal(read_image(path), detectron2_read_image(path, "RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_turned_by_exif(photo, tmp_path, orientation):
    path = str(tmp_path / "turned.jpg")
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(photo).save(path, exif=exif)
    image = read_image(path)
    assert np.array_equal(image, detectron2_read_image(path, "RGB"))
    assert image.shape[:2] == ((48, 80) if orientation < 5 else (80, 48))


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tiff", "gif"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_other_files(photo, tmp_path, mode, suffix):
    path = str(tmp_path / f"image.{suffix}")
    image = Image.fromarray(photo)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(photo[:, :, 0]))
    image = image.convert(mode)
    try:
        image.save(path, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    except OSError:
        return  # there is no such file
    assert np.array_equal(read_image(path), detectron2_read_image(path, "RGB"))


@pytest.mark.parametrize(("suffix", "rounding"), [("png", 0), ("tiff", 1)])
def test_sixteen_bits_become_eight(photo, tmp_path, suffix, rounding):
    path = str(tmp_path / f"deep.{suffix}")
    for pixels in (photo, photo[:, :, 0]):
        deep = pixels.astype(np.uint16) * 256 + 77
        cv2.imwrite(path, deep[:, :, ::-1] if deep.ndim > 2 else deep)
        expected = pixels if pixels.ndim > 2 else pixels[:, :, None]
        assert np.abs(read_image(path).astype(int) - expected).max() <= rounding


def test_files_that_cannot_be_read(photo, tmp_path):
    missing = tmp_path / "missing.jpg"
    with pytest.raises(UserError, match=r"missing.jpg: cannot be read .*\(No such file"):
        read_image(str(missing))
    for suffix in ("jpg", "png"):
        path = tmp_path / f"cut.{suffix}"
        Image.fromarray(photo).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=f"cut.{suffix}: cannot be read as an image") as error:
            read_image(str(path))
        handed_on = pickle.loads(pickle.dumps(error.value))  # as a loader's worker does
        assert str(handed_on) == str(error.value) and handed_on.reason == error.value.reason
        assert str(type(error.value)("in a worker")) == "in a worker"
    for content in (b"", b"\xff\xd8", b"<html>", b"\x89PNG\r\n\x1a\n"):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read_image(str(path))
        assert "\n" not in str(error.value) and "OpenCV" not in str(error.value)


def tiff(values: np.ndarray, bits: int, **tags: int) -> bytes:
    """An uncompressed gray TIFF with the integers packed in so many bits; `tags` by name."""
    height, width = values.shape
    text = "".join(f"{value:0{bits}b}" for value in values.reshape(-1))
    strip = bytes(int(text[k : k + 8], 2) for k in range(0, len(text), 8))
    if bits == 16:
        strip = values.astype("<u2").tobytes()
    numbers = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262}
    numbers |= {"offset": 273, "rows": 278, "count": 279, "max": 281}
    tags |= {"width": width, "height": height, "bits": bits, "compression": 1, "photometric": 1}
    tags |= {"rows": height, "count": len(strip), "offset": 8 + 2 + 12 * (len(tags) + 3) + 4}
    entries = b"".join(
        struct.pack("<HHII", number, 4, 1, tags[name])
        for name, number in numbers.items()
        if name in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + strip


@pytest.mark.parametrize(
    ("dtype", "white"),
    [(np.int32, 255), (np.int32, 65535)]
    + [(dtype, white) for dtype in (np.float32, np.float64) for white in (1, 255, 65535)],
)
def test_floats_and_wide_integers_keep_their_brightness(photo, tmp_path, dtype, white):
    path = str(tmp_path / "deep.tiff")
    for pixels in (photo, photo[:, :, 0]):
        if dtype is np.int32 and pixels.ndim > 2:
            continue  # OpenCV writes none
        values = (pixels / 255 * white).astype(dtype)
        cv2.imwrite(path, values[:, :, ::-1] if values.ndim > 2 else values)
        expected = pixels if pixels.ndim > 2 else pixels[:, :, None]
        assert np.abs(read_image(path).astype(int) - expected).max() <= 1


def test_bit_depth_that_the_file_says(photo, tmp_path):
    path = tmp_path / "deep.tiff"
    gray = photo[:, :, 0].astype(int)
    for content in (tiff(gray * 16 + 5, 12), tiff(gray * 16 + 5, 16, max=3000)):
        path.write_bytes(content)
        assert np.array_equal(read_image(str(path)), np.dstack([gray] * 3))


def test_bit_depth_that_the_file_does_not_say(photo, tmp_path, monkeypatch):
    path = str(tmp_path / "deep.png")
    cv2.imwrite(path, photo[:, :, 0].astype(np.uint16) * 16 + 5)
    assert read_image(path).max() <= 15
    monkeypatch.setattr(bit_depth, "WHITE", 4095)
    assert np.array_equal(read_image(path), np.dstack([photo[:, :, 0]] * 3))


def test_deep_images_are_turned_as_exif_says(photo, tmp_path):
    path = tmp_path / "deep.tiff"
    Image.fromarray(photo[:, :, 0].astype(np.float32)).save(path, tiffinfo={EXIF_ORIENTATION: 6})
    turned = np.rot90(photo[:, :, 0], -1)
    assert np.array_equal(read_image(str(path)), np.dstack([turned] * 3))
    assert image_size(path) == (48, 80)


def test_one_limit_on_size_for_all(tmp_path, monkeypatch):
    """Pillow's own, of 179 million pixels, does not apply; the project's does in every reader."""
    path = tmp_path / "large.jpg"
    Image.linear_gradient("L").resize((14000, 14000)).save(path)
    assert read_image(str(path)).shape == (14000, 14000, 3)
    assert image_size(path) == (14000, 14000)
    assert read_thumbnail(str(path), 64).shape == (64, 64, 3)
    assert hash_images([str(path)]).shape == (1, 256)
    monkeypatch.setattr(images, "MAX_PIXELS", 14000 * 14000 - 1)
    for read in (
        read_image,
        image_size,
        lambda p: read_thumbnail(p, 64),
        lambda p: hash_images([p]),
    ):
        with pytest.raises(UserError, match=r"large\.jpg: .*14000 × 14000.*MAX_PIXELS"):
            read(str(path))


def test_shrunk_image_is_large_enough(photo, tmp_path):
    path = str(tmp_path / "large.jpg")
    Image.fromarray(cv2.resize(photo, (1600, 960))).save(path, quality=95)
    image = read_image(path, at_least=150)
    assert image.shape == (120, 200, 3)
    whole = cv2.resize(read_image(path), (200, 120), interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - whole).mean() < 2
