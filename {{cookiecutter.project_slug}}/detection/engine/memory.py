"""Running out of memory: how it is recognized, tried out, repeated without it, and agreed on."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from detectron2.utils.events import EventStorage
from torch import distributed

from detection.utils.errors import UserError

BUCKET = 25 * 2**20  # bytes of gradients that are exchanged together, as in DDP


def is_out_of_memory(error: Exception) -> bool:
    """Whether it is CUDA's error, or one of the CPU's allocator on Linux and Windows."""
    texts = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in texts)


def advice_on_memory(
    model: torch.nn.Module, batch: list[dict], accumulate: int, is_mixed: bool
) -> str:
    """What a batch of model inputs consists of, and which settings need less memory."""
    model = getattr(model, "module", model)  # wrapped for several processes
    resized = " and model.multi_scale" if getattr(model, "multi_scale", None) else ""
    smaller = "lower dataloader.train.total_batch_size"
    if accumulate < len(batch):
        smaller = "set train.accumulate=auto, lower dataloader.train.total_batch_size"
    return (
        f"with {len(batch)} images of {', '.join(map(pixels, batch))} pixels; {smaller} or "
        f"dataloader.train.mapper.augmentations.0.short_edge_length{resized}"
        + ("" if is_mixed else ", or set train.amp.enabled=True")
    )


def pixels(image: dict) -> str:
    """The width and the height of a model input."""
    return "×".join(map(str, reversed(image["image"].shape[1:])))


def random_state(device: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The state of the generators that a model on this type of device draws from."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if device == "cuda" else None


def set_random_state(device: str, state: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if device == "cuda":
        torch.cuda.set_rng_state(state[1])


@contextmanager
def rehearsal(model: torch.nn.Module, device: str) -> Iterator[None]:
    """
    Try a step with room to spare, and leave no trace in the model or in random numbers.

    While it lasts, a GPU has a tenth of its memory less, and all devices less what an optimizer
    such as AdamW keeps. A model that resizes its batches takes its largest size.
    """
    random = random_state(device)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    values = [
        (module, name, getattr(module, name))
        for module in model.modules()
        for name in ("loss_normalizer", "multi_scale")
        if getattr(module, name, None)
    ]
    for module, name, value in values:
        if name == "multi_scale":
            module.multi_scale = [max(value)]
    spare = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    if device == "cuda":
        spare += torch.cuda.mem_get_info()[1] // 10
    try:
        held = torch.empty(spare, dtype=torch.uint8, device=device)
    except (RuntimeError, MemoryError):
        held = None  # a step will not fit either
    try:
        with EventStorage():
            yield
    finally:
        del held
        set_random_state(device, random)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, name, value in values:
            setattr(module, name, value)


def require_no_exchange(model: torch.nn.Module, ddp: dict) -> None:
    """
    Refuse models whose forward pass waits for other processes, which may be out of memory.

    Raises:
        UserError: synchronized BatchNorm, losses that are reduced over processes
            (`reduces_losses`), or a setting of `train.ddp` that needs DDP's own exchange.
    """
    name = next(
        (
            type(module).__name__
            for module in model.modules()
            if "SyncBatchNorm" in type(module).__name__ or getattr(module, "reduces_losses", False)
        ),
        None,
    ) or next((f"train.ddp.{key}" for key in _DDP_ONLY if ddp.get(key)), None)
    if name:
        raise UserError(
            f"train.accumulate=auto does not work in several processes with {name}, which "
            "exchanges data while one of them may be out of memory; give a number"
        )


_DDP_ONLY = ("broadcast_buffers", "fp16_compression")


def average_gradients(parameters: Iterable[torch.nn.Parameter], has_failed: bool) -> bool:
    """
    Average the gradients over all processes, unless one of them has failed.

    A parameter without a gradient in some processes counts as zero there, and stays without one
    if it has none in any, as under DDP.

    Returns:
        Whether any process has failed; the gradients are then as they were.
    """
    parameters = [p for p in parameters if p.requires_grad]
    has_grad = [p.grad is not None for p in parameters]
    flags = torch.tensor([has_failed, *has_grad], dtype=torch.int32, device=parameters[0].device)
    distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    has_failed, *is_used = flags.tolist()
    if has_failed:
        return True
    used = [p for p, is_one in zip(parameters, is_used, strict=True) if is_one]
    for p in used:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    for bucket in _buckets([p.grad for p in used]):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        sizes = [gradient.numel() for gradient in bucket]
        for gradient, mean in zip(bucket, flat.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))
    return False


def _buckets(gradients: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket, size = [], 0
    for gradient in gradients:
        if bucket and (size >= BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket
