"""The data type of mixed precision."""

import torch

from detection.utils.errors import UserError

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}


def amp_dtype(enabled: bool, precision: str, device: str) -> torch.dtype | None:
    """
    Choose the dtype of mixed precision on a device; None if it is off.

    Args:
        enabled: whether to use mixed precision.
        precision: "fp16" or "bf16".
        device: e.g. "cuda:0".

    Raises:
        UserError: an unknown precision, or one that the device does not support.
    """
    if not enabled:
        return None
    if precision not in PRECISIONS:
        raise UserError(f"train.amp.precision={precision}: there are {', '.join(PRECISIONS)}")
    is_cuda = str(device).startswith("cuda")
    if precision == "fp16" and not is_cuda:
        raise UserError(
            f"fp16 needs a GPU, not {device}: set train.amp.precision=bf16, or "
            "train.amp.enabled=False"
        )
    if precision == "bf16" and is_cuda and not torch.cuda.is_bf16_supported():
        raise UserError("this GPU cannot compute in bf16: set train.amp.precision=fp16")
    return PRECISIONS[precision]
