"""All commands start and end alike: at once, with one line for a mistake, in any encoding."""

import errno
import functools
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import PROJECT_ROOT

SMOKE = "configs/debug/smoke.py"
NAME = "종이 – 없다.json"  # a file's name
# the arguments of each command, with NAME for a file that it reads
ARGUMENTS = {
    "card": [NAME, NAME, "--run", "."],
    "check_dataset": [NAME],
    "check_submission": [NAME, NAME],
    "convert_dataset": [NAME],
    "convert_dicom": [NAME, "."],
    "create_sweep": [NAME],
    "doctor": [NAME],
    "draw_predictions": [NAME, ".", NAME],
    "ensemble": [NAME, NAME],
    "export": ["--config-file", NAME],
    "explore_dataset": ["--config-file", NAME],
    "find_label_errors": [NAME, NAME],
    "find_threshold": [NAME, NAME],
    "kaggle_competition": ["submit", "abc", "--file", NAME, "--message", "m"],
    "kaggle_folder": [NAME, "--competition", "abc", "--user", "me"],
    "kaggle_notebook": [NAME, "--output", "submission.csv"],
    "leaderboard": [NAME],
    "make_submission": [NAME, NAME],
    "make_toy_dataset": ["--output", "/dev/null", "--train", "1", "--size", "9"],
    "model_info": [NAME],
    "preview_augmentations": ["--config-file", NAME],
    "pseudo_label": [NAME, NAME],
    "report": [NAME, NAME],
    "score_results": [NAME, NAME],
    "search": [NAME],
    "show_config": ["--config-file", NAME],
    "split_dataset": [NAME],
    "submit": ["--config-file", NAME],
    "train_net": ["--config-file", NAME],
    "predict": ["--config-file", SMOKE, NAME],
}
PROGRAMS = ("train_net", "predict")
TOOLS = sorted(p.stem for p in (PROJECT_ROOT / "tools").glob("*.py") if p.stem != "__init__")


def command(name: str, *options: str) -> list[str]:
    script = f"{name}.py" if name in PROGRAMS else f"tools/{name}.py"
    return [sys.executable, *options, script]


def run(*command: str, **options) -> subprocess.CompletedProcess:
    """Run a command on a terminal that knows ASCII alone."""
    options = {"stdout": subprocess.PIPE, **options}
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    return subprocess.run(
        command,
        cwd=PROJECT_ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        encoding="ascii",
        timeout=120,
        **options,
    )


def imported(process: subprocess.CompletedProcess) -> set[str]:
    return set(re.findall(r"^import time:.*\| +(\S+)$", process.stderr, re.MULTILINE))


def answer(process: subprocess.CompletedProcess) -> str:
    """What the user sees on stderr."""
    return re.sub(r"^import time:.*\n", "", process.stderr, flags=re.MULTILINE)


def test_all_are_here():
    assert set(ARGUMENTS) == {*TOOLS, *PROGRAMS}


@functools.cache
def help_of(name: str) -> subprocess.CompletedProcess:
    return run(*command(name, "-X", "importtime"), "--help")


@pytest.mark.parametrize("name", ARGUMENTS)
def test_help_needs_no_torch(name):
    process = help_of(name)
    assert process.returncode == 0 and "--help" in process.stdout and not answer(process)
    assert "argparse" in imported(process) and "torch" not in imported(process)


def recipes() -> dict[str, list[str]]:
    """The Python scripts that each target of the Makefile runs, in order."""
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    targets = " ".join(re.findall(r"^\.PHONY:(.*)", makefile, re.MULTILINE)).split()
    texts = {t: re.search(rf"^{t}:.*\n((?:\t.*\n)*)", makefile, re.MULTILINE) for t in targets}
    return {t: re.findall(r"python (\S+\.py)", found[1]) for t, found in texts.items() if found}


@pytest.mark.parametrize("target", sorted(recipes().keys() - {"help"}))
def test_the_page_of_commands_has_the_plain_form_of_each_target(target):
    """With the scripts that `make` runs, and with options that they have."""
    page = (PROJECT_ROOT / "docs/commands.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{target}` \| (.*) \|$", page, re.MULTILINE)
    forms = re.findall(r"`([^`]+)`", row)
    assert forms
    scripts = []
    for form in forms:
        if script := re.match(r"python (\S+)\.py", form):
            scripts.append(f"{script[1]}.py")
            shown = help_of(script[1].removeprefix("tools/"))
            assert shown.returncode == 0
            assert all(option in shown.stdout for option in re.findall(r" (--[\w-]+)", form))
        else:
            assert form.startswith(("python -m pytest", "python -m ruff", "uv sync")), form
    recipe = recipes()[target]
    assert set(scripts) <= set(recipe) and scripts[-1:] == recipe[-1:]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_mistake_is_one_line_without_torch(name):
    process = run(*command(name, "-X", "importtime"), *ARGUMENTS[name])
    line = answer(process)
    assert process.returncode == 2 and not process.stdout
    assert line.startswith(f"{name}.py: ") and line.count("\n") == 1
    shown = NAME.encode("ascii", "backslashreplace").decode()
    assert shown in line or "--size" in line
    assert "torch" not in imported(process)


@pytest.mark.parametrize("name", ["check_dataset", "split_dataset"])
def test_data_is_found_without_torch(name, toy, tmp_path):
    shutil.copy(toy / "train.json", tmp_path)
    process = run(*command(name, "-X", "importtime"), str(tmp_path / "train.json"))
    assert "8 images" in process.stdout
    assert "argparse" in imported(process) and "torch" not in imported(process)


def test_a_reader_that_is_gone_is_no_error(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ["--output", str(tmp_path), "--train", "1", "--val", "1", "--size", "64"]
    process = run(*command("make_toy_dataset"), *arguments, stdout=writer)
    os.close(writer)
    assert process.returncode == 141 and not process.stderr
    assert (tmp_path / "val.json").is_file()


@pytest.mark.parametrize("name", TOOLS)
def test_tools_are_modules_too(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name])
    kept = ("-", "submit")
    arguments = [text if text.startswith(kept) else f"none/{text}" for text in ARGUMENTS[name]]
    module = importlib.import_module(f"tools.{name}")
    assert module.main(ARGUMENTS[name] if "--size" in arguments else arguments) == 2
    assert capsys.readouterr().err.startswith(f"{name}: ")


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
@pytest.mark.parametrize("name", ["check_dataset", "create_sweep", "score_results"])
def test_ctrl_c_is_one_line(name, tmp_path):
    fifo = tmp_path / "endless.json"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        [*command(name), *[str(fifo) for _ in ARGUMENTS[name]]],
        cwd=PROJECT_ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # the tests may run in the background, where Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with open(wait_for_reader(fifo, process), "wb"):
        while process.poll() is None:  # one that comes just before the read does not end it
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2)
    error = process.stderr.read()
    assert process.returncode == 130
    assert error.startswith(f"{name}.py: ") and error.count("\n") == 1


def wait_for_reader(fifo: Path, process: subprocess.Popen) -> int:
    """A descriptor to write to the pipe, once the process has opened it."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as e:
            assert e.errno == errno.ENXIO
            time.sleep(0.02)
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train_net.py", "--resme"], "--resme"),
        (["train_net.py"], "--config-file"),
        (["train_net.py", "--config-file", SMOKE, "train.max_iter"], "train.max_iter"),
        (["predict.py", "--config-file", SMOKE, "--outptu=a.json", "a.json"], "--outptu"),
        (["predict.py", "--config-file", "configs/none.py", "pyproject.toml"], "configs/none.py"),
    ],
)
def test_mistakes_on_the_command_line_need_no_torch(arguments, named):
    process = run(sys.executable, "-X", "importtime", *arguments)
    assert process.returncode == 2 and named in answer(process)
    assert "torch" not in imported(process) and "Traceback" not in process.stderr
