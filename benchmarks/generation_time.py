"""Times making a project beside what cookiecutter itself takes, in turn, in one run.

    python benchmarks/generation_time.py [--runs 7]

Each line is the median over the runs, each in a process of its own: Python with cookiecutter
imported; the smallest template, of one file; this template, with all answers at their defaults.
The difference between the last two is what this template costs.
"""

from __future__ import annotations

import argparse
import json
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


def seconds(command: list[str]) -> float:
    """Return how long `command` takes; raise CalledProcessError if it fails."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print the medians in seconds and as a ratio to cookiecutter's own start."""
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
        times: dict[str, list[float]] = {label: [] for label in commands}
        for run in range(runs + 1):
            for label, command in commands.items():
                took = seconds(command)
                if run:  # the first one warms the disk's cache
                    times[label].append(took)
        files = sum(path.is_file() for path in (home / "out").rglob("*")) - 1

    medians = {label: statistics.median(values) for label, values in times.items()}
    start = medians["cookiecutter's start"]
    print(f"{'':22} median s   min s   x start")
    for label, values in times.items():
        print(f"{label:22} {medians[label]:8.2f} {min(values):7.2f} {medians[label] / start:9.2f}")
    own = medians["this template"] - medians["smallest template"]
    print(f"{files} files; {own:.2f} s over the smallest template")


if __name__ == "__main__":
    main()
