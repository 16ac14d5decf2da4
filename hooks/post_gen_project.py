"""Leaves out what the answers do not need, then says what to do next."""

import shutil
from pathlib import Path

if "{{ cookiecutter.detectron2_source }}" == "git":
    # Only the build without a compiler lives there.
    shutil.rmtree("third_party")
else:
    # Release 0.6 lacks these backbones.
    for backbone in ("mvitv2", "swin_b", "swin_fpn", "vitdet"):
        for config in Path("configs").rglob("*" + backbone + "*.py"):
            config.unlink()

print(
    """
Next:
    cd {{ cookiecutter.project_slug }}
    make demo    # installs, makes a toy data set, trains on it and shows what it finds
    make test    # checks every config, and that a stopped run resumes

Then put your images and annotations under datasets/; README.md says how they are named.
"""
)
