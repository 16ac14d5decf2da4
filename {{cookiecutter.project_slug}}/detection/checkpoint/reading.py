"""Reads weight files from any source: arrays by name, never code."""

import argparse
import mmap
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from typing import BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file

from detection.utils.errors import UserError

# what NumPy arrays in the model zoo's pickles are made of
_ARRAY_PARTS = {
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}
_LARGEST_HEADER = 100_000_000  # bytes: safetensors' own limit
# a pickle can create objects of 100 times its size; real weights need some thousand steps
_MOST_STEPS = 1_000_000
_LARGEST_PICKLE = 32_000_000  # bytes, beside the arrays of a .pth

_AGAIN = "copy or download it again"
_OTHER = "give a .pth, .pkl or .safetensors with the weights of a model"
_NO_CODE = "use weights without code, ideally a .safetensors, from a source that you trust"


class _Unusable(Exception):
    """The reason and the remedy."""


def read_weights(filename: str) -> dict:
    """
    Read .pth, .pkl of detectron2's model zoo, .pyth of pycls or .safetensors.

    Returns:
        `model`, the arrays by name, and the other entries of the file, for detectron2's
        checkpointer.

    Raises:
        UserError: the file has another format, is damaged, or holds code.
    """
    refuse_damaged(filename)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's, about damaged files
            loaded = _read(filename)
        if not _has_arrays(loaded):
            raise _Unusable("it has no named arrays", _OTHER)
        return loaded
    # the parsers of four formats raise anything on damaged bytes
    except Exception as e:
        raise _refusal(filename, e) from e


def refuse_damaged(filename: str) -> None:
    """
    Recognize common mistakes, and files that would fill the memory, before any parser runs.

    Raises:
        UserError: the file cannot hold weights.
    """
    try:
        _check_content(filename)
    except Exception as e:  # as above
        raise _refusal(filename, e) from e


def explain(error: Exception) -> tuple[str, str]:
    """Return why a weight file cannot be read, and the remedy."""
    if isinstance(error, _Unusable):
        return error.args
    if isinstance(error, OSError):
        return f"it cannot be read ({error.strerror or error})", _AGAIN
    if isinstance(error, MemoryError):
        return "it claims more than fits into memory", _AGAIN
    # PyTorch's text recommends running the code
    if code := re.search(r"(?:GLOBAL|class|function|global) ([\w.]*\w\.\w+)", str(error)):
        return _calls(code[1]), _NO_CODE
    return "it is cut off or damaged", _AGAIN


def _refusal(filename: str, error: Exception) -> UserError:
    reason, remedy = explain(error)
    return UserError(f"{filename}: not a usable weight file: {reason}; {remedy}")


def _calls(function: str) -> str:
    return f"it would call {function}, and code in weights is never run"


def _check_content(filename: str) -> None:
    size = os.path.getsize(filename)
    if not size:
        raise _Unusable("it is empty", _AGAIN)
    with open(filename, "rb") as f:
        start = f.read(512)
        if start.lstrip().startswith(b"<"):
            raise _Unusable("it is a web page", "download the file itself, logged in if need be")
        if start.startswith(b"version https://git-lfs"):
            raise _Unusable("it is a pointer of Git LFS", "fetch the file with `git lfs pull`")
        if filename.endswith(".safetensors"):
            if int.from_bytes(start[:8], "little") > min(size - 8, _LARGEST_HEADER):
                raise _Unusable("its safetensors header is missing or cut off", _AGAIN)
        elif start.startswith(b"PK") and not filename.endswith(".pkl"):
            _check_archive(filename, size)
        else:
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
                # PyTorch's old format: five pickles, then the arrays
                for _ in range(1 if filename.endswith(".pkl") else 5):
                    _check_steps(content)


def _check_archive(filename: str, size: int) -> None:
    try:
        with zipfile.ZipFile(filename) as archive:
            parts = archive.infolist()
    except zipfile.BadZipFile as e:
        raise _Unusable("it is cut off or damaged", _AGAIN) from e
    names = [part.filename for part in parts]
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        raise _Unusable(f"it is an archive of other files ({', '.join(names[:3])[:100]})", _OTHER)
    if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
        raise _Unusable("it is a TorchScript model, which contains code", _NO_CODE)
    pickles = [part.file_size for part in parts if part.filename.endswith(".pkl")]
    # PyTorch does not compress
    if sum(part.file_size for part in parts) > size or max(pickles) > _LARGEST_PICKLE:
        raise _Unusable("its parts claim to be larger than the file", _AGAIN)


def _check_steps(content: BinaryIO) -> None:
    """Read a pickle's instructions without executing them."""
    for number, (step, argument, _) in enumerate(pickletools.genops(content)):
        # unpickling would allocate an array of that length
        is_too_far = "PUT" in step.name and argument is not None and int(argument) > number
        if is_too_far or number > _MOST_STEPS:
            raise _Unusable("it has more instructions than weights need", _AGAIN)


def _read(filename: str) -> dict:
    if filename.endswith(".safetensors"):
        return {"model": load_file(filename)}
    if filename.endswith(".pkl"):
        with open(filename, "rb") as f:
            loaded = _ArrayUnpickler(f, encoding="latin1").load()
        if not isinstance(loaded, dict):
            raise _Unusable(f"it has a {type(loaded).__name__}, not arrays by names", _OTHER)
        if "model" in loaded and "__author__" in loaded:
            return loaded
        # of Caffe2 and Detectron1, as upstream reads them
        state = loaded.get("blobs", loaded)
        state = {k: v for k, v in state.items() if not k.endswith("_momentum")}
        return {"model": state, "__author__": "Caffe2", "matching_heuristics": True}
    # many authors save their command's arguments too; a Namespace only holds them
    with torch.serialization.safe_globals([argparse.Namespace]):
        loaded = torch.load(filename, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict):
        raise _Unusable(f"it has a {type(loaded).__name__}, not arrays by names", _OTHER)
    if filename.endswith(".pyth"):  # of pycls
        state = loaded.get("model_state", {})
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        return {"model": state, "matching_heuristics": True}
    if isinstance(ema := loaded.get("ema"), dict) and "module" in ema:  # of the DETRs' authors
        return {"model": ema["module"]}
    if "state_dict" in loaded:  # of mmdetection and Lightning
        return {"model": loaded["state_dict"]}
    return loaded if "model" in loaded else {"model": loaded}


def _has_arrays(loaded: dict) -> bool:
    weights = loaded["model"]
    return (
        isinstance(weights, dict)
        and len(weights) > 0
        and all(isinstance(name, str) and _is_array(value) for name, value in weights.items())
    )


def _is_array(value) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_nested or value.is_complex())
    )


class _Array(np.ndarray):
    """An array of numbers, as large as its bytes."""

    def __new__(cls, *args):
        raise pickle.UnpicklingError("an array without content")  # of any size

    def __setstate__(self, state):
        dtype = state[2]
        if dtype.kind not in "biuf" or dtype.subdtype:
            raise pickle.UnpicklingError("an array of other things than numbers")
        super().__setstate__(state)


def _reconstruct(*_) -> _Array:
    return np.ndarray.__new__(_Array, 0, np.int8)


def _dtype(text: str, *_) -> np.dtype:
    dtype = np.dtype(text)
    if dtype.kind not in "biuf":
        raise pickle.UnpicklingError("an array of other things than numbers")
    return np.dtype(dtype, copy=True)


class _ArrayUnpickler(pickle.Unpickler):
    """Creates arrays, numbers, strings, lists and dicts; calls nothing else."""

    def find_class(self, module, name):
        if module == "numpy" and name in ("ndarray", "dtype"):
            return {"ndarray": _Array, "dtype": _dtype}[name]
        if (module, name) not in _ARRAY_PARTS:
            raise _Unusable(_calls(f"{module}.{name}"), _NO_CODE)
        return _reconstruct if name == "_reconstruct" else super().find_class(module, name)
