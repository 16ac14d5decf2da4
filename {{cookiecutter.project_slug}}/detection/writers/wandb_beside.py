"""W&B runs beside a training's, with its project, group and tags: reports and scores."""

import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from detection.utils import wandb_runs
from detection.utils.errors import UserError
from detection.utils.files import read_record
from detection.utils.run_config import read_config
from detection.utils.wandb_files import sync_command
from detection.writers.wandb_record import RECORD, grouping


class Beside:
    """Opens and sends a run beside that of a training, which stays as it is for a resume."""

    def __init__(self, folder: str | Path):
        """
        Args:
            folder: output folder of the training.

        Raises:
            UserError: it is none, the training was without W&B, or that is not installed.
        """
        try:
            import wandb  # noqa: F401
        except ImportError as e:
            raise UserError(f"W&B: {e}; install it, or leave out --wandb") from e
        config = read_config(folder)
        writer = (config.get("writers") or {}).get("wandb")
        if not writer or _mode(writer) == "disabled":
            raise UserError(f"{folder}: its config.yaml has no W&B project; leave out --wandb")
        self.folder = Path(folder)
        self.name = writer.get("name") or self.folder.resolve().name
        self.fold = (config.get("dataset") or {}).get("fold")
        group, tags = grouping(self.name, self.fold)
        self.group = writer.get("group") or os.environ.get("WANDB_RUN_GROUP") or group
        self.tags = tags
        id_ = read_record(self.folder / RECORD).get("id")
        self.training_run = id_ if isinstance(id_, str) else None
        self.writer = writer

    def send(
        self,
        job_type: str,
        name: str,
        tags: list[str],
        config: dict,
        parts: Iterable[Callable[[], dict]],
    ) -> list[str]:
        """
        Send a run, within the training's `finish_timeout`.

        Args:
            job_type, name, config: of the run.
            tags: of the run, beside those that `writers.wandb.tags` sets.
            parts: each makes what is logged in one call.

        Returns:
            Lines to print, if not all could be sent.
        """
        writer, unsent = self.writer, []
        timeouts = {k: writer[k] for k in ("init_timeout", "finish_timeout") if k in writer}
        run = wandb_runs.open_run(
            self.folder,
            uuid.uuid4().hex[:8],
            _mode(writer),
            wandb_runs.make_settings([], **timeouts),
            lambda: unsent.append(True),
            project=writer.get("project") or None,
            entity=writer.get("entity") or None,
            name=name,
            group=self.group,
            job_type=job_type,
            tags=[*(writer.get("tags") or []), *tags],
            config=config,
        )
        if run is None:
            return []
        command = sync_command(run)
        try:
            with wandb_runs.time_limit(run.settings.finish_timeout):
                for part in parts:
                    run.log(part())
        except Exception:  # W&B's own process is gone; what was made is on the disk
            unsent.append(True)
        if not wandb_runs.finish_run(run) or unsent:
            return [f"W&B: not all could be sent; `{command}` sends the rest"]
        return []


def _mode(writer: dict) -> str:
    return writer.get("mode") or os.environ.get("WANDB_MODE") or wandb_runs.default_mode()
