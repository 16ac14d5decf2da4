"""
The device to compute on, tried before it is trusted.

That PyTorch reports a GPU is not enough: it may be older than PyTorch's kernels. And where the
driver is older than PyTorch's CUDA, PyTorch reports none, though the machine has one.
"""

import functools
import logging
import os
import shutil
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path

import torch
from detectron2.utils import comm
from omegaconf import DictConfig
from torchvision.ops import nms, roi_align

from detection.utils.bounded import within
from detection.utils.errors import UserError

logger = logging.getLogger(__name__)

TIME_LIMIT = 120  # seconds; the first operation on a GPU loads its libraries
_WSL_SMI = "/usr/lib/wsl/lib/nvidia-smi"  # not on PATH in every WSL
_REMEDY = "`python tools/doctor.py` says more; train.device=cpu trains without it"


def set_device(cfg: DictConfig) -> None:
    """
    Replace `train.device=auto` by a device that works, and try one that is given.

    Args:
        cfg: the whole config; `train.device` is changed in place.

    Raises:
        UserError: the device does not work, or the machine has a GPU that PyTorch cannot use.
    """
    wanted, has_rois = str(cfg.train.device), "roi_heads" in cfg.get("model", {})
    if wanted == "auto":
        cfg.train.device = _choose(has_rois)
    elif wanted.startswith("mps") and comm.get_world_size() > 1:
        raise UserError("train.device=mps: is for one process; leave out --num-gpus, or give cpu")
    elif not wanted.startswith("cpu") and (failure := failure_of(wanted, has_rois)):
        raise UserError(f"train.device={wanted}: {failure}; {_REMEDY}")


def _choose(has_rois: bool) -> str:
    if has_cuda():
        if failure := failure_of("cuda", has_rois):
            raise UserError(f"{torch.cuda.get_device_name()}: {failure}; {_REMEDY}")
        return "cuda"
    if gpus := nvidia_gpus():
        raise UserError(f"{gpus[0]}: {why_no_cuda()}; {_REMEDY}")
    # processes exchange tensors of the CPU or of CUDA only
    if torch.backends.mps.is_available() and comm.get_world_size() == 1:
        if not (failure := failure_of("mps", has_rois)):
            return "mps"
        logger.warning(f"training on the CPU, not on MPS: {failure}")
    return "cpu"


def has_cuda() -> bool:
    """Whether PyTorch reports a CUDA device; its warning about the driver is left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def why_no_cuda() -> str:
    """Why PyTorch reports no CUDA device, in a few words, with a remedy."""
    if torch.version.cuda is None:
        reason = "is built without CUDA"
    else:
        reason = f"is built for CUDA {torch.version.cuda} and cannot use it"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as e:
        reason += f" ({_first_sentence(e)})"
    return (
        f"PyTorch {torch.__version__} {reason}; `make setup UV_TORCH_BACKEND=auto` installs the "
        "PyTorch for this driver, and a container needs `--gpus all`"
    )


@functools.lru_cache
def failure_of(device: str, has_rois: bool = True) -> str | None:
    """
    Run a convolution, NMS and RoIAlign, forward and backward, and compare them with the CPU's.

    Args:
        device: e.g. "cuda:0".
        has_rois: whether RoIAlign counts; only two-stage models need it. On MPS its backward is
            wrong before torchvision 0.29 (pytorch/vision issue 9510).

    Returns:
        None if all is right, else what is wrong; after TIME_LIMIT seconds, that nothing came.
    """

    def compare() -> str | None:
        pairs = zip(_operations(device, has_rois), _operations("cpu", has_rois), strict=True)
        # GPUs round the factors of a convolution to 10 bits
        same = all(torch.allclose(one, other, rtol=0.02, atol=0.02) for one, other in pairs)
        return None if same else "computes other numbers than the CPU"

    try:
        failure = within(TIME_LIMIT, compare)
    except TimeoutError:
        return f"no operation ended within {TIME_LIMIT} s"
    except Exception as e:
        failure = _first_sentence(e)
    return failure and f"fails with PyTorch {torch.__version__} ({failure})"


def _operations(device: str, has_rois: bool) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 32, 32, generator=generator).to(device).requires_grad_()
    weight = torch.rand(4, 3, 3, 3, generator=generator).to(device)
    boxes = torch.tensor([[0.0, 0, 16, 16], [1, 1, 17, 17], [8, 8, 30, 30]], device=device)
    features = torch.conv2d(image, weight)
    if has_rois:
        features = roi_align(features, [boxes], 7, sampling_ratio=2, aligned=True)
    features.mean().backward()
    kept = nms(boxes, torch.tensor([0.7, 0.8, 0.9], device=device), 0.5)
    # the mean's gradient is small: brought to the size of the other numbers
    return [x.detach().cpu() for x in (features, image.grad * features.numel(), kept.float())]


def nvidia_gpus() -> list[str]:
    """The names of this machine's NVIDIA GPUs; none where CUDA_VISIBLE_DEVICES hides all."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return []
    names = []
    for file in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        with suppress(OSError):
            model = [
                x for x in file.read_text(encoding="utf-8").splitlines() if x.startswith("Model:")
            ]
            names += [x.partition(":")[2].strip() for x in model] or ["NVIDIA GPU"]
    return names or [line.partition(",")[0] for line in query_smi("name")]


def query_smi(*fields: str) -> list[str]:
    """A line of nvidia-smi for each GPU, with comma and blank between fields; none without it."""
    command = shutil.which("nvidia-smi") or _WSL_SMI
    query = [command, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            query, capture_output=True, encoding="utf-8", errors="replace", timeout=30, check=True
        )
        return done.stdout.splitlines()
    return []


def _first_sentence(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return line.partition(". ")[0].rstrip(".") or type(error).__name__
