"""The workflows of the template and of a generated project, by zizmor's rules."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT, TEMPLATE

WORKFLOWS = sorted({*TEMPLATE.glob(".github/**/*.yml"), *PROJECT.glob(".github/workflows/*.yml")})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path):
    uses = re.findall(r"uses: (\S+)(.*)", path.read_text(encoding="utf-8"))
    assert uses or "jobs:" not in path.read_text(encoding="utf-8")
    for action, version in uses:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", version), version


@pytest.mark.parametrize("folder", [TEMPLATE, PROJECT], ids=["template", "project"])
def test_zizmor_finds_nothing(folder):
    zizmor = shutil.which("zizmor", path=str(Path(sys.executable).parent))
    command = [zizmor, "--offline", "--no-progress", "--persona", "regular"]
    done = subprocess.run(
        [*command, str(folder / ".github" / "workflows")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
