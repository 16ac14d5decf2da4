"""The documentation: it builds, and each command in it runs, or says why not and is checked."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import LIMIT, TEMPLATE

DOCS = TEMPLATE / "docs"
BLOCK = re.compile(
    r'(?:^<!-- (?P<mark>[^\n]+) -->\n)?^```(?P<language>\w*)(?: title="(?P<title>[^"\n]+)")?\n'
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PAGES = [
    "tutorial.md",
    *re.findall(r"how-to/[\w-]+\.md", (TEMPLATE / "zensical.toml").read_text("utf-8")),
]
CHECK_CONFIGS = """
import json, sys
from detectron2.config import LazyConfig
from detection.config import all_keys, load_config
from detection.utils.arguments import parse_args
for argv in json.load(sys.stdin):
    args = parse_args(argv, "")
    load_config(args.config_file, args.opts)
keys = []
for file in (f"configs/{name}.py" for name in sys.argv[1:]):
    # as written, with rules for the learning rate, and as loaded, with tta and tiles
    keys += all_keys(LazyConfig.load(file)) + all_keys(load_config(file))
print(json.dumps(keys))
"""


def slow(test):
    """Mark a test that needs an installed project."""
    return pytest.mark.slow(pytest.mark.timeout(LIMIT + 300)(test))


class Block(NamedTuple):
    """
    A fenced block of a page.

    Attributes:
        mark: the comment above it: `not run: reason`, `run: status 1`, `run: ARGS="…"` or nothing.
        language: sh, python, diff or text.
        title: the file that python and diff are for.
        text: what is in it.
    """

    mark: str
    language: str
    title: str
    text: str

    @property
    def is_run(self) -> bool:
        return not self.mark.startswith("not run: ")

    def commands(self) -> list[list[str]]:
        """The words of each command, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page of docs/."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [Block(*(part or "" for part in found.groups())) for found in BLOCK.finditer(text)]


def all_pages() -> list[str]:
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", all_pages())
def test_a_block_is_run_or_says_why_not(page):
    fences = (DOCS / page).read_text(encoding="utf-8").count("\n```")
    assert fences == 2 * len(blocks(page)), "a fence that is not read"
    for block in blocks(page):
        assert block.language in ("sh", "python", "diff", "text"), block
        assert bool(block.title) == (block.language in ("python", "diff")), block
        assert re.fullmatch(r'|not run: .{9,}|run: (status \d|[A-Z]+="[^"]+")', block.mark), block
        if block.language == "sh" and page not in PAGES:
            assert not block.is_run, f"{page}: only the tutorial and how-to pages are run"


def test_the_site_builds_without_warnings_and_needs_no_other_server():
    pytest.importorskip("zensical", reason="needs Python 3.11")
    tools = Path(sys.executable).parent
    for command in (
        [sys.executable, "scripts/build_docs.py", "build/docs"],
        [tools / "zensical", "build", "--clean", "--strict"],
    ):
        done = subprocess.run(command, cwd=TEMPLATE, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    site = TEMPLATE / "build/site"
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {page.replace(".md", "/index.html") for page in PAGES} < pages
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\W?([^\s>]+)", text)
        loaded += re.findall(r"<link\b[^>]*rel=\W?(?:stylesheet|preconnect|icon)[^>]*>", text)
        loaded += re.findall(r"url\(([^)]+)", re.sub(r"url\(\W?data:", "", text))
        assert not [address for address in loaded if "//" in address], path


def test_the_korean_page_says_the_same():
    """Commands and pictures are the same, in the same order; and so is code, section by section."""
    pages = [
        (TEMPLATE / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md")
    ]
    assert "](README.ko.md)" in pages[0] and "](README.md)" in pages[1]
    english, korean = (re.split("^## ", page, flags=re.MULTILINE) for page in pages)
    assert len(english) == len(korean)
    for ours, theirs in zip(english, korean, strict=True):
        for pattern in (
            r"^    ((?:uvx?|cd|make) [^#\n]*\S)",  # commands, without their comments
            r"^    ( *[\w./]+)  ",  # the tree of a project
            r"!\[[^]]*\]\(([^)]+)\)",  # pictures
            r"^\|(?:.*\|){3,}$",  # rows of tables
        ):
            found = [re.findall(pattern, part, re.MULTILINE) for part in (ours, theirs)]
            if pattern.endswith("$"):
                found = [[row.count("|") for row in rows] for rows in found]
            assert found[0] == found[1]
        code = [sorted(re.findall(r"`[^`\n]+`", part)) for part in (ours, theirs)]
        assert code[0] == code[1]


def test_the_terminal_is_light_and_can_stand_still():
    file = DOCS / "pictures/terminal.svg"
    text = file.read_text(encoding="utf-8")
    assert file.stat().st_size < 300_000
    assert "prefers-reduced-motion" in text and "competition/mAP50" in text
    assert all(target.startswith("#") for target in re.findall('href="([^"]*)', text))
    assert "url(" not in text and "<image" not in text
    ElementTree.fromstring(text)


class Walk:
    """A project in which pages are followed."""

    def __init__(self, project: Path, folder: Path):
        """
        Args:
            project: with an installation in `.venv`.
            folder: empty; for a `uv` that leaves that installation as it is.
        """
        self.project = project
        self._help = {}  # of the programs that are checked
        self.python = str(project / ".venv/bin/python")
        uv = os.environ["UV"]
        shim = folder / "uv"
        shim.write_text(f'#!/bin/sh\n[ "$1" = sync ] || exec {shlex.quote(uv)} "$@"\n')
        shim.chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "VIRTUAL_"))}
        self.environment = kept | {
            # as activated
            "PATH": os.pathsep.join([str(folder), str(project / ".venv/bin"), os.environ["PATH"]]),
            "UV": str(shim),
            "UV_NO_SYNC": "1",
            "WANDB_MODE": "offline",
            "CUDA_VISIBLE_DEVICES": "",
            "COLUMNS": "200",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, command: list[str], status: int = 0, **options) -> subprocess.CompletedProcess:
        environment = self.environment | options.pop("env", {})
        done = subprocess.run(
            command,
            cwd=self.project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            **options,
        )
        assert done.returncode == status, f"{command}\n{done.stdout[-8000:]}"
        return done

    def follow(self, page: str) -> None:
        """Do what the page says, from top to bottom, and compare what it shows."""
        shown = ""
        for block in blocks(page):
            if block.language == "python":
                (self.project / block.title).write_text(block.text, encoding="utf-8")
            elif block.language == "diff":
                self.edit(block)
            elif block.language == "text":
                compare(block.text, shown, page)
            elif block.is_run:
                status = int(block.mark[-1]) if "status" in block.mark else 0
                set_here = re.findall(r'([A-Z]+)="([^"]+)"', block.mark)
                shown = self.run(["bash", "-ec", block.text], status, env=dict(set_here)).stdout
            else:
                shown = ""

    def edit(self, block: Block) -> None:
        """Apply a diff without line numbers, whose lines are in the file once."""
        lines = block.text.splitlines()
        old = "\n".join(line[1:] for line in lines if line[0] in "- ")
        new = "\n".join(line[1:] for line in lines if line[0] in "+ ")
        file = self.project / block.title
        text = file.read_text(encoding="utf-8")
        assert text.count(f"\n{old}") == 1, f"{block.title} does not have once:\n{old}"
        file.write_text(text.replace(f"\n{old}", f"\n{new}"), encoding="utf-8")

    def check(self, command: list[str]) -> list[list[str]]:
        """Check a command without running it; returns its config and overrides, if it has any."""
        if command[0] == "make":
            recipe = self.run([*command, "--dry-run"]).stdout
            lines = recipe.replace("\\\n", " ").splitlines()
            programs = [shlex.split(line) for line in lines if "run --no-sync python" in line]
            return [argv for words in programs for argv in self.check(words)]
        if command[0] in ("cd", "docker", "source", "uvx"):
            return []  # the shell's, Docker, and what the network has
        program = next(word for word in command if re.match(r"python$|wandb$|torchrun$", word))
        after = command[command.index(program) + 1 :]
        if program == "wandb":
            self.run([str(self.project / ".venv/bin/wandb"), after[0], "--help"])
            return []
        at = next(k for k, word in enumerate(after) if word.endswith(".py"))
        script, arguments = after[at], after[at + 1 :]
        if script not in self._help:
            self._help[script] = self.run([self.python, script, "--help"]).stdout
        for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
            known = re.search(rf"(^|[\s,\[]){option}\b", self._help[script])
            assert known, f"{script} has no {option}"
        if "--config-file" not in arguments:
            return []
        at = arguments.index("--config-file")
        overrides = [word for word in arguments if re.match(r"[\w.]+=", word)]
        return [[*arguments[at : at + 2], *overrides]]


def compare(wanted: str, shown: str, page: str) -> None:
    """
    Check that the lines of `wanted` are in `shown`, in that order.

    Numbers may differ, `…` is anything, and blanks, line ends and rules may be longer or shorter.
    """
    rest = " ".join(shown.split())
    for line in filter(None, (" ".join(line.split()) for line in wanted.splitlines())):
        parts = re.split(r"(\d[\d.:,/-]*|--+|\s*…\s*)", line)
        wild = {"-": "-+", "…": ".*?"}
        parts[1::2] = (wild.get(part.strip()[0], r"[\d.:,/e+-]+") for part in parts[1::2])
        parts[::2] = map(re.escape, parts[::2])
        found = re.search("".join(parts), rest)
        assert found, f"{page} shows\n{line}\nwhich is not, or not there, in\n{shown[-6000:]}"
        rest = rest[found.end() :]


@pytest.fixture(scope="module")
def walk(bake, project, tmp_path_factory) -> Walk:
    """A new project with the installation of another, after the tutorial."""
    path = bake(fresh=True)
    (path / ".venv").symlink_to(project / ".venv", target_is_directory=True)
    walk = Walk(path, tmp_path_factory.mktemp("bin"))
    walk.follow("tutorial.md")
    return walk


@slow
def test_the_tutorial_ends_in_a_submission(walk):
    header, *rows = (walk.project / "submission.csv").read_text(encoding="utf-8").splitlines()
    assert header == "PredictionString,image_id" and len(rows) == 40
    assert (walk.project / "output/tutorial_fold0/report.html").stat().st_size > 100_000


@slow
@pytest.mark.parametrize("page", PAGES[1:])
def test_page(walk, page):
    walk.follow(page)


@slow
def test_what_is_not_run_is_understood(walk):
    configs = []
    for page in all_pages():
        for block in blocks(page):
            if block.language == "sh" and not block.is_run:
                for command in block.commands():
                    configs += walk.check(command)
    assert len(configs) > 5
    names = ("faster_rcnn_R_50_FPN", "d_fine_M")
    out = walk.run([walk.python, "-c", CHECK_CONFIGS, *names], input=json.dumps(configs)).stdout
    check_reference(set(json.loads(out.splitlines()[-1])))


def check_reference(keys: set[str]) -> None:
    """Every key of two configs is on the page of settings, and no other is."""
    sys.path.insert(0, str(TEMPLATE / "scripts"))
    from settings_page import sections

    found = sections(TEMPLATE / "{{cookiecutter.project_slug}}/configs")
    on_page = {row.key for section in found.values() for row in section.rows}
    parents = {key.rpartition(".")[0] for key in keys}
    # a model's own, elements of lists, and what detr.py adds
    other = re.compile(r"model\b|.*\.\d|dataloader\.train\.aspect_ratio_grouping$")
    leaves = {key for key in keys - parents if not other.match(key)}
    assert {k for k in leaves if not any(k == p or k.startswith(f"{p}.") for p in on_page)} == set()
    assert on_page - keys == {"anchors.sizes", "anchors.aspect_ratios"}  # parts of models
