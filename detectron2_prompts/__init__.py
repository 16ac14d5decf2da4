"""Turns the answers to the questions in cookiecutter.json into data, and refuses bad ones.

cookiecutter loads `AnswersExtension` before the first prompt. Right after a question, a private
variable passes its answer to the filter that checks it. A bad answer raises `BadAnswer`: one
line, exit status 1, nothing written. `read_classes` also replaces the answer: whatever form it
had, it becomes a JSON list, so that no path of this computer reaches the project, and a replay or
an update reads the same names on another computer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from jinja2 import Environment
from jinja2.ext import Extension

from detectron2_prompts.classes import read_classes
from detectron2_prompts.names import (
    check_project_name,
    check_project_slug,
    check_wandb_entity,
    check_wandb_project,
    usable_slug,
)
from detectron2_prompts.text import markdown_text, python_items, toml_text


class AnswersExtension(Extension):
    """The filters that cookiecutter.json and the rendered files use."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        filters: list[Callable[[str], str]] = [
            check_project_name,
            check_project_slug,
            check_wandb_entity,
            check_wandb_project,
            markdown_text,
            python_items,
            read_classes,
            toml_text,
            usable_slug,
        ]
        environment.filters.update({function.__name__: function for function in filters})
        # `cruft update` renders two versions of the template in one process: each imports its own
        for name in [name for name in sys.modules if name.partition(".")[0] == __name__]:
            del sys.modules[name]
