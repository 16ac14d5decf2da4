"""tools/convert_dicom.py: PNGs as a radiologist sees the files, checked against pydicom's own."""

import json
import sys
from pathlib import Path

import convert_dataset
import convert_dicom as tool
import cv2
import numpy as np
import pydicom
import pytest
from detection.workshop.preparation.dicom import read_dicom, window
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_windowing, pixel_array
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    generate_uid,
)

RAMP = np.linspace(0, 4095, 40 * 60).astype(np.uint16).reshape(40, 60)  # of 12 bits


def write_dicom(
    path: Path, pixels: np.ndarray = RAMP, syntax=ExplicitVRLittleEndian, **tags
) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName = "홍^길동"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored = 12 if pixels.dtype == np.uint16 else dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for key, value in tags.items():
        setattr(dataset, key, value)
    if syntax == JPEG2000Lossless:
        dataset.compress(syntax, encoding_plugin="pylibjpeg")
    elif syntax != ExplicitVRLittleEndian:  # pixels that nothing will decode
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8"])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def read_png(path: Path) -> np.ndarray:
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)


def refusal(capsys, source: Path, *args: object) -> str:
    output = source.parent / "png"
    before = sorted(output.rglob("*"))
    assert tool.main([str(source), str(output), *map(str, args)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert sorted(output.rglob("*")) == before
    return error


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, -1024), (0.5, 3)])
def test_windows_are_those_of_pydicom(tmp_path, function, slope, intercept):
    tags = {"RescaleSlope": slope, "RescaleIntercept": intercept, "WindowCenter": 900}
    tags |= {"WindowWidth": 700, "VOILUTFunction": function}
    path = write_dicom(tmp_path / "1.dcm", **tags)
    low, high = intercept, 4095 * slope + intercept  # where pydicom puts black and white
    theirs = apply_windowing(RAMP.astype(float) * slope + intercept, pydicom.dcmread(path))
    level = (theirs - low) / (high - low)
    for bits, dtype in ((8, np.uint8), (16, np.uint16)):
        image, facts = read_dicom(path, bits)
        assert image.dtype == dtype and facts == ["by the file's window"]
        np.testing.assert_allclose(image, level * (2**bits - 1), atol=0.51)
        inverted = write_dicom(tmp_path / "2.dcm", **tags, PhotometricInterpretation="MONOCHROME1")
        np.testing.assert_allclose(2**bits - 1 - read_dicom(inverted, bits)[0], image, atol=1)


def test_a_window_by_hand():
    """Of DICOM PS3.3, C.11.2.1.2.1: centre 2048, width 4096 is all of 12 bits."""
    levels = window(np.array([-5.0, 0, 2047.5, 4095, 9999]), 2048, 4096, "LINEAR")
    np.testing.assert_allclose(levels, [0, 0, 0.5, 1, 1])
    assert window(np.array([9.0, 10.0]), 10, 1, "LINEAR").tolist() == [0, 1]
    with pytest.raises(ValueError, match="width 0"):
        window(np.zeros(1), 1, 0, "LINEAR_EXACT")


def test_without_a_window(tmp_path):
    """Padding neither is the darkest tissue nor seen; 8 bits stay as they are."""
    pixels = RAMP // 2 + 1000
    pixels[:5] = 4000
    path = write_dicom(tmp_path / "1.dcm", pixels, PhotometricInterpretation="MONOCHROME1")
    tags = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 4000}
    padded = write_dicom(tmp_path / "2.dcm", pixels, **tags)
    assert read_dicom(path)[0][5:].min() > 0
    image, facts = read_dicom(padded)
    assert not image[:5].any() and (image[5:].min(), image[5:].max()) == (0, 255)
    assert image[5, 0] > image[-1, -1]
    assert "with padding, which is black" in facts
    eight = (RAMP // 32).astype(np.uint8)  # up to 127
    np.testing.assert_array_equal(read_dicom(write_dicom(tmp_path / "3.dcm", eight))[0], eight)


def test_table_of_values(tmp_path):
    """A VOI LUT of 10 bits, from stored value 1000 on, which halves the levels and inverts them."""
    table = Dataset()
    table.LUTDescriptor = [2000, 1000, 10]
    table.LUTData = (1023 - np.arange(2000) // 2).astype("<u2").tobytes()
    path = write_dicom(tmp_path / "1.dcm", VOILUTSequence=[table])
    image, facts = read_dicom(path)
    expected = 1023 - (RAMP.astype(int) - 1000).clip(0, 1999) // 2
    np.testing.assert_allclose(image, expected / 1023 * 255, atol=0.51)
    assert facts == ["by the file's table of values (VOI LUT)"]


@pytest.mark.parametrize(
    ("name", "says", "mean"),
    [
        ("MR_small.dcm", "window", None),
        ("MR_small_RLE.dcm", "window", None),
        ("MR_small_jp2klossless.dcm", "window", None),
        ("MR_small_bigendian.dcm", "window", None),
        ("CT_small.dcm", "lowest value", None),
        ("SC_rgb_jpeg_dcmtk.dcm", "colour", (254, 0, 0)),  # its upper left is red
    ],
)
def test_files_of_scanners(name, says, mean):
    """Of pydicom's own tests: a CT and an MR scanner's, in several compressions, and a capture."""
    image, facts = read_dicom(Path(get_testdata_file(name, download=False)))
    assert says in facts[0]
    if name.startswith("MR"):
        plain = read_dicom(Path(get_testdata_file("MR_small.dcm", download=False)))[0]
        np.testing.assert_array_equal(image, plain)
        pixels = pixel_array(get_testdata_file(name, download=False)).astype(float)
        expected = ((pixels - 599.5) / 1599 + 0.5).clip(0, 1) * 255
        np.testing.assert_allclose(image, expected, atol=0.51)
    if mean:
        assert np.abs(image[2, 2, ::-1].astype(int) - mean).max() < 3


def test_a_competition_folder(tmp_path, capsys, monkeypatch):
    """VinBigData's or the RSNA's: files, a csv of boxes, and the COCO json made of both."""
    monkeypatch.setattr(convert_dataset, "CLASSES", ["Aortic enlargement", "폐 결절"])
    root = tmp_path / "datasets"
    tags = {"WindowCenter": [2048, 1], "WindowWidth": [4096, 1]}
    write_dicom(root / "dicom" / "50a418190bc3fb1ef1633bf9678929b3.dicom", **tags)
    write_dicom(root / "dicom" / "폴더" / "같은.dcm", syntax=JPEG2000Lossless)
    write_dicom(root / "dicom" / "1.2.840.10008")  # no ending, as scanners write it
    (root / "dicom" / "notes.txt").write_text("not DICOM")
    assert tool.main([str(root / "dicom"), str(root / "png")]) == 0
    shown = capsys.readouterr().out
    assert "3 PNGs written" in shown and "by the first of the file's windows: 1" in shown
    files = sorted(p.relative_to(root / "png").as_posix() for p in (root / "png").rglob("*.png"))
    names = ["1.2.840.10008.png", "50a418190bc3fb1ef1633bf9678929b3.png", "폴더/같은.png"]
    assert files == names
    np.testing.assert_array_equal(*(read_png(root / "png" / name) for name in names[::2]))

    rows = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
    rows += "50a418190bc3fb1ef1633bf9678929b3,폐 결절,1,R8,1.0,2.0,30.0,20.0\n"
    rows += "1.2.840.10008,No finding,14,R1,,,,\n같은,Aortic enlargement,0,R2,5,6,7,8\n"
    (root / "train.csv").write_text(rows, encoding="utf-8")
    args = [str(root / "train.csv"), f"--image-root={root}", f"--output={root}/train.json"]
    assert convert_dataset.main([*args, f"--images={root}/dicom"]) == 2
    assert "tools/convert_dicom.py makes PNGs" in capsys.readouterr().err
    assert convert_dataset.main([*args, f"--images={root}/png"]) == 0
    coco = json.loads((root / "train.json").read_text(encoding="utf-8"))
    assert {i["file_name"] for i in coco["images"]} == {f"png/{name}" for name in names}
    assert [a["bbox"] for a in coco["annotations"]] == [[1, 2, 29, 18], [5, 6, 2, 2]]


def test_interrupted_runs_continue(tmp_path, capsys):
    for name in ("a.dcm", "b.dcm"):
        write_dicom(tmp_path / "in" / name)
    args = [str(tmp_path / "in"), str(tmp_path / "png")]
    assert tool.main(args) == 0
    (tmp_path / "png" / "b.png").unlink()
    before = (tmp_path / "png" / "a.png").stat().st_mtime_ns
    assert tool.main(args) == 0
    assert "1 PNGs written, 1 were there" in capsys.readouterr().out
    assert (tmp_path / "png" / "a.png").stat().st_mtime_ns == before
    assert "has other bits than 16; --force" in refusal(capsys, tmp_path / "in", "--bits", 16)
    assert tool.main([*args, "--bits=16", "--force"]) == 0
    assert read_png(tmp_path / "png" / "a.png").dtype == np.uint16


@pytest.mark.parametrize(
    ("pixels", "tags", "says"),
    [
        (np.stack([RAMP] * 3).reshape(120, 60), {"NumberOfFrames": 3, "Rows": 40}, "has 3 frames"),
        (RAMP, {"syntax": JPEGLosslessSV1}, "`uv pip install python-gdcm`"),
        (RAMP, {"PhotometricInterpretation": "PALETTE COLOR"}, "is in PALETTE COLOR of 16 bits"),
        (RAMP, {"PixelData": b"12"}, "cannot be read (The number of bytes of pixel data"),
        (RAMP, {"Rows": None}, "holds no image (Digital X-Ray"),
        (RAMP, {"WindowCenter": 1, "WindowWidth": 0}, "a window of width 0"),
        (RAMP, {"WindowCenter": 1, "WindowWidth": 9, "VOILUTFunction": "X"}, "function 'X'"),
        (None, {}, "is not a sound DICOM file"),
    ],
)
def test_bad_files_are_one_line_or_left_out(tmp_path, capsys, pixels, tags, says):
    write_dicom(tmp_path / "in" / "z.dcm")
    bad = tmp_path / "in" / "가.dcm"
    bad.write_bytes(b"no DICOM at all") if pixels is None else write_dicom(bad, pixels, **tags)
    if "cannot" not in says and "window" not in says and "function" not in says:
        line = refusal(capsys, tmp_path / "in")
        assert "가.dcm" in line and says in line
    assert tool.main([str(tmp_path / "in"), str(tmp_path / "png"), "--skip-bad"]) == 0
    shown = capsys.readouterr().out
    assert "1 PNGs written" in shown and "left out: 1" in shown and says in shown


def test_pydicom_is_optional(tmp_path, capsys, monkeypatch):
    write_dicom(tmp_path / "in" / "a.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "uv pip install --group dicom" in refusal(capsys, tmp_path / "in")


def test_bad_folders_are_one_line(tmp_path, capsys):
    assert "no such folder" in refusal(capsys, tmp_path / "in")
    (tmp_path / "in").mkdir()
    assert "holds no DICOM files" in refusal(capsys, tmp_path / "in")
    write_dicom(tmp_path / "in" / "a.dcm")
    write_dicom(tmp_path / "in" / "A.dicom")
    assert "would both become" in refusal(capsys, tmp_path / "in")
