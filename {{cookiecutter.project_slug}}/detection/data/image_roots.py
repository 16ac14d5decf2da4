"""Finds out what the `file_name`s of each annotation file are relative to."""

import os
import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from detection.utils.errors import UserError
from detection.utils.paths import DATASETS, in_project

COMMON = "configs/common/paths.py"  # has the `dataset` that configs share
HELP = (
    "what the file_name of each image is relative to, of all files or, as FILE=ROOT, of one; may "
    "be repeated (default: image_root in the config's dataset)"
)


def load_dataset(config_file: str = COMMON) -> Mapping:
    """The `dataset` of a config: where its annotations and images are."""
    if config_file == COMMON:
        return runpy.run_path(in_project(COMMON))["dataset"]
    from detection.config import load_config  # slow to import

    return load_config(config_file).get("dataset", {})


def image_roots(
    options: Sequence[str], files: Mapping[str, str], dataset: Callable[[], Mapping]
) -> dict[str, str]:
    """
    The folder of each file's images.

    Args:
        options: values of --image-root, ROOT for all files or FILE=ROOT for one.
        files: {name: path}, those to train on first; FILE is either.
        dataset: returns the config's node of that name; called if a file lacks an option.

    Raises:
        UserError: FILE is not one of the files.
    """
    of_all, roots = None, {}
    for option in options:
        if pair := _split_option(option, files):
            roots[pair[0]] = pair[1]
        else:
            of_all = option
    for position, (name, path) in enumerate(files.items()):
        if name not in roots:
            fallback = "val" if position else "train"
            roots[name] = of_all or config_root(dataset(), path, fallback)
    return roots


def config_root(dataset: Mapping, json_file: str, fallback: str = "val") -> str:
    """
    The image root that a config has for an annotation file, absolute or a URL.

    Args:
        dataset: the config's node of that name.
        json_file: if it is no split's of the config and not in its folder of folds, its name or its
            folder's may be that of a split.
        fallback: the split whose root it has otherwise.
    """

    def root(split: str) -> str:
        return in_project((dataset.get(split) or {}).get("image_root") or DATASETS)

    for split in ("train", "val", "pseudo"):
        of_split = (dataset.get(split) or {}).get("json_file")
        if of_split and _same(in_project(of_split), json_file):
            return root(split)
    folds = Path(in_project(dataset.get("folds") or f"{DATASETS}/folds")).resolve()
    if "://" not in json_file and folds in Path(json_file).resolve().parents:
        return root("train")
    path = Path(json_file)
    return root(next((s for s in ("train", "val") if s in (path.stem, path.parent.name)), fallback))


def _split_option(option: str, files: Mapping[str, str]) -> tuple[str, str] | None:
    """The file's name and the root of FILE=ROOT; None of a mere ROOT, which may have = in it."""
    places = [k for k, letter in enumerate(option) if letter == "="]
    for k in places:
        for name, path in files.items():
            if option[:k] == name or _same(option[:k], path):
                return name, option[k + 1 :]
    file, is_one, _ = option.partition(".json=")
    if is_one and not os.path.isdir(option):
        known = ", ".join(files.values())
        raise UserError(f"--image-root {option}: {file}.json is none of the files, {known}")
    return None


def _same(path: str, other: str) -> bool:
    return path == other or os.path.realpath(path) == os.path.realpath(other)
