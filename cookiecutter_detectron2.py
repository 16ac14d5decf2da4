"""The command `cookiecutter-detectron2`: cookiecutter with the template in this package."""

import shutil
import sys
import tempfile
from pathlib import Path

from cookiecutter.cli import main as cookiecutter


def main() -> None:
    """Run `cookiecutter` on the template with the options and answers of the command line."""
    with tempfile.TemporaryDirectory() as folder:
        # a copy, since an installer may have left __pycache__ between the installed files
        template = Path(folder) / "cookiecutter-detectron2"
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(__file__).with_name("template"), template, ignore=ignore)
        cookiecutter([str(template), *sys.argv[1:]], prog_name="cookiecutter-detectron2")
