"""Prepares a training or an evaluation: checks, lock, log, and where to start."""

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

from detectron2.config import LazyConfig
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from detection.checkpoint.checkpointer import has_checkpoints, last_checkpoint
from detection.data.tiles import Tiles
from detection.engine import dev_run
from detection.solver.precision import amp_dtype
from detection.utils.devices import set_device
from detection.utils.errors import UserError
from detection.utils.failures import explained
from detection.utils.logging import LOGGERS, file_handlers, quiet_console
from detection.utils.output_lock import locked_output

logger = logging.getLogger(__name__)


@contextmanager
def prepared(
    args: argparse.Namespace, cfg: DictConfig, notes: Sequence[str] = ()
) -> Iterator[None]:
    """
    Check the settings, lock a training's output directory, and start its log with `notes`.

    `--fast-dev-run` shortens the config first, and predicts at the end. Errors of the machine,
    such as a full disk, become a UserError.

    Raises:
        UserError: an invalid setting, an output directory in use, or an error of the machine.
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
    """Where a training begins: at iteration 0, or after its last checkpoint."""

    iteration: int
    path: Path | None  # of the checkpoint
    is_cut_off: bool  # a kill cut off the evaluation, or the log, of the iteration before


_FRESH = Start(0, None, is_cut_off=False)


def find_start(cfg: DictConfig, resume: bool) -> Start:
    """
    Find where a training begins, the same on all processes, and start its loader there.

    Args:
        cfg: the whole config; `dataloader.train.start_iter` is set.
        resume: from the last checkpoint in `train.output_dir`, if there is one.

    Raises:
        UserError: no checkpoint can be loaded, or the processes see different ones.
    """
    saved = last_checkpoint(cfg.train.output_dir) if resume else None
    start = Start(saved.iteration + 1, saved.path, saved.is_cut_off) if saved else _FRESH
    iterations = comm.all_gather(start.iteration)
    if len(set(iterations)) > 1:
        raise UserError(
            f"{cfg.train.output_dir}: the processes see different last checkpoints ({iterations} "
            "iterations); put it on a disk that all machines share"
        )
    if "start_iter" in cfg.dataloader.train:  # detectron2's own loader cannot skip batches
        cfg.dataloader.train.start_iter = start.iteration
    return start._replace(is_cut_off=comm.all_gather(start.is_cut_off)[0])


def check(args: argparse.Namespace, cfg: DictConfig) -> None:
    """
    Check options and settings against each other and against the machine.

    Raises:
        UserError: the first conflict, with its remedy.
    """
    set_device(cfg)
    device, _, number = str(cfg.train.device).partition(":")
    if number and comm.get_world_size() > 1:
        raise UserError(
            f"train.device={device}:{number}: each of several processes has a device of its own; "
            f"give train.device={device}"
        )
    amp_dtype(**cfg.train.amp, device=cfg.train.device)
    _check_accumulate(cfg)
    _check_hours(cfg)
    if Tiles.of(cfg.tiles) and "tiles" not in cfg.dataloader.train and not args.eval_only:
        raise UserError(
            "tiles.enabled needs detection.data.loader.build_train_loader as dataloader.train, and "
            'there tiles="${tiles}"'
        )
    if cfg.train.checkpointer.period < 1:
        raise UserError("train.checkpointer.period must be 1 or more; the end is saved anyway")
    if args.fast_dev_run and (args.eval_only or args.resume):
        raise UserError("--fast-dev-run starts its own run: leave out --resume and --eval-only")
    if args.eval_only:
        if not cfg.train.init_checkpoint and not args.resume:
            raise UserError("--eval-only needs train.init_checkpoint=…, or --resume for the last")


def _check_accumulate(cfg: DictConfig) -> None:
    parts, images = cfg.train.accumulate, cfg.dataloader.train.get("total_batch_size", 1)
    share = max(1, images // comm.get_world_size())
    if parts != "auto" and (not isinstance(parts, int) or not 1 <= parts <= share):
        raise UserError(
            f"train.accumulate={parts}: give auto, or a number from 1 to {share}, the images of an "
            "iteration in each process"
        )


def _check_hours(cfg: DictConfig) -> None:
    hours = cfg.train.hours
    if hours is None:
        return
    if isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 < hours < math.inf:
        raise UserError(f"train.hours={hours}: give a number of hours above 0, e.g. 8.5")
    if cfg.train.epochs is not None:
        raise UserError(
            f"train.hours={hours:g} and train.epochs={cfg.train.epochs:g} both say how long to "
            "train: set one of them to null"
        )


def check_output(args: argparse.Namespace, cfg: DictConfig) -> None:
    """
    Refuse to overwrite a trained run.

    Raises:
        UserError: the output directory holds a trained run, and `--resume` is not given.
    """
    if not args.resume and has_checkpoints(cfg.train.output_dir):
        raise UserError(
            f"{cfg.train.output_dir} holds a trained run: --resume continues it, "
            "train.output_dir=… starts another one"
        )


def quiet_setup(cfg, args) -> None:
    """
    Run detectron2's `default_setup`; the environment and the full config go to log.txt only.

    An evaluation has its own log and config in `<output_dir>/inference`, so that those of the
    training stay as they are.
    """
    if args.eval_only:
        cfg = deepcopy(cfg)
        cfg.train.output_dir = os.path.join(cfg.train.output_dir, "inference")
    rank, output_dir = comm.get_rank(), cfg.train.output_dir
    # default_setup's calls, word for word, and so its handlers: setup_logger caches by arguments
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    setup_logger(output_dir, distributed_rank=rank)
    setup_logger(output_dir, distributed_rank=rank, name="detection")
    for handler in file_handlers():
        handler.handleError = partial(_end_log, handler)
    threading.excepthook = _report_thread
    with quiet_console():
        default_setup(cfg, args)


def _report_thread(args: threading.ExceptHookArgs) -> None:
    """Log one line; the error itself is raised where the thread's result is awaited."""
    logger.warning(
        f"{args.thread and args.thread.name}: {args.exc_type.__name__}: {args.exc_value}"
    )
    with quiet_console():
        logger.info("its traceback:", exc_info=args[:3])


def _end_log(handler: logging.StreamHandler, record: logging.LogRecord) -> None:
    """Warn once that the log cannot be written; `logging` would print a traceback per line."""
    reason = sys.exc_info()[1]
    for loud in map(logging.getLogger, LOGGERS):  # all write to the file
        loud.handlers = [h for h in loud.handlers if getattr(h, "stream", 0) is not handler.stream]
    with suppress(OSError):
        handler.stream.close()
    logger.warning(f"the log ends here, it cannot be written ({reason})")


def set_max_iter(cfg, loader: DataLoader, start: Start = _FRESH) -> None:
    """
    Derive `train.max_iter` from `train.epochs` if that is set, and pass it to the data set.

    With `train.hours`, `TimeBudget` does so later.

    An epoch is the loader's: all images but those that `filter_empty` leaves out, each as often as
    `repeat_threshold` repeats it.

    Args:
        cfg: the whole config; config.yaml is written again if `max_iter` changes.
        loader: of `detection.data.loader.build_train_loader`.
        start: as `find_start` returns it.

    Raises:
        UserError: a loader without a known epoch, or all iterations are done.
    """
    if cfg.train.hours is not None:
        return  # TimeBudget chooses it
    if cfg.train.epochs is not None:
        _set_epochs(cfg, loader)
    if start.iteration >= cfg.train.max_iter + start.is_cut_off:
        longer = "train.max_iter" if cfg.train.epochs is None else "train.epochs"
        raise UserError(
            f"{cfg.train.output_dir}: already trained for {start.iteration} iterations; "
            f"set a higher {longer} to continue"
        )
    if hasattr(getattr(loader, "dataset", None), "set_max_iter"):
        loader.dataset.set_max_iter(cfg.train.max_iter)


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
