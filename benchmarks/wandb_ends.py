"""Counts the processes that hang at their end when W&B's server refuses.

    python benchmarks/wandb_ends.py PROJECT [--processes 200] [--at-once 3] [--limit 120]

PROJECT is a generated project; run it with that project's Python. Each process uses W&B in one of
the ways that the project does, in turn, and nobody listens where the server should be: an artifact
is fetched; a training's writer goes offline, alone or after that; a report goes offline; a
sweep is created. A process that takes longer than the limit counts as one that hangs.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path

FETCH = """
from detection.artifacts import WandbArtifactHandler
from detection.errors import UserError
try:
    WandbArtifactHandler(timeout=2)._get_local_path("wandb-artifact://e/p/model:best")
except UserError:
    pass
"""
WRITE = """
from detectron2.data import MetadataCatalog
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from detection.metric_names import MetricNames
from detection.wandb_writer import WandbWriter
MetadataCatalog.get("ends").thing_classes = ["can"]
names = MetricNames("mmdet2", "ends")
writer = WandbWriter(folder, names, init_timeout=3, finish_timeout=5)
with EventStorage() as storage:
    writer.start(0, OmegaConf.create())
    storage.put_scalar("total_loss", 1.0)
    writer.write()
    writer.close()
rows = sum(path.stat().st_size for path in Path(folder).glob("wandb/offline-run-*/*.wandb"))
assert rows, "the run is not on the disk"
"""
REPORT = """
from detection.wandb_runs import finish_run, make_settings, open_run
settings = make_settings([], init_timeout=3, finish_timeout=5)
run = open_run(Path(folder), "abc", "online", settings, lambda: None, job_type="report")
run.log({"report/page": wandb.Html("<p>page</p>", inject=False)})
run.log({"report/classes": wandb.Table(["name", "AP"], [["can", 1.0]])})
assert finish_run(run)
"""
WAYS = {
    "fetch an artifact": FETCH,
    "write": WRITE,
    "fetch, then write": FETCH + WRITE,
    "send a report": REPORT,
}
IMPORTS = "import sys\nfrom pathlib import Path\nimport wandb\nfolder = sys.argv[1]\n"


def end(way: str, project: Path, limit: float) -> tuple[str, float, str]:
    """Run one process; returns its way, its seconds, and "", "hangs" or how it failed."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        environment |= {
            "HOME": folder,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(project),
            "WANDB_API_KEY": "0" * 40,
            "WANDB_BASE_URL": "http://127.0.0.1:9",
        }
        if way == "create a sweep":
            command = ["-m", "detection.wandb_runs", "sweep", str(project / "sweep.yaml")]
        else:
            command = ["-c", IMPORTS + WAYS[way], folder]
        begin = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            # W&B's own process has a session of its own, and goes with its parent
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return way, time.monotonic() - begin, "hangs"
        failed = process.returncode != 0 and way != "create a sweep"
        reason = (said.strip().splitlines() or ["no message"])[-1] if failed else ""
        return way, time.monotonic() - begin, reason


def main() -> None:
    """Start the processes, and print what became of each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, help="folder of a generated project")
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=3)
    parser.add_argument("--limit", type=float, default=120, help="seconds (default: %(default)s)")
    args = parser.parse_args()
    run = partial(end, project=args.project.resolve(), limit=args.limit)
    ways = list(islice(cycle([*WAYS, "create a sweep"]), args.processes))
    with ThreadPoolExecutor(args.at_once) as pool:
        ends = list(pool.map(run, ways))
    for way in dict.fromkeys(ways):
        seconds = [s for name, s, _ in ends if name == way]
        hangs = sum(name == way and what == "hangs" for name, _, what in ends)
        print(f"  {way:18} {len(seconds):4} processes, {hangs} hang, slowest {max(seconds):.1f} s")
    for reason, count in Counter(what for *_, what in ends if what not in ("", "hangs")).items():
        print(f"  {count} failed: {reason}")
    hangs = sum(what == "hangs" for *_, what in ends)
    print(f"{len(ends)} processes, {hangs} hang, slowest {max(s for _, s, _ in ends):.1f} s")
    sys.exit(bool(hangs))


if __name__ == "__main__":
    main()
