"""
Reads DICOM files as a radiologist's screen shows them.

Stored values become those of the modality (rescale slope and intercept), and a window or a table of
values of interest picks the range from black to white. MONOCHROME1, where low values are white, is
inverted; padding is black. pydicom, which reads the files, is the group `dicom` of pyproject.toml.
"""

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detection.utils.errors import UserError
from detection.utils.text import printable

if TYPE_CHECKING:
    import pydicom

COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")


def read_dicom(path: Path, bits: int = 8) -> tuple[np.ndarray, list[str]]:
    """
    Read a DICOM file as it is shown.

    Args:
        path: of a file with one frame.
        bits: 8 or 16.

    Returns:
        (H, W) of uint8 or uint16, or (H, W, 3) in BGR of uint8 if the file has colours; and what
        was done to its values.

    Raises:
        UserError: the file cannot be read or shown.
    """
    pydicom = load_pydicom()
    try:
        dataset = pydicom.dcmread(path)
        _refuse(path, dataset)
        pixels = pydicom.pixels.pixel_array(dataset)
        if pixels.ndim == 3:
            return np.ascontiguousarray(pixels[..., ::-1]), ["in colour, as they are"]
        level, facts = _grey_level(dataset, pixels)
    except UserError:
        raise
    except Exception as e:  # of each plug-in its own
        remedy = "fetch it again"
        if "available plugins" in str(e):
            remedy += ", or try the plug-in under the GPL: `uv pip install pylibjpeg-libjpeg`"
        raise UserError(f"{path}: cannot be read ({_short(e)}); {remedy}") from e
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        level = 1 - level
        facts.append("inverted, since low values are white (MONOCHROME1)")
    is_padding = _padding(dataset, pixels)
    if is_padding.any():
        level[is_padding] = 0
        facts.append("with padding, which is black")
    white = 2**bits - 1
    return (level * white).round().astype(np.uint8 if bits == 8 else np.uint16), facts


def check_header(path: Path) -> None:
    """Raise a UserError for a file that `read_dicom` refuses, without reading its pixels."""
    pydicom = load_pydicom()
    try:
        _refuse(path, pydicom.dcmread(path, stop_before_pixels=True))
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"{path}: is not a sound DICOM file ({_short(e)}); fetch it again") from e


def load_pydicom():
    """The package; UserError if it is missing."""
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as e:
        raise UserError(
            "pydicom, which reads DICOM, is missing: `uv pip install --group dicom` adds it, or "
            "pip with the same option"
        ) from e
    # values that break a rule of the standard, but can be read, are common
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module="pydicom")
    return pydicom


def _grey_level(dataset: "pydicom.Dataset", pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """From 0, what is black in MONOCHROME2, to 1."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    values = apply_modality_lut(pixels, dataset)
    if dataset.get("VOILUTSequence"):
        most = 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
        table = apply_voi(values.round().astype(np.int64), dataset)
        return table / most, ["by the file's table of values (VOI LUT)"]
    values = values.astype(np.float64)
    if dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None:
        centers, widths = (np.atleast_1d(dataset[k].value) for k in ("WindowCenter", "WindowWidth"))
        function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
        facts = ["by the file's window"]
        if len(centers) > 1:
            facts = ["by the first of the file's windows"]
        return window(values, float(centers[0]), float(widths[0]), function), facts
    if dataset.BitsStored == 8 and dataset.PixelRepresentation == 0 and values.max() <= 255:
        if np.array_equal(values, pixels):
            return values / 255, ["of 8 bits, as they are"]
    seen = values[~_padding(dataset, pixels)]
    low, high = (seen.min(), seen.max()) if seen.size else (0, 0)
    level = (values - low) / max(high - low, 1e-12)
    return level.clip(0, 1), ["without a window, from their own lowest value to the highest"]


def window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """
    Apply a window, as DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3 define it.

    Args:
        values: of the modality, of any shape.
        center: the value in the middle of the grey levels.
        width: how many values there are from black to white.
        function: LINEAR, LINEAR_EXACT or SIGMOID.

    Returns:
        Levels from 0 to 1 of the same shape.

    Raises:
        ValueError: another function, or a width that it does not take.
    """
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueError(f"unknown VOI LUT function {function!r}")
    if width < 1 if function == "LINEAR" else width <= 0:
        raise ValueError(f"a window of width {width:g}")
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if width == 0:
        return (values > center).astype(np.float64)
    return ((values - center) / width + 0.5).clip(0, 1)


def _padding(dataset: "pydicom.Dataset", pixels: np.ndarray) -> np.ndarray:
    """(H, W), bool: stored values that stand for no tissue."""
    first = dataset.get("PixelPaddingValue")
    if not isinstance(first, int):
        return np.zeros(pixels.shape, bool)
    last = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((first, last if isinstance(last, int) else first))
    return (pixels >= low) & (pixels <= high)


def _refuse(path: Path, dataset: "pydicom.Dataset") -> None:
    from pydicom.pixels import get_decoder

    if not dataset.get("Rows") or not dataset.get("Columns"):
        kind = getattr(dataset.get("SOPClassUID"), "name", "DICOM without pixels")
        raise UserError(
            f"{path}: holds no image ({kind}); remove it, or leave it out with --skip-bad"
        )
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise UserError(
            f"{path}: has {frames} frames; write each to a file of its own, or leave it out with "
            "--skip-bad"
        )
    colours = dataset.get("PhotometricInterpretation", "")
    is_grey = colours in ("MONOCHROME1", "MONOCHROME2")
    if not is_grey and (colours not in COLOURS or dataset.get("BitsAllocated") != 8):
        raise UserError(
            f"{path}: is in {colours or 'unknown colours'} of {dataset.get('BitsAllocated')} bits; "
            "only grey, and colours of 8 bits, are converted; --skip-bad leaves it out"
        )
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise UserError(f"{path}: does not say how it is stored (transfer syntax); export it again")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as e:
        raise UserError(f"{path}: is stored as {syntax.name}, which pydicom cannot read") from e
    if not decoder.is_available:
        raise UserError(
            f"{path}: is compressed as {syntax.name}, which takes a plug-in: `uv pip install "
            f"{_plug_in(syntax.name)}`"
        )


def _plug_in(syntax: str) -> str:
    """Under free licenses, with wheels for Linux, macOS and Windows."""
    return "pylibjpeg pylibjpeg-openjpeg" if "2000" in syntax else "python-gdcm"


def _short(error: Exception) -> str:
    """Its first sentence."""
    return printable(re.split(r"\n|\. ", f"{error}")[0])[:200] or type(error).__name__
