"""A training within a notebook's session: data from its inputs, resumed and ended in time."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from detection.data.coco import read_coco
from detection.utils.errors import UserError
from detection.utils.paths import PROJECT_ROOT, in_project
from detection.utils.text import listed
from detection.workshop.kaggle.images import find_images
from detection.workshop.kaggle.processes import run_until

LOOKED_UP = 100  # images of a json that say where all are
SECRET = "WANDB_API_KEY"


def train(
    cfg: DictConfig, arguments: Sequence[str], inputs: str, folder: str, output: Path, hours: float
) -> None:
    """
    Train, or continue what an input has begun, and stop in time to keep it.

    Args:
        cfg: what `arguments` come to.
        arguments: of train_net.py.
        inputs: all that the notebook can read.
        folder: the uploaded data set, among them.
        output: where what is written stays; the run goes to `output/<run>` in it.
        hours: of the session.

    Raises:
        UserError: images cannot be found, or the training has failed and said why.
    """
    link_output(output)
    link_images(cfg, inputs, folder)
    name = cfg.train.output_dir
    if earlier := find_earlier(cfg, inputs):
        shutil.copytree(earlier, in_project(name), dirs_exist_ok=True)
        print(f"continues {earlier}")
    print(wandb_key())
    if not run_until(3600 * hours, "train_net.py", "--resume", *arguments):
        print(
            f"stopped after {hours:g} hours; add this notebook's output to its inputs, run it "
            "again, and it continues from the last checkpoint"
        )


def link_output(output: Path) -> None:
    """Let the project's `output` be the folder of that name in another one."""
    (target := output / "output").mkdir(parents=True, exist_ok=True)
    link = PROJECT_ROOT / "output"
    if not link.exists():
        link.symlink_to(target.resolve(), target_is_directory=True)


def link_images(cfg: DictConfig, inputs: str, folder: str) -> None:
    """
    Let the image roots of a config hold the images that are among the inputs.

    Raises:
        UserError: they are not there.
    """
    for split in ("train", "val", "pseudo"):
        node = cfg.get("dataset", {}).get(split)
        if not node or not node.json_file:
            continue
        images = read_coco(in_project(node.json_file)).get("images", [])
        names = [image["file_name"] for image in images[:LOOKED_UP]]
        root = Path(in_project(node.image_root))
        if not names or all((root / name).is_file() for name in names):
            continue
        remedy = f"dataset.{split}.image_root=…"
        found, paths = find_images(names, inputs, split, folder, remedy)
        if other := [name for name in names if paths[name] != name]:
            raise UserError(f"{found}: has no image {listed(other, 3)}; {remedy} names the folder")
        print(f"{split}: images of {found}")
        _link_all(Path(found), root)


def _link_all(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source, target_is_directory=True)
        return
    for entry in source.iterdir():
        if not (target / entry.name).exists():
            (target / entry.name).symlink_to(entry)


def find_earlier(cfg: DictConfig, inputs: str) -> Path | None:
    """
    The output of an earlier session of the same run, among the inputs; None if there is none.

    Raises:
        UserError: there are several.
    """
    name = Path(cfg.train.output_dir).name
    found = sorted(
        path.parent
        for path in Path(inputs).rglob("last_checkpoint")
        if path.parent.name == name and path.parent.parent.name == "output"
    )
    if len(found) > 1:
        raise UserError(f"several outputs of {name}: {listed([str(p) for p in found])}; keep one")
    return found[0] if found else None


def wandb_key() -> str:
    """Take W&B's key from Kaggle's secrets; returns a sentence on it."""
    if os.environ.get(SECRET):
        return "W&B: with the key that is set"
    try:
        from kaggle_secrets import UserSecretsClient

        os.environ[SECRET] = UserSecretsClient().get_secret(SECRET)
    except Exception as e:  # no such secret, no network, not on Kaggle
        return f"W&B: no secret {SECRET} ({type(e).__name__}), so the run is recorded offline"
    return f"W&B: with the secret {SECRET}"
