"""Checkpoints as W&B artifacts: logged when training ends, loaded by `wandb-artifact://` paths."""

import logging
import os
from functools import partial
from pathlib import PurePosixPath

import wandb
from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import file_lock, get_cache_dir

from detection.utils.errors import UserError
from detection.utils.wandb_runs import default_mode, start_service, tear_down, time_limit

logger = logging.getLogger(__name__)


versions: dict[str, str] = {}  # {path that was loaded: entity/project/name:version}
_QUERIES = 6  # to the server, at most, to know an artifact and its files


class WandbArtifactHandler(PathHandler):
    """
    `wandb-artifact://entity/project/name:alias[/file.pth]`, downloaded once into iopath's cache.

    Without a file name it is `model_best.pth`, or the only file of weights in the artifact.
    """

    PREFIX = "wandb-artifact://"

    def __init__(self, timeout: int = 15):
        """
        Args:
            timeout: seconds to wait for an answer from W&B's server.
        """
        super().__init__()
        self._timeout = timeout
        self._local_paths = {}

    def _get_supported_prefixes(self):
        return [self.PREFIX]

    def _get_local_path(self, path, force=False, cache_dir=None, **kwargs):
        """
        Raises:
            UserError: the path is malformed, no key is configured, the server does not answer, or
                there is no such artifact or file.
        """
        self._check_kwargs(kwargs)
        if force or not os.path.isfile(self._local_paths.get(path, "")):
            try:
                self._local_paths[path] = self._download(path, get_cache_dir(cache_dir))
            except (wandb.Error, OSError, ValueError) as e:
                # after a refusal W&B's process may not answer again, not even to a later run
                tear_down(timeout=2)
                raise UserError(f"{path}: {str(e).strip().splitlines()[0]}") from e
        return self._local_paths[path]

    def _open(self, path, mode="r", buffering=-1, **kwargs):
        encoding = None if "b" in mode else "utf-8"
        return open(self._get_local_path(path, **kwargs), mode, buffering, encoding)

    def _download(self, path: str, cache_dir: str) -> str:
        entity, project, name, file = _parse(path)
        if default_mode() == "offline":  # Api would ask for a key on a terminal
            raise UserError(f"{path}: needs a W&B key; `wandb login` stores one")
        start_service()
        with time_limit(_QUERIES * self._timeout):
            artifact = wandb.Api(timeout=self._timeout).artifact(f"{entity}/{project}/{name}")
            files = list(artifact.manifest.entries)
        # W&B would wait for ever for the next bytes of a file
        session = artifact.manifest.storage_policy._session
        session.request = partial(session.request, timeout=self._timeout)
        file = _choose(path, file, files)
        # the version, since an alias moves
        collection = name.split(":")[0]
        versions[path] = f"{entity}/{project}/{collection}:{artifact.version}"
        root = os.path.join(
            cache_dir, "wandb-artifact", entity, project, f"{collection}-{artifact.version}"
        )
        os.makedirs(root, exist_ok=True)
        with file_lock(root):  # one process downloads, the others wait and use its file
            logger.info(f"W&B: {file} of {artifact.qualified_name}, into {root}")
            return str(artifact.get_entry(file).download(root, skip_cache=True))


def _parse(path: str) -> tuple[str, str, str, str]:
    """Split a path into entity, project, name:alias and file, which may be empty."""
    parts = path.removeprefix(WandbArtifactHandler.PREFIX).split("/", 3)
    if len(parts) < 3 or not all(parts[:3]):
        form = f"{WandbArtifactHandler.PREFIX}entity/project/name:alias[/file.pth]"
        raise UserError(f"{path}: must be {form}")
    entity, project, name = parts[:3]
    name = name if ":" in name else f"{name}:latest"
    return entity, project, name, "".join(parts[3:])


def _choose(path: str, file: str, files: list[str]) -> str:
    weights = [name for name in files if name.endswith((".pth", ".pkl", ".safetensors"))]
    if file in files:
        return file
    if not file:
        best = [name for name in weights if PurePosixPath(name).name == "model_best.pth"]
        for candidates in (best, weights):
            if len(candidates) == 1:
                return candidates[0]
    lacks = f"has no file {file}" if file else "does not hold exactly one .pth file"
    raise UserError(f"{path}: {lacks}; there are {', '.join(sorted(files)) or 'none'}")


PathManager.register_handler(WandbArtifactHandler())
