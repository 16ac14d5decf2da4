"""The training loop: mixed precision, accumulated gradients, clipping, readable errors."""

import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Literal

import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig

from detection.data.largest import largest_batch
from detection.engine.memory import (
    advice_on_memory,
    average_gradients,
    is_out_of_memory,
    pixels,
    random_state,
    rehearsal,
    require_no_exchange,
    set_random_state,
)
from detection.solver.precision import amp_dtype
from detection.utils.errors import UserError
from detection.utils.failures import explained

logger = logging.getLogger(__name__)


def build_trainer(
    cfg: DictConfig,
    model: torch.nn.Module,
    loader: Iterable[list[dict]],
    optimizer: torch.optim.Optimizer,
) -> "Trainer":
    """
    Build the training loop with `train.{ddp,amp,accumulate,clip_grad}`.

    Raises:
        UserError: `accumulate="auto"` in several processes with a model that exchanges data in its
            forward pass.
    """
    if cfg.train.accumulate == "auto" and comm.get_world_size() > 1:
        require_no_exchange(model, cfg.train.ddp)
    # processes share the CPU, but not a GPU
    devices = {"device_ids": None} if cfg.train.device == "cpu" else {}
    return Trainer(
        create_ddp_model(model, **cfg.train.ddp, **devices),
        loader,
        optimizer,
        amp_dtype(**cfg.train.amp, device=cfg.train.device),
        **cfg.train.clip_grad,
        accumulate=cfg.train.accumulate,
        rehearsed=largest_batch(loader) if cfg.train.accumulate == "auto" else None,
        output_dir=cfg.train.output_dir,
    )


class Trainer(SimpleTrainer):
    """
    detectron2's SimpleTrainer with mixed precision, accumulation, clipping, and clear errors.

    A hook ends the training early by setting `max_iter` to `iter + 1`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        dtype: torch.dtype | None = None,
        norm: float | None = None,
        value: float | None = None,
        accumulate: int | Literal["auto"] = 1,
        rehearsed: list[dict] | None = None,
        output_dir: str = ".",
    ):
        """
        Args:
            model: returns a dict of losses.
            data_loader: batches, as many as the training has iterations, or endless.
            optimizer: of the model's parameters.
            dtype: of mixed precision, see `amp_dtype`; None: float32 throughout.
            norm: the largest norm of all gradients together; the norm before clipping is
                stored as `grad_norm`. None: no limit.
            value: the largest absolute value of each gradient; None: no limit.
            accumulate: parts of a batch that go through the model one after another; their
                gradients add up to the batch's. "auto": 1, doubled each time memory runs out.
            rehearsed: with "auto", the largest batch, which has to fit before training starts.
            output_dir: what hooks write to.
        """
        super().__init__(model, data_loader, optimizer)
        self.is_cut_off = False  # see `train`
        self._device = next(model.parameters()).device.type
        self._dtype = dtype
        self._clip_norm = norm
        self._clip_value = value
        self._is_auto = accumulate == "auto"
        self._rehearsed = rehearsed
        self.accumulate = 1 if self._is_auto else accumulate
        # with "auto" the processes agree on whether memory ran out before they exchange gradients
        self._is_shared = self._is_auto and comm.get_world_size() > 1
        self._output_dir = output_dir
        # Create the iterator now: detectron2's main would create it during the first iteration and
        # so change that iteration's random numbers.
        self._batches = self._data_loader_iter
        # bfloat16 needs no scaling: its exponents are float32's
        self._scaler = torch.amp.GradScaler(self._device, enabled=dtype is torch.float16)

    def train(self, start_iter: int, max_iter: int, is_cut_off: bool = False) -> None:
        """
        Run iterations `start_iter` to `max_iter` - 1.

        Args:
            start_iter: the first iteration.
            max_iter: one more than the last.
            is_cut_off: a kill cut off the evaluation or the log of the iteration before.

        Raises:
            UserError: the loss is not finite, memory is exhausted, the disk is full or gone, or a
                loader's process was killed.
        """
        logger.info(f"training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        self.is_cut_off = is_cut_off
        with EventStorage(start_iter) as self.storage:
            try:
                with explained(self._output_dir):
                    self.before_train()
                    if self._rehearsed:
                        self._rehearse(self._rehearsed)
                    while self.iter < self.max_iter:
                        self.before_step()
                        self.run_step()
                        self.after_step()
                        self.iter += 1
            except UserError:
                raise
            except Exception:
                logger.exception(f"iteration {self.iter}:")  # for log.txt
                raise
            finally:
                self.after_train()

    def run_step(self) -> None:
        start = time.perf_counter()
        batch = next(self._batches)
        data_time = time.perf_counter() - start
        with self._explained(batch):
            losses = self._backward_within_memory(batch)
            if hasattr(self, "after_backward"):  # hooks of detectron2's main have it
                self.after_backward()
            # after the backward pass, so that the GPU has work during the synchronization
            if not math.isfinite(sum(losses.values()).item()):
                values = "  ".join(f"{name} {loss.item():.3g}" for name, loss in losses.items())
                raise FloatingPointError(f"the loss is not finite ({values})")
            self._write_metrics(losses, data_time)
            self._clip()
            self._scaler.step(self.optimizer)
            self._scaler.update()

    def _rehearse(self, batch: list[dict]) -> None:
        """Double `accumulate` until a batch fits, with memory to spare, and say so."""
        size = f"the largest batch, {len(batch)} images of {pixels(batch[0])} pixels"
        try:
            with rehearsal(self.model, self._device):
                self._backward_within_memory(batch)
            logger.info(f"train.accumulate=auto: {self.accumulate}, by {size}")
        except (RuntimeError, MemoryError) as e:
            if not is_out_of_memory(e):
                raise
            logger.warning(f"train.accumulate=auto: {self.accumulate}, but {size}, may not fit")
        self.optimizer.zero_grad()
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _backward_within_memory(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        """`_backward`; with "auto", repeated in twice as many parts when memory runs out."""
        if not self._is_auto:
            return self._backward(batch)
        start, reason = random_state(self._device), ""
        while True:
            losses = None
            try:
                losses = self._backward(batch)
            except (RuntimeError, MemoryError) as e:
                if not is_out_of_memory(e):
                    raise
                reason = str(e)
            # outside of `except`, whose error keeps the tensors of the failed attempt alive
            has_failed = losses is None
            if self._is_shared:  # all processes repeat it, or none
                has_failed = average_gradients(self.model.parameters(), has_failed)
            if not has_failed:
                return losses
            self.optimizer.zero_grad()
            if self._device == "cuda":
                torch.cuda.empty_cache()
            if self.accumulate >= len(batch):
                raise MemoryError(reason or "out of memory in another process")
            set_random_state(self._device, start)
            self.accumulate = min(2 * self.accumulate, len(batch))
            logger.warning(
                f"iteration {self.iter}: out of memory ({self._device}); repeating it with "
                f"train.accumulate={self.accumulate}, which stays"
            )

    def _backward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        """Compute the gradients part by part; returns the batch's losses, each a mean."""
        self.optimizer.zero_grad()
        losses = {}
        parts = self._parts(batch)
        model = self.model.module if self._is_shared else self.model
        for number, (part, share) in enumerate(parts, start=1):
            # DDP averages the gradients of all processes once, in the last part
            is_last = number == len(parts)
            exchange = nullcontext if is_last else getattr(model, "no_sync", nullcontext)
            with exchange():
                with torch.autocast(self._device, self._dtype) if self._dtype else nullcontext():
                    found = model(part)
                if isinstance(found, torch.Tensor):
                    found = {"total_loss": found}
                self._scaler.scale(share * sum(found.values())).backward()
            for name, loss in found.items():
                losses[name] = losses.get(name, 0) + share * loss.detach()
        return losses

    def _parts(self, batch: list[dict]) -> list[tuple[list[dict], float]]:
        """`accumulate` parts of about equal size, and their shares of the batch."""
        if self.accumulate == 1:
            return [(batch, 1.0)]
        count = min(self.accumulate, len(batch))
        ends = [len(batch) * k // count for k in range(count + 1)]
        return [(batch[i:j], (j - i) / len(batch)) for i, j in pairwise(ends)]

    def state_dict(self) -> dict:
        state = {**super().state_dict(), "grad_scaler": self._scaler.state_dict()}
        return {**state, "accumulate": self.accumulate} if self._is_auto else state

    def load_state_dict(self, state_dict: dict) -> None:
        try:
            super().load_state_dict(state_dict)
        except ValueError as e:
            reason = str(e).splitlines()[0]
            raise UserError(
                f"the checkpoint has another optimizer or train.freeze ({reason}); resume with "
                "the settings of the original run"
            ) from e
        if self._is_auto:
            self.accumulate, self._rehearsed = state_dict.get("accumulate", 1), None
        # {} if the run was without it
        if self._scaler.is_enabled() and state_dict.get("grad_scaler"):
            self._scaler.load_state_dict(state_dict["grad_scaler"])

    def _clip(self) -> None:
        if self._clip_norm is None and self._clip_value is None:
            return
        self._scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self._clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self._clip_value)
        if self._clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(parameters, self._clip_norm).item()
            if math.isfinite(norm):
                self.storage.put_scalar("grad_norm", norm)
            elif not self._scaler.is_enabled():  # the scaler skips the step and lowers the scale
                raise FloatingPointError("the gradients are not finite")

    @contextmanager
    def _explained(self, batch: list[dict]) -> Iterator[None]:
        """Turn errors of a batch into a UserError with a remedy."""
        try:
            yield
        except FloatingPointError as e:  # the one above, or detectron2's own
            images = ", ".join(image.get("file_name", "?") for image in batch)
            precision = " or train.amp.enabled=False" if self._dtype else ""
            message = (
                f"iteration {self.iter}: {str(e).splitlines()[0].rstrip('.!')}; the images were "
                f"{images}. Try a lower optimizer.lr or train.clip_grad.norm=1{precision}, and "
                "look at their boxes with `make check`"
            )
            if not comm.is_main_process():
                logger.error(message)  # the main process raises for its own losses only
            raise UserError(message) from e
        except (RuntimeError, MemoryError) as e:
            if not is_out_of_memory(e):
                raise
            advice = advice_on_memory(self.model, batch, self.accumulate, bool(self._dtype))
            raise UserError(
                f"iteration {self.iter}: out of memory ({self._device}) {advice}; --resume "
                "continues from the last checkpoint"
            ) from e
