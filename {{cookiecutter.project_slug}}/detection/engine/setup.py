"""What happens before a training or an evaluation: checks, lock, log, where to start."""

import argparse
import logging
import math
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.config import LazyConfig
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from detection.checkpoint.checkpointer import has_checkpoints, last_checkpoint
from detection.engine import dev_run
from detection.solver.precision import amp_dtype
from detection.utils.errors import UserError
from detection.utils.failures import explained
from detection.utils.logging import quiet_console
from detection.utils.output_lock import locked_output

logger = logging.getLogger("detectron2.detection")


@contextmanager
def prepared(
    args: argparse.Namespace, cfg: DictConfig, notes: Sequence[str] = ()
) -> Iterator[None]:
    """
    Check settings, lock the output directory of a training, and log into it, `notes` first.

    With `--fast-dev-run` the config is shortened before, and the end predicts. What the machine
    does to the work within, such as a full disk, becomes an error of one line.

    Raises:
        UserError: a setting that cannot be, an output directory in use, or what went wrong.
    """
    if args.fast_dev_run:
        dev_run.shorten(cfg)
    check(args, cfg)
    output_dir = cfg.train.output_dir
    if args.eval_only:
        with explained(output_dir, remedy="the same command evaluates again"):
            quiet_setup(cfg, args)
            yield
        return
    with locked_output(output_dir), explained(output_dir):
        if args.fast_dev_run:
            dev_run.clear(output_dir)
        check_output(args, cfg)
        quiet_setup(cfg, args)
        for note in notes:
            logger.info(note)
        yield
        if args.fast_dev_run:
            dev_run.finish(cfg)


class Start(NamedTuple):
    """Where a training begins: with iteration 0, or after its last checkpoint."""

    iteration: int
    path: Path | None  # of the checkpoint
    is_cut_off: bool  # a kill cut off the evaluation, or the log, of the iteration before


_FRESH = Start(0, None, is_cut_off=False)


def find_start(cfg: DictConfig, resume: bool) -> Start:
    """
    Find where a training begins, the same on all processes, and let its loader begin there.

    Args:
        cfg: the whole config; `dataloader.train.start_iter` is set.
        resume: from the last checkpoint in `train.output_dir`, if there is one.

    Raises:
        UserError: no checkpoint there loads, or the processes see different ones.
    """
    saved = last_checkpoint(cfg.train.output_dir) if resume else None
    start = Start(saved.iteration + 1, saved.path, saved.is_cut_off) if saved else _FRESH
    iterations = comm.all_gather(start.iteration)
    if len(set(iterations)) > 1:
        raise UserError(
            f"{cfg.train.output_dir}: the processes see different last checkpoints ({iterations} "
            "iterations); it has to be on a disk that all machines share"
        )
    if "start_iter" in cfg.dataloader.train:  # detectron2's own loader cannot skip batches
        cfg.dataloader.train.start_iter = start.iteration
    return start._replace(is_cut_off=comm.all_gather(start.is_cut_off)[0])


def check(args: argparse.Namespace, cfg: DictConfig) -> None:
    """
    Check flags and settings of a training or an evaluation against each other and the machine.

    Raises:
        UserError: what it is, and the remedy.
    """
    device, _, number = str(cfg.train.device).partition(":")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device=cuda, but PyTorch sees no GPU: set train.device=cpu")
    if number and comm.get_world_size() > 1:
        raise UserError(f"train.device={device}:{number}: of several processes each has its own")
    amp_dtype(**cfg.train.amp, device=cfg.train.device)
    if cfg.train.checkpointer.period < 1:
        raise UserError("train.checkpointer.period must be 1 or more; the end is saved anyway")
    if args.fast_dev_run and (args.eval_only or args.resume):
        raise UserError("--fast-dev-run starts anew: leave out --resume and --eval-only")
    if args.eval_only:
        if not cfg.train.init_checkpoint and not args.resume:
            raise UserError("--eval-only needs train.init_checkpoint=…, or --resume for the last")


def check_output(args: argparse.Namespace, cfg: DictConfig) -> None:
    """
    Check that a training does not write over another one.

    Raises:
        UserError: the output directory holds a trained run, and this is none that continues it.
    """
    if not args.resume and has_checkpoints(cfg.train.output_dir):
        raise UserError(
            f"{cfg.train.output_dir} holds a trained run: --resume goes on with it, "
            "train.output_dir=… starts another one beside it"
        )


def quiet_setup(cfg, args) -> None:
    """
    detectron2's `default_setup`, with the environment and the full config in log.txt alone.

    An evaluation gets its own log and config, in `<output_dir>/inference`: those of the training
    stay as they are.
    """
    if args.eval_only:
        cfg = deepcopy(cfg)
        cfg.train.output_dir = os.path.join(cfg.train.output_dir, "inference")
    rank, output_dir = comm.get_rank(), cfg.train.output_dir
    # made as default_setup makes them, which finds them again in setup_logger's cache
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    setup_logger(output_dir, distributed_rank=rank)
    with quiet_console():
        default_setup(cfg, args)
    threading.excepthook = _report_thread
    for name in ("detectron2", "fvcore"):
        for handler in logging.getLogger(name).handlers:
            if type(handler) is logging.StreamHandler and handler.stream is not sys.stdout:
                handler.handleError = partial(_end_log, handler)


def _report_thread(args: threading.ExceptHookArgs) -> None:
    """One line; who waits for what the thread does gets the error, too."""
    logger.warning(
        f"{args.thread and args.thread.name}: {args.exc_type.__name__}: {args.exc_value}"
    )
    with quiet_console():
        logger.info("its traceback:", exc_info=args[:3])


def _end_log(handler: logging.StreamHandler, record: logging.LogRecord) -> None:
    """Say once that a log cannot be written, where `logging` prints a traceback for each line."""
    reason = sys.exc_info()[1]
    for loud in map(logging.getLogger, ("detectron2", "fvcore")):
        # they share the file
        loud.handlers = [h for h in loud.handlers if getattr(h, "stream", 0) is not handler.stream]
    with suppress(OSError):
        handler.stream.close()
    logger.warning(f"the log ends here, it cannot be written ({reason})")


def set_max_iter(cfg, loader: DataLoader, start: Start = _FRESH) -> None:
    """
    Let `train.max_iter` follow from `train.epochs`, where the config has these.

    An epoch is what the loader takes for one: the images without those that `filter_empty` leaves
    out, each as often as `repeat_threshold` repeats it.

    Args:
        cfg: the whole config; it is saved anew.
        loader: of `detection.data.loader.build_train_loader`.
        start: as `find_start` returns it.

    Raises:
        UserError: another loader, which does not tell; or all iterations are done.
    """
    if cfg.train.epochs is not None:
        _set_epochs(cfg, loader)
    if start.iteration >= cfg.train.max_iter + start.is_cut_off:
        longer = "train.max_iter" if cfg.train.epochs is None else "train.epochs"
        raise UserError(
            f"{cfg.train.output_dir}: already trained for {start.iteration} iterations; "
            f"set a higher {longer} to go on"
        )


def _set_epochs(cfg, loader: DataLoader) -> None:
    epochs, batch_size = cfg.train.epochs, cfg.dataloader.train.get("total_batch_size")
    size = getattr(getattr(loader, "batch_sampler", None), "epoch_size", None)
    if size is None:
        raise UserError(
            "train.epochs needs detection.data.loader.build_train_loader as dataloader.train; with "
            "another one set train.max_iter"
        )
    cfg.train.max_iter = max(1, math.ceil(epochs * size / batch_size))
    logger.info(
        f"{epochs:g} epochs of {size:.0f} images are {cfg.train.max_iter} iterations of "
        f"{batch_size}; one epoch is {size / batch_size:.1f}"
    )
    if comm.is_main_process():
        LazyConfig.save(cfg, f"{cfg.train.output_dir}/config.yaml")
