#!/usr/bin/env python
"""
Submit a training to a SLURM cluster:

    python tools/submit.py --partition gpu --gpus 4 --hours 24 \\
        --config-file configs/faster_rcnn_R_50_FPN.py train.max_iter=90000
    python tools/submit.py … --dry-run

What is not listed below goes to train_net.py. One process runs on each GPU, over all nodes. A job
that is preempted, or out of time, queues again and continues with --resume.
"""

import argparse
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import submitit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere

from detection.utils.arguments import find_config
from detection.utils.arguments import parse_args as parse_training
from detection.utils.cli import tool
from detection.utils.errors import UserError
from detection.utils.paths import PROJECT_ROOT


class Training:
    """What each process of a job runs: train_net.py, with its rank from submitit."""

    def __init__(self, argv: list[str]):
        self._argv = argv

    def __call__(self) -> None:
        os.chdir(PROJECT_ROOT)
        sys.path.insert(0, str(PROJECT_ROOT))
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        import train_net
        from detection.engine.launch import launch
        from detection.engine.stopping import Stopped

        preemption = Preemption()
        argv = self._argv
        if int(os.environ.get("SLURM_RESTART_COUNT", 0)):  # SLURM itself has queued it again
            argv = resumed(argv)
        try:
            launch(train_net.main, parse_training(argv))
        except Stopped as stop:
            preemption.follow(stop.signal)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What is queued again; submitit calls it when SLURM is about to end the job."""
        return submitit.helpers.DelayedSubmission(Training(resumed(self._argv)))


class Preemption:
    """
    Lets a training save its state between SLURM's signal and submitit's `scontrol requeue`.

    The signal becomes SIGUSR1, by which a training stops. If that takes more than SAVING seconds,
    the job is queued again at once, to continue from an earlier checkpoint.
    """

    SAVING = 60  # seconds; SLURM ends the job 90 s after the signal
    LEFT_ALONE = 600  # seconds in which SLURM ends a job that has got SIGTERM

    def __init__(self):
        self._number = submitit.JobEnvironment._usr_sig()
        self._queue_again = signal.getsignal(self._number)  # submitit's, which ends rank 0
        self._is_announced = False
        signal.signal(self._number, self._announce)

    def follow(self, number: int) -> None:
        """
        Queue the job again after signal `number` has stopped its training, unless that is 0.

        After SIGTERM, SLURM itself does so when it ends the job; before, it would count as failed.
        """
        signal.alarm(0)
        signal.signal(self._number, self._queue_again)
        if number == signal.SIGTERM and not self._is_announced:
            if "SLURM_JOB_ID" not in os.environ:
                sys.exit(128 + number)
            time.sleep(self.LEFT_ALONE)
        if number or self._is_announced:
            self._queue_again(self._number, None)

    def _announce(self, number: int, frame: object) -> None:
        self._is_announced = True
        if not callable(signal.getsignal(signal.SIGUSR1)):  # the training has not begun
            self._queue_again(number, frame)
            return
        signal.signal(signal.SIGALRM, self._queue_again)
        signal.alarm(self.SAVING)
        signal.raise_signal(signal.SIGUSR1)


def resumed(argv: list[str]) -> list[str]:
    """The command line that continues a training, or starts it if nothing is saved yet."""
    args = parse_training(argv)
    is_whole = args.resume or args.eval_only or args.fast_dev_run
    return argv if is_whole else [*argv, "--resume"]


def parse_args(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # else --num-gpus and such might be taken for one of these
    )
    parser.add_argument("--partition", help="default: the cluster's")
    parser.add_argument("--account", help="default: the cluster's")
    parser.add_argument("--nodes", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--gpus", type=int, default=1, help="of a node (default: %(default)s)")
    parser.add_argument(
        "--cpus", type=int, default=8, help="of a process, for its loader (default: %(default)s)"
    )
    parser.add_argument("--memory", type=float, help="of a node, in GB (default: the cluster's)")
    parser.add_argument(
        "--hours", type=float, default=24, help="until it queues again (default: %(default)s)"
    )
    parser.add_argument(
        "--timeouts", type=int, default=10, help="times that it queues again (default: %(default)s)"
    )
    parser.add_argument("--name", help="of the job (default: the config's)")
    parser.add_argument(
        "--slurm", action="append", default=[], metavar="KEY=VALUE", help="another option of sbatch"
    )
    parser.add_argument(
        "--cluster",
        choices=["slurm", "local"],
        default="slurm",
        help="local: processes on this machine, on CPUs with --gpus 0 (default: %(default)s)",
    )
    parser.add_argument("--processes", type=int, help="of a node (default: one for each GPU)")
    parser.add_argument("--logs", default="output/jobs", help="default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="only show the job")
    return parser.parse_known_args(argv)


def job_parameters(args: argparse.Namespace) -> dict:
    """The parameters of submitit, by its own names."""
    processes = args.processes or max(args.gpus, 1)
    parameters = {
        "name": args.name,
        "nodes": args.nodes,
        "tasks_per_node": processes,
        "gpus_per_node": args.gpus,
        "cpus_per_task": args.cpus,
        "mem_gb": args.memory,
        "timeout_min": int(60 * args.hours),
        "slurm_partition": args.partition,
        "slurm_account": args.account,
        # else the other processes wait for one that has failed
        "slurm_srun_args": ["--kill-on-bad-exit=1"],
        "slurm_additional_parameters": dict(option.split("=", 1) for option in args.slurm) or None,
    }
    return {name: value for name, value in parameters.items() if value is not None}


@tool
def main(argv: list[str] | None = None) -> None:
    """Submit the job; on this machine, wait for its end."""
    args, training = parse_args(sys.argv[1:] if argv is None else argv)
    of_training = parse_training(training)
    # mistakes now, not after the queue
    if of_training.num_gpus > 1 or of_training.num_machines > 1:
        raise UserError("--num-gpus and --num-machines do not go here: set --gpus and --nodes")
    if not all("=" in option for option in args.slurm):
        raise UserError(f"--slurm {' '.join(args.slurm)}: each has to be KEY=VALUE")
    config_file = find_config(of_training.config_file)
    from detection.config import load_config  # slow to import

    load_config(of_training.config_file, of_training.opts)
    if "://" not in config_file and Path.cwd() != PROJECT_ROOT:  # where the job runs
        training = [*training, "--config-file", os.path.abspath(config_file)]
    args.name = args.name or Path(of_training.config_file).stem
    parameters = job_parameters(args)
    if args.dry_run:
        print(f"on each process  train_net.py {shlex.join(training)}")
        for name, value in parameters.items():
            print(f"{name.removeprefix('slurm_'):16} {value}")
        return
    try:
        executor = submitit.AutoExecutor(
            PROJECT_ROOT / args.logs / "%j",
            cluster=args.cluster,
            **{f"{args.cluster}_max_num_timeout": args.timeouts},
        )
    except RuntimeError as e:
        raise UserError(f"{e}; submit from a login node, or try --cluster local") from e
    executor.update_parameters(**parameters)
    job = executor.submit(Training(training))
    print(f"job {job.job_id}: {job.paths.stdout}", flush=True)
    if args.cluster == "local":
        try:
            job.result()
        except submitit.core.utils.FailedJobError as e:
            raise UserError(str(e).strip().splitlines()[-1]) from e


if __name__ == "__main__":
    sys.exit(main())
