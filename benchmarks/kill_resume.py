#!/usr/bin/env python
"""
Kill trainings of a generated project, resume them, and compare them with one that was left alone.

    python benchmarks/kill_resume.py PROJECT --variant equal --kills 20 --seed 1
    python benchmarks/kill_resume.py PROJECT --variant equal --points

PROJECT is generated and installed: its `.venv/bin/python` runs this file. Everything is imported
once, and each training is a fork. A killed run is resumed until it ends, and may be killed again.
Then each tensor and number of its checkpoints, its metrics.json, W&B history, TensorBoard points
and files must be those of the reference; only times may differ. `--points` kills at file
operations of the output folder in turn, one of each kind, the moment before they happen; a file
that is to be written over has been emptied by then. The exit status is 1 where something differs.
"""

import argparse
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EMA = ["train.ema.enabled=True", "train.ema.decay=0.9"]
WORKERS = ["dataloader.train.num_workers=2", "dataloader.test.num_workers=2"]
EQUAL = ["train.checkpointer.period=10"]  # as by default: each evaluation follows a checkpoint
VARIANTS = {
    "plain": [],
    "ema": EMA,
    "workers": WORKERS,
    "ema_workers": EMA + WORKERS,
    "equal": EQUAL,
    "equal_all": [
        *(EQUAL + EMA + WORKERS),
        *("train.precise_bn.enabled=True", "train.precise_bn.num_iter=2"),
        "train.val_loss.enabled=True",
    ],
    "tiles": [  # and parts of a batch, mixing that ends early
        *(EQUAL + WORKERS),
        *("tiles.enabled=True", "tiles.size=80", "train.accumulate=auto"),
        "dataloader.train.mapper.augment_until=0.5",
    ],
    "two": [*EQUAL, "--num-gpus", "2", "--dist-url", "auto"],  # processes, over Gloo
}
TIMES = re.compile(r"time|eta_seconds|^_")
IGNORED = re.compile(f"{TIMES.pattern}|^pictures[./]")
TIMEOUT = 300  # seconds for one training


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", type=Path)
    parser.add_argument("--variant", default="equal", choices=VARIANTS)
    parser.add_argument("--kills", type=int, default=20, help="at random moments, in all")
    parser.add_argument("--per-run", type=int, default=4, help="kills of one run at most")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--signal", default="KILL", choices=("KILL", "TERM", "INT"))
    parser.add_argument("--points", action="store_true", help="kill at file operations instead")
    parser.add_argument("--only", default="", help="of the points: those that match this pattern")
    parser.add_argument("--iters", type=int, default=40, help="iterations of a training")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "kill_resume")
    parser.add_argument("overrides", nargs="*", help="key=value, after all options")
    args = parser.parse_args()
    args.project, args.out = args.project.resolve(), args.out.resolve() / args.variant
    return args


class Trainings:
    """Starts trainings of a project as forks of this process."""

    def __init__(self, args: argparse.Namespace):
        toy = args.out / "toy"
        if not (toy / "train.json").exists():
            command = [sys.executable, "tools/make_toy_dataset.py", "--output", str(toy)]
            command += ["--train", "16", "--val", "4", "--size", "96"]
            subprocess.run(command, check=True)
        self._arguments = [
            *("--config-file", "configs/debug/smoke.py"),
            *(f"dataset.{s}.json_file={toy}/{s}.json" for s in ("train", "val")),
            *(f"dataset.{s}.image_root={toy}/images" for s in ("train", "val")),
            *(f"train.max_iter={args.iters}", "train.eval_period=10"),
            *("train.checkpointer.period=7", "train.log_period=4", "train.device=cpu"),
            *("train.pictures.count=2", "dataloader.train.total_batch_size=2"),
            "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
            "dataloader.test.mapper.augmentations.0.short_edge_length=64",
            "model.proposal_generator.post_nms_topk=[20,20]",
            *(VARIANTS[args.variant] + args.overrides),
        ]
        # imported once, for all forks
        import cv2  # noqa: F401
        import hotcoco  # noqa: F401
        import train_net  # noqa: F401
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    def start(
        self, out: Path, *flags: str, point: int | None = None, trace: Path | None = None
    ) -> int:
        """
        Fork a training into `out`, with `<out>.log`; returns its process id.

        With `trace`, its file operations are written there, and it is killed before the `point`-th.
        """
        if pid := os.fork():
            return pid
        code = 70
        try:
            os.setpgid(0, 0)
            log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1), os.dup2(log, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = self._train([*self._arguments, *flags, f"train.output_dir={out}"], trace, point)
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)

    @staticmethod
    def _train(arguments: list[str], trace: Path | None, point: int | None) -> int:
        import atexit

        import train_net
        from detection.engine.launch import launch
        from detection.utils.arguments import parse_args
        from detection.utils.errors import UserError
        from wandb.sdk.data_types._private import MEDIA_TMP

        # made when it was imported, it goes with the first process to end
        MEDIA_TMP._finalizer.detach()
        Path(MEDIA_TMP.name).mkdir(exist_ok=True)
        if trace:
            watch(Path(arguments[-1].partition("=")[2]), point, trace)
        code = 0
        try:  # as the last lines of train_net.py
            launch(train_net.main, parse_args(arguments))
        except UserError as e:
            print(f"error: {e}", file=sys.stderr)
            code = 1
        except KeyboardInterrupt:
            code = 1
        except SystemExit as e:  # a clean stop
            code = e.code
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 71
        atexit._run_exitfuncs()
        return code


def watch(out: Path, point: int | None, trace: Path) -> None:
    """Write the file operations within `out` to `trace`, and end before the `point`-th."""
    process, file, number, busy = os.getpid(), trace.open("w"), 0, False

    def hook(event: str, args: tuple) -> None:
        nonlocal number, busy
        writes = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if (
            busy
            or os.getpid() != process
            or not (writes or event in ("os.rename", "os.remove", "os.mkdir", "os.truncate"))
        ):
            return
        if not isinstance(args[0], str | bytes | os.PathLike):
            return
        path = Path.cwd() / os.fsdecode(args[0])
        if out not in path.parents or out / "wandb" in path.parents:  # which is not ours
            return
        busy = True
        print(number, event, path.relative_to(out), sep="\t", file=file, flush=True)
        if number == point:
            if event == "open" and args[2] & os.O_TRUNC:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
            os.kill(process, signal.SIGKILL)
        number += 1
        busy = False

    sys.addaudithook(hook)


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def cpu_seconds(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))  # its own, and of children that have ended
    return ticks / os.sysconf("SC_CLK_TCK")


def wait(pid: int, cpu: float = math.inf) -> int | None:
    """The exit status; None when it has had so many seconds of processors, whatever the load."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            end(tree(pid), signal.SIGKILL)
            os.waitpid(pid, 0)
            return 124
        if math.isfinite(cpu) and cpu_seconds(tree(pid)) >= cpu:
            return None
        time.sleep(0.005)


def end(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def kill(pid: int, name: str, rng: random.Random) -> str:
    """Send a signal to a training, alone or with all its processes; wait until all are gone."""
    processes = tree(pid)
    # Ctrl-C reaches all of them
    whole = name == "INT" or (name == "KILL" and rng.random() < 0.5)
    end(processes if whole else [pid], getattr(signal, f"SIG{name}"))
    code = wait(pid)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{p}").exists() for p in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    return f"{'all' if whole else 'the trainer'}, status {code}"


def numbers(row: dict) -> dict[str, float]:
    """Less times, and pictures: W&B's own process may lose those of the last second."""
    return {k: v for k, v in row.items() if isinstance(v, int | float) and not IGNORED.search(k)}


def leaves(value: object, path: str = "") -> dict[str, object]:
    """{path: value} of nested dicts and lists, less times."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        parts = (leaves(v, f"{path}/{k}") for k, v in items if not TIMES.search(str(k)))
        return {k: v for part in parts for k, v in part.items()}
    return {path: value}


def rows_of(out: Path) -> dict[str, list[tuple[int, dict]]]:
    """{"metrics.json", "W&B", "TensorBoard": (iteration, numbers) of each row in order}."""
    import logging

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it says what a resume replaced

    with (out / "metrics.json").open(encoding="utf-8") as f:
        rows = list(map(json.loads, f))
    found = {"metrics.json": [(row["iteration"], numbers(row)) for row in rows], "W&B": []}
    run_id = json.loads((out / "wandb_run.json").read_text())["id"]
    # one killed before its first checkpoint has another id
    for file in sorted(out.glob(f"wandb/offline-run-*-{run_id}/*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        done = subprocess.run(command, capture_output=True, text=True)
        records = map(json.loads, done.stdout.splitlines())
        rows = [r["history"]["item"] for r in records if r.get("type") == "history"]
        found["W&B"] += [(int(row["_step"]), numbers(row)) for row in rows]
    events = EventAccumulator(str(out), size_guidance={"scalars": 0}).Reload()
    points = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            if name in points.setdefault(event.step, {}):
                points[event.step]["twice"] = 1.0
            points[event.step][name] = event.value
    found["TensorBoard"] = sorted((step, numbers(row)) for step, row in points.items())
    return found


def files_of(out: Path) -> set[str]:
    names = (path.relative_to(out) for path in out.rglob("*") if path.is_file())
    return {str(n) for n in names if n.parts[0] != "wandb" and "tfevents" not in n.name}


def compare(reference: Path, out: Path) -> list[str]:
    """What is otherwise than in the run that was left alone."""
    import torch

    found = [f"{n}: missing" for n in sorted(files_of(reference) - files_of(out))]
    found += [f"{n}: too many" for n in sorted(files_of(out) - files_of(reference))]
    for path in sorted(reference.glob("model_*.pth")):
        if (out / path.name).exists():
            want, have = (
                leaves(torch.load(p, map_location="cpu", weights_only=True))
                for p in (path, out / path.name)
            )
            differing = [k for k in want.keys() | have.keys() if not _same(want, have, k)]
            if differing:
                found.append(f"{path.name}: {len(differing)} differ, such as {differing[0]}")
    for name in ("model_best.json", "last_checkpoint", "last_complete.json"):
        texts = [p.read_text() if (p := f / name).exists() else "" for f in (reference, out)]
        if texts[0] != texts[1]:
            found.append(f"{name}: {texts[1]!r}, not {texts[0]!r}")
    have = rows_of(out)
    for kind, want in rows_of(reference).items():
        steps, others = [at for at, _ in want], [at for at, _ in have[kind]]
        if steps != others:
            lost, more = sorted(set(steps) - set(others)), sorted(set(others) - set(steps))
            found.append(f"{kind}: rows {others}: {lost} lost, {more} too many, or not in order")
        rows = dict(have[kind])
        for at, row in want:
            differing = {
                k
                for k in row.keys() | rows.get(at, row).keys()
                if not _same(row, rows.get(at, row), k)
            }
            if differing:
                found.append(f"{kind}: iteration {at}: {sorted(differing)[:4]} differ")
    return found


def _same(a: dict, b: dict, key: str) -> bool:
    import torch

    if key not in a or key not in b:
        return False
    if isinstance(a[key], torch.Tensor):
        return isinstance(b[key], torch.Tensor) and torch.equal(a[key], b[key])
    return a[key] == b[key]


def clear(out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    Path(f"{out}.log").unlink(missing_ok=True)
    return out


def last_line(out: Path) -> str:
    lines = Path(f"{out}.log").read_text(errors="replace").split("\n")
    trace = "a traceback, " if any("Traceback" in line for line in lines) else ""
    return trace + next((line for line in reversed(lines) if line.strip()), "")[:300]


def kill_at_random(args: argparse.Namespace, trainings: Trainings) -> int:
    rng = random.Random(args.seed)
    reference = clear(args.out / "reference")
    _, status, usage = os.wait4(trainings.start(reference), 0)
    if status:
        sys.exit(f"the reference failed: {last_line(reference)}")
    cpu = usage.ru_utime + usage.ru_stime
    kills = runs = differing = 0
    while kills < args.kills:
        out = clear(args.out / f"run_{args.seed}_{args.signal}_{runs}")
        history, mine = [], 0
        while True:
            is_left = kills >= args.kills or mine >= args.per_run
            moment = math.inf if is_left else rng.uniform(0, cpu)
            pid = trainings.start(out, *(["--resume"] if mine else []))
            code = wait(pid, moment)
            if code is not None:
                break
            history.append(f"killed after {moment:.1f} s: {kill(pid, args.signal, rng)}")
            kills, mine = kills + 1, mine + 1
        if code and "already trained" in last_line(out):
            code = 0  # it was killed behind its last iteration: nothing was left to do
        found = [f"status {code}: {last_line(out)}"] if code else compare(reference, out)
        runs, differing = runs + 1, differing + bool(found)
        print(f"run {runs}: {mine} kills, {'differs' if found else 'the same'}", flush=True)
        if found:
            print("    " + "\n    ".join(history + found), flush=True)
        else:
            clear(out)
    print(f"{args.variant}, {args.signal}: {kills} kills, {runs} runs, {differing} differ")
    return differing


def kill_at_points(args: argparse.Namespace, trainings: Trainings) -> int:
    """In a fresh run, and in one that resumes half-way."""
    trace, reference = args.out / "trace.txt", clear(args.out / "reference")
    if wait(trainings.start(reference, trace=trace)):
        sys.exit(f"the reference failed: {last_line(reference)}")
    fresh = _points(trace, args.only)
    middle = [n for n, name in _operations(trace).items() if "rename\tmodel_0" in name]
    half = clear(args.out / "half")
    # in the evaluation behind a checkpoint
    wait(trainings.start(half, trace=trace, point=middle[len(middle) // 2] + 3))
    whole = shutil.copytree(half, clear(args.out / "resumed"), symlinks=True)
    wait(trainings.start(whole, "--resume", trace=trace))
    kills = differing = 0
    for source, points in ((None, fresh), (half, _points(trace, args.only))):
        for point, name in points.items():
            out = clear(args.out / "point")
            flags = []
            if source:
                shutil.copytree(source, out, symlinks=True)
                flags = ["--resume"]
            if not wait(trainings.start(out, *flags, trace=trace, point=point)):
                continue  # it had fewer operations this time
            time.sleep(1)  # until W&B's own process has noticed
            code = wait(trainings.start(out, "--resume"))
            found = [f"status {code}: {last_line(out)}"] if code else compare(reference, out)
            kills, differing = kills + 1, differing + bool(found)
            what = "resumed, " if source else ""
            print(f"{what}{point} {name!r}: {'differs' if found else 'the same'}", flush=True)
            if found:
                print("    " + "\n    ".join(found), flush=True)
    print(f"{args.variant}, points: {kills} kills, {kills} runs, {differing} differ")
    return differing


def _operations(trace: Path) -> dict[int, str]:
    lines = (line.split("\t", 1) for line in trace.read_text().splitlines())
    return {int(number): name for number, name in lines}


def _points(trace: Path, only: str) -> dict[int, str]:
    """{number: name} of the first operation of each kind, and of one in the middle."""
    kinds = {}
    for number, name in _operations(trace).items():
        kinds.setdefault(re.sub(r"\d{5,}|[0-9a-f]{8}", "#", name), []).append((number, name))
    points = [same[k] for same in kinds.values() for k in (0, len(same) // 2)]
    return {number: name for number, name in sorted(points) if re.search(only, name)}


if __name__ == "__main__":
    args = parse()
    if "KILL_RESUME" not in os.environ:  # again, by the project's Python
        python = args.project / ".venv/bin/python"
        env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        env |= {"KILL_RESUME": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
        env |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
        os.execve(python, [str(python), str(Path(__file__).resolve()), *sys.argv[1:]], env)
    args.out.mkdir(parents=True, exist_ok=True)
    os.chdir(args.project)
    sys.path.insert(0, str(args.project))
    sys.exit(bool((kill_at_points if args.points else kill_at_random)(args, Trainings(args))))
