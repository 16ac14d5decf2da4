"""Refuses what cannot end well, before anything is written."""

import argparse

import torch
from detectron2.utils import comm
from omegaconf import DictConfig

from detection.checkpoint.checkpointer import has_checkpoints
from detection.engine.trainer import amp_dtype
from detection.utils.errors import UserError


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
