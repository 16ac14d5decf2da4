"""Every kind of image file is read as detectron2 reads it."""

import cv2
import numpy as np
import pytest
from detectron2.data.detection_utils import read_image as detectron2_read_image
from PIL import Image

from detection.errors import UserError
from detection.images import EXIF_ORIENTATION, read_image


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
        with pytest.raises(UserError, match=f"cut.{suffix}: cannot be read as an image"):
            read_image(str(path))
    for content in (b"", b"\xff\xd8", b"<html>", b"\x89PNG\r\n\x1a\n"):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read_image(str(path))
        assert "\n" not in str(error.value) and "OpenCV" not in str(error.value)
