"""The files of W&B runs, `<output_dir>/wandb/*run-<time>-<id>`: found, read back and sent."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from detection.utils.paths import from_here

if TYPE_CHECKING:
    import wandb


def find_parts(output_dir: Path, run_id: str) -> list[Path]:
    """The folders of a run, one for each time that it was started or resumed, in that order."""
    # offline-run-<time>-<id> and run-<time>-<id>
    parts = (output_dir / "wandb").glob(f"*run-*-{run_id}")
    return sorted(parts, key=lambda part: part.name.removeprefix("offline-"))


def newest_id(output_dir: Path) -> str | None:
    """The id of the run that was last started or resumed, by its folder; None without one."""
    parts = find_parts(output_dir, "*")
    return parts[-1].name.removeprefix("offline-").split("-", 2)[2] if parts else None


def read_rows(parts: list[Path], timeout: float = 60) -> dict[int, dict]:
    """{step: row} of what was logged; a part that W&B cannot read in time is left out."""
    rows = {}
    for file in (file for part in parts for file in part.glob("*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        try:
            process = subprocess.run(
                command, capture_output=True, encoding="utf-8", timeout=timeout, check=True
            )
        except (OSError, subprocess.SubprocessError):
            continue
        for record in map(json.loads, process.stdout.splitlines()):
            if record.get("type") == "history":
                row = record["history"]["item"]
                rows[int(row["_step"])] = row
    return rows


def sync_command(run: wandb.Run) -> str:
    """The command that sends what the server does not have of a run."""
    folder = Path(run.settings.sync_dir)
    if not run.offline:
        return f"wandb sync --include-online {shlex.quote(from_here(folder))}"
    parts = [
        part
        for part in find_parts(folder.parents[1], run.id)
        if part.name.startswith("offline-") and not list(part.glob("*.synced"))
    ]
    return shlex.join(["wandb", "sync", *map(from_here, parts)])
