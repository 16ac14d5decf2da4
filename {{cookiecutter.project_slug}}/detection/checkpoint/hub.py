"""Weights on the Hugging Face hub, loaded by `hf://` paths."""

import logging
import re
from pathlib import Path

from detectron2.utils.file_io import PathHandler, PathManager
from huggingface_hub import hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from detection.utils.errors import UserError

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
# beside the weights: settings, the classes, how pixels are normalized, and the license
_OTHERS = ("config.json", "preprocessor_config.json", "README.md")


class HubHandler(PathHandler):
    """`hf://owner/name` or `hf://owner/name@revision`, downloaded once into the hub's cache."""

    PREFIX = "hf://"

    def _get_supported_prefixes(self):
        return [self.PREFIX]

    def _get_local_path(self, path, force=False, cache_dir=None, **kwargs):
        """
        Raises:
            UserError: the path is malformed, there are no such weights, or the hub cannot be
                reached.
        """
        self._check_kwargs(kwargs)
        repository, _, revision = path.removeprefix(self.PREFIX).partition("@")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            raise UserError(f"{path}: has to be {self.PREFIX}owner/name or owner/name@revision")
        revision = revision or None
        try:
            local = hf_hub_download(repository, WEIGHTS, revision=revision)
            for name in _OTHERS:
                _download_if_there(repository, name, revision)
        except (HfHubHTTPError, HFValidationError, OSError) as e:
            files = ", ".join((WEIGHTS, *_OTHERS[:2]))
            url = hf_hub_url(repository, WEIGHTS, revision=revision)
            raise UserError(
                f"cannot fetch {url} ({type(e).__name__}); fetch its {files} elsewhere, "
                "put them into one folder, and set train.init_checkpoint to that folder"
            ) from e
        logger.info(f"weights of {repository}, license: {license_of(Path(local).parent)}")
        return local

    def _open(self, path, mode="r", buffering=-1, **kwargs):
        encoding = None if "b" in mode else "utf-8"
        return open(self._get_local_path(path, **kwargs), mode, buffering, encoding)


def license_of(folder: Path) -> str:
    """The license that a model's README.md states at its top; "not stated" where it does not."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "not stated"
    found = re.match(r"---\n(?:.*\n)*?license: *(\S+)", text)
    return found[1] if found else "not stated"


def _download_if_there(repository: str, name: str, revision: str | None) -> None:
    try:
        hf_hub_download(repository, name, revision=revision)
    except EntryNotFoundError:  # offline too, where the cache lacks it
        logger.info(f"{repository} has no {name}")


PathManager.register_handler(HubHandler())
