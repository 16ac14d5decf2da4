"""What a W&B run says of its inputs: the data set and the checkpoint that it starts from."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from detection.config import fold_suffix, to_plain
from detection.utils.paths import in_project
from detection.utils.wandb_runs import without_secrets

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "pseudo")
RECORDED = ("hashes", "files")  # hashes and numbers; the json files too


class Inputs:
    """The data set and the checkpoint that a training starts from, for its W&B run."""

    def __init__(self, cfg: DictConfig, recorded: str | None):
        """
        Args:
            cfg: the whole config.
            recorded: one of RECORDED; None: the data set is left out.
        """
        self._cfg = cfg
        self._recorded = recorded
        self._facts = self._describe_all() if recorded else {}

    @property
    def config(self) -> dict:
        """The run's: the training's without secrets, and `dataset_sha256` of each split."""
        config = _without_scheme(without_secrets(to_plain(self._cfg)))
        hashes = {split: facts["sha256"] for split, facts in self._facts.items()}
        return {**config, "dataset_sha256": hashes} if hashes else config

    def record(self, run: wandb.Run) -> None:
        """
        Make the data set an artifact that the run uses, and the version of the
        `wandb-artifact://` that the training has loaded, if it has.

        Equal annotation files make one version of the data set, whichever runs use them; it is sent
        in the background. The checkpoint's version is `init_artifact` in the run's config too; an
        offline run has it there alone.
        """
        try:
            if self._facts:
                self._use_dataset(run)
            if version := self._checkpoint():
                run.config.update({"init_artifact": version}, allow_val_change=True)
                if not run.offline:
                    run.use_artifact(version)
        except Exception as e:  # no reason to record nothing else
            logger.warning(f"W&B: the run's inputs are not recorded ({e})")

    def _use_dataset(self, run: wandb.Run) -> None:
        import wandb

        fold = OmegaConf.select(self._cfg, "dataset.fold")
        name = "dataset" if fold is None else f"dataset{fold_suffix(fold)}"
        artifact = wandb.Artifact(name, type="dataset", metadata={"fold": fold, **self._facts})
        with artifact.new_file("dataset.json", encoding="utf-8") as f:
            json.dump(self._facts, f, ensure_ascii=False, indent=1, sort_keys=True)
        if self._recorded == "files":
            for split in self._facts:
                path = in_project(self._cfg.dataset[split].json_file)
                artifact.add_file(path, f"{split}.json", policy="immutable", skip_cache=True)
        try:
            # what `run.use_artifact` does, which waits for the server and fails offline
            final, aliases = run._prepare_artifact(artifact)
            run._interface.publish_artifact(
                run, final, aliases, is_user_created=True, use_after_commit=True
            )
        except (AttributeError, TypeError):  # another release of W&B
            run.log_artifact(artifact)

    def _checkpoint(self) -> str | None:
        """The version of the artifact that was loaded."""
        artifacts = sys.modules.get("detection.checkpoint.artifacts")  # imported to load it
        path = OmegaConf.select(self._cfg, "train.init_checkpoint")
        return artifacts.versions.get(path) if artifacts else None

    def _describe_all(self) -> dict[str, dict]:
        """{split: facts}; {} for a config without `dataset`, or if a file cannot be read."""
        facts = {}
        try:
            for split in SPLITS:
                if file := OmegaConf.select(self._cfg, f"dataset.{split}.json_file"):
                    facts[split] = _describe(Path(in_project(file)))
        except Exception as e:  # the training has read them its own way
            logger.warning(f"W&B: the data set is not recorded ({e!r})")
            return {}
        return facts


def _without_scheme(config: object) -> object:
    """The config with `entity/project/name` of artifacts, for whose URLs W&B opens no run."""
    if isinstance(config, dict):
        return {name: _without_scheme(value) for name, value in config.items()}
    if isinstance(config, list):
        return [_without_scheme(value) for value in config]
    return config.removeprefix("wandb-artifact://") if isinstance(config, str) else config


def _describe(path: Path) -> dict:
    """`file`, `sha256`, numbers of `images` and `annotations`, and of each class's by name."""
    content = path.read_bytes()
    coco = json.loads(content)
    names = {category["id"]: category["name"] for category in coco["categories"]}
    annotations = coco.get("annotations") or []
    counts = Counter(annotation["category_id"] for annotation in annotations)
    return {
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "images": len(coco["images"]),
        "annotations": len(annotations),
        "classes": {name: counts[id_] for id_, name in names.items()},
    }
