"""The notebooks that a folder for Kaggle holds: few lines, which call tools/kaggle_notebook.py."""

import json
import re
import shlex
from collections.abc import Sequence

INSTALL = """\
# what this image lacks, from the wheels, and the project where it can be written to
from pathlib import Path
folder = next(Path("/kaggle/input").rglob("wheels.txt")).parent
!pip install --quiet --no-index --no-deps --find-links {folder}/wheels -r {folder}/wheels.txt
assert _exit_code == 0, "make the folder again with this image's list, as docs/kaggle.md says"
!cp -rT {folder}/project /tmp/project
%cd /tmp/project"""
RUN = """\
!python tools/kaggle_notebook.py {folder} --inputs /kaggle/input --output OUTPUT OPTIONS
assert _exit_code == 0, "the reason is above\""""
HEAD = "!head -c 500 /kaggle/working/FILE"
HOURS = "train.hours=8.5"  # Kaggle ends a session after 12, and then keeps nothing of it
FILES = "!ls -l /kaggle/working/output/*"


def prediction_notebook(title: str, submission: str, options: Sequence[str]) -> str:
    """
    The notebook that predicts on the hidden images and writes the submission, as text.

    Args:
        title: its first line.
        submission: the name of the file that it writes.
        options: what else kaggle_notebook.py gets.
    """
    head = "Written by `make kaggle`. The options of the last command can be changed here."
    run = _call(f"/kaggle/working/{submission}", options)
    return _notebook([f"# {title}\n{head}"], [INSTALL, run, HEAD.replace("FILE", submission)])


def training_notebook(title: str, options: Sequence[str]) -> str:
    """
    The notebook that trains, or continues what an input has begun, as text.

    Args:
        title: its first line.
        options: what else kaggle_notebook.py gets; HOURS too, if no other is among them.
    """
    if not any(option.startswith("train.hours=") for option in options):
        options = [*options, HOURS]
    head = (
        "Written by `make kaggle`. With the output of an earlier version among the inputs, that "
        "training continues. A secret called WANDB_API_KEY sends the run to W&B."
    )
    run = _call("/kaggle/working", options)
    return _notebook([f"# {title}\n{head}"], [INSTALL, run, FILES])


def _call(output: str, options: Sequence[str]) -> str:
    # IPython replaces {names} and $names in these lines
    text = re.sub(r"[{}$]", lambda found: 2 * found[0], shlex.join(options))
    line = RUN.replace("OUTPUT", output)
    return line.replace(" OPTIONS", f" {text}" if text else "")


def _notebook(texts: Sequence[str], codes: Sequence[str]) -> str:
    cells = [{"cell_type": "markdown", "metadata": {}, "source": text} for text in texts]
    for code in codes:
        cell = {"cell_type": "code", "metadata": {}, "source": code}
        cells.append({**cell, "execution_count": None, "outputs": []})
    for number, cell in enumerate(cells):
        cell["id"] = f"cell{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}}
    # in ASCII: the kaggle command reads it in the machine's encoding
    return json.dumps({**notebook, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"
