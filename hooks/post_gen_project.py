"""Leaves out what the answers do not need, then says what to do next."""

import shutil

if "{{ cookiecutter.detectron2_source }}" == "git":
    # Only the build without a compiler lives there.
    shutil.rmtree("third_party")

print(
    """
Next:
    cd {{ cookiecutter.project_slug }}
    make demo    # installs, makes a toy data set, trains on it and shows what it finds
    make test    # checks every config, and that a stopped run goes on

Then put your images and annotations under datasets/; README.md says how they are named.
"""
)
