"""Runs a training in one process, in processes that it starts, or in those of torchrun."""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext

import torch
from detectron2.engine import launch as spawn
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from detection.engine.stopping import STOPPED, Stopped, stop_passed_on
from detection.utils.cli import exit_status, print_any_name
from detection.utils.errors import RAISED, UserError
from detection.utils.signals import STOP_SIGNALS

# what torchrun or a cluster's job sets for each process
TORCHRUN_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def run(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """`launch`, and end the program as `exit_status` says, or with STOPPED after a stop."""
    interrupted = "interrupted; --resume continues from the last checkpoint"
    sys.exit(exit_status(lambda: launch(main, args), interrupted))


def launch(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """
    Call `main(args)` in each process of the training, on GPUs over NCCL, on CPUs over Gloo.

    Args:
        main: must be importable from the module it is in.
        args: with detectron2's `num_gpus`, processes on this machine, `num_machines`,
            `machine_rank` and `dist_url`; they stay at their defaults under torchrun.

    Raises:
        UserError: from `main`, or for more processes than GPUs, processes started twice, or
            several machines without an address.
        Stopped: from `main`.
    """
    is_started = all(name in os.environ for name in TORCHRUN_VARIABLES)
    if is_started and args.num_gpus * args.num_machines > 1:
        raise UserError(
            "torchrun has started the processes already: leave out --num-gpus and --num-machines"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UserError(
            f"{args.num_machines} machines need an address to meet at: give each of them "
            "--dist-url tcp://HOST:PORT, a free port of machine 0"
        )
    processes = int(os.environ["LOCAL_WORLD_SIZE"]) if is_started else args.num_gpus
    gpus = torch.cuda.device_count()
    if processes > gpus > 0:
        raise UserError(f"{processes} processes, but this machine has {gpus} GPU(s) for them")
    if gpus and processes * args.num_machines > 1 and not distributed.is_nccl_available():
        raise UserError(
            "several GPUs need NCCL, which this PyTorch lacks, as on Windows: train on one, or in "
            "WSL"
        )
    if os.name == "nt":  # whose wheels lack it, and wait for it in vain
        os.environ.setdefault("USE_LIBUV", "0")
    if is_started:
        _join()
        _call(main, args)
        return
    is_parent = args.num_gpus * args.num_machines > 1
    try:
        with stop_passed_on() if is_parent else nullcontext():
            spawn(
                _call,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(main, args),
            )
    except ProcessExitedException as e:
        if e.exit_code in (STOPPED, *(-number for number in STOP_SIGNALS)):
            raise Stopped from None
        raise
    except ProcessRaisedException as e:
        if RAISED.search(str(e)):
            raise UserError(str(e)) from None
        raise


def _join() -> None:
    """Join the process group that the environment describes."""
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(local_rank)
    # the others wait while the main process works alone
    distributed.init_process_group("nccl" if has_gpu else "gloo", timeout=DEFAULT_TIMEOUT)
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
    else:  # v0.6; each process takes part in making the group of every machine
        for first in range(0, comm.get_world_size(), local_size):
            group = distributed.new_group(list(range(first, first + local_size)))
            if first <= comm.get_rank() < first + local_size:
                comm._LOCAL_PROCESS_GROUP = group


def _call(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        # otherwise each process would use all cores
        torch.set_num_threads(max(1, torch.get_num_threads() // comm.get_local_size()))
    print_any_name()  # in a process that was started here, too
    try:
        main(args)
    except Stopped:
        comm.synchronize()  # the first process to end would end the others
        _leave()
        raise
    _leave()


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
