"""Times making a project beside what cookiecutter itself takes, in turn, in one run.

    python benchmarks/generation_time.py [--runs 7]

Each line is the median over the runs, each in a process of its own: Python with cookiecutter
imported; the smallest template, of one file; this template, with all answers at their defaults.
The difference between the last two is what this template costs: in seconds that pass, which other
work on the machine makes longer, and in seconds of the processor, hooks included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[1]


def make_smallest_template(folder: Path) -> Path:
    """Write a template of one file into `folder` and return it."""
    project = folder / "{{cookiecutter.project_slug}}"
    project.mkdir(parents=True)
    (project / "README.md").write_text("# {{ cookiecutter.project_slug }}\n")
    (folder / "cookiecutter.json").write_text(json.dumps({"project_slug": "smallest"}))
    return folder


def seconds(command: list[str]) -> tuple[float, float]:
    """Return how long `command` takes, and the processor's time; CalledProcessError if it fails."""
    start, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = after.children_user + after.children_system
    return time.perf_counter() - start, used - before.children_user - before.children_system


def main() -> None:
    """Print the medians in seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        config = home / "config.yaml"
        folders = {"replay_dir": str(home / "replay"), "cookiecutters_dir": str(home / "cc")}
        config.write_text(json.dumps(folders))
        make = [sys.executable, "-m", "cookiecutter", "--no-input", "--overwrite-if-exists"]
        make += ["--config-file", str(config), "--output-dir", str(home / "out")]
        commands = {
            "cookiecutter's start": [sys.executable, "-c", "import cookiecutter.cli"],
            "smallest template": [*make, str(make_smallest_template(home / "smallest"))],
            "this template": [*make, str(TEMPLATE)],
        }
        times: dict[str, list[tuple[float, float]]] = {label: [] for label in commands}
        for run in range(runs + 1):
            for label, command in commands.items():
                took = seconds(command)
                if run:  # the first one warms the disk's cache
                    times[label].append(took)
        files = sum(path.is_file() for path in (home / "out").rglob("*")) - 1

    medians = {
        label: [statistics.median(column) for column in zip(*values, strict=True)]
        for label, values in times.items()
    }
    print(f"{'':22} median s   min s   processor s")
    for label, values in times.items():
        passed, used = medians[label]
        print(f"{label:22} {passed:8.2f} {min(values)[0]:7.2f} {used:13.2f}")
    passed, used = (
        ours - smallest
        for ours, smallest in zip(
            medians["this template"], medians["smallest template"], strict=True
        )
    )
    print(f"{files} files; {passed:.2f} s over the smallest template, {used:.2f} of the processor")


if __name__ == "__main__":
    main()
