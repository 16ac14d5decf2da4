"""Counts the processes that hang at their end when W&B's server refuses.

    python benchmarks/wandb_ends.py PROJECT [--processes 200] [--limit 120]

PROJECT is a generated project; run it with that project's Python. Each process uses W&B in one of
the ways that the project does, in turn, and nobody listens where the server should be: an artifact
is fetched; a training's writer goes offline, alone or after that; a report goes offline; a
sweep is created. A process that takes longer than the limit counts as one that hangs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from itertools import cycle, islice
from pathlib import Path

FETCH = """
from detection.checkpoint.artifacts import WandbArtifactHandler
from detection.utils.errors import UserError
try:
    WandbArtifactHandler(timeout=2)._get_local_path("wandb-artifact://e/p/model:best")
except UserError:
    pass
"""
WRITE = """
from detectron2.data import MetadataCatalog
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from detection.writers.metric_names import MetricNames
from detection.writers.wandb_writer import WandbWriter
MetadataCatalog.get("ends").thing_classes = ["can"]
names = MetricNames("mmdet2", "ends")
writer = WandbWriter(folder, names, init_timeout=2, finish_timeout=5)
with EventStorage() as storage:
    writer.start(0, OmegaConf.create())
    storage.put_scalar("total_loss", 1.0)
    writer.write()
    writer.close()
rows = sum(path.stat().st_size for path in Path(folder).glob("wandb/offline-run-*/*.wandb"))
assert rows, "the run is not on the disk"
"""
REPORT = """
from detection.utils.wandb_runs import finish_run, make_settings, open_run
settings = make_settings([], init_timeout=2, finish_timeout=5)
run = open_run(Path(folder), "abc", "online", settings, lambda: None, job_type="report")
run.log({"report/page": wandb.Html("<p>page</p>", inject=False)})
run.log({"report/classes": wandb.Table(["name", "AP"], [["can", 1.0]])})
assert finish_run(run)
"""
SWEEP = """
from detection.utils.wandb_runs import run_command
Path("sweep.yaml").write_text("{program: a.py, method: random, parameters: {a: {value: 1}}}")
try:
    run_command("sweep", "sweep.yaml")
except SystemExit as e:
    assert e.code, "there is no server"
"""
WAYS = {
    "fetch an artifact": FETCH,
    "write": WRITE,
    "fetch, then write": FETCH + WRITE,
    "send a report": REPORT,
    "create a sweep": SWEEP,
}


def preload() -> None:
    """Import what the ways need, once for all processes: they are forked off this one."""
    import detection.checkpoint.artifacts
    import detection.utils.wandb_runs
    import detection.writers.wandb_writer  # noqa: F401
    import wandb.cli.cli  # noqa: F401


def start(way: str, folder: str) -> int:
    """Start a process that uses W&B that way, and ends as Python does; returns its number."""
    if pid := os.fork():
        return pid
    os.setsid()
    os.chdir(folder)
    with Path("said.txt").open("wb") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ |= {
        "HOME": folder,
        "WANDB_API_KEY": "0" * 40,
        "WANDB_BASE_URL": "http://127.0.0.1:9",
    }
    import wandb
    from wandb.sdk.data_types._private import MEDIA_TMP

    Path(MEDIA_TMP.name).mkdir(exist_ok=True)  # an earlier process has removed it at its end
    exec(WAYS[way], {"Path": Path, "folder": folder, "wandb": wandb})
    sys.exit()


def wait(pid: int, until: float) -> str:
    """Wait for a process; returns "", "hangs" or how it failed."""
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return f"status {os.waitstatus_to_exitcode(status)}" if status else ""
        time.sleep(0.05)
    # W&B's own process has a session of its own, and goes with its parent
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"


def end(way: str, limit: float) -> tuple[str, float, str]:
    """Run one process; returns its way, its seconds, and "", "hangs" or its last line."""
    folder = tempfile.mkdtemp()  # no context manager, which the forked process would leave too
    begin = time.monotonic()
    what = wait(start(way, folder), begin + limit)
    seconds = time.monotonic() - begin
    if what not in ("", "hangs"):
        said = Path(folder, "said.txt").read_text(errors="replace").strip()
        what = (said.splitlines() or [what])[-1]
    shutil.rmtree(folder, ignore_errors=True)
    return way, seconds, what


def main() -> None:
    """Start the processes, and print what became of each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, help="folder of a generated project")
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--limit", type=float, default=120, help="seconds (default: %(default)s)")
    args = parser.parse_args()
    os.chdir(args.project)
    sys.path.insert(0, str(Path.cwd()))
    preload()
    ways = list(islice(cycle(WAYS), args.processes))
    ends = []
    for way in ways:
        ends.append(end(way, args.limit))
        print(f"\r{len(ends)}/{len(ways)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for way in dict.fromkeys(ways):
        seconds = [s for name, s, _ in ends if name == way]
        hangs = sum(name == way and what == "hangs" for name, _, what in ends)
        print(f"  {way:18} {len(seconds):4} processes, {hangs} hang, slowest {max(seconds):.1f} s")
    for reason, count in Counter(what for *_, what in ends if what not in ("", "hangs")).items():
        print(f"  {count} failed: {reason}")
    hangs = sum(what == "hangs" for *_, what in ends)
    print(f"{len(ends)} processes, {hangs} hang, slowest {max(s for _, s, _ in ends):.1f} s")
    sys.exit(any(what for *_, what in ends))


if __name__ == "__main__":
    main()
