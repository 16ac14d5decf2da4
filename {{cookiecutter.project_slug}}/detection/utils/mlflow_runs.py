"""MLflow runs: how they open, and their configs; `mlflow` is imported where a run is opened."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from detection.utils.paths import in_project
from detection.utils.text import safe_name, shortened

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

_LONGEST = 490  # characters of a param, which older servers take too
_MOST_PARAMS = 100  # of a request


def open_run(
    uri: str, run_id: object, experiment: str, name: str, tags: dict[str, str], config: dict
) -> tuple[MlflowClient, str, dict[str, tuple[int, float]]]:
    """
    Continue a run, or start another if it does not exist.

    Args:
        uri: of a server; or a folder of the project, for a database and artifacts.
        run_id: of the one to continue, if any.
        experiment: created if it does not exist.
        name, tags: of a new run.
        config: of dicts, lists and scalars; its params are those that the run lacks, since
            MLflow lets none change.

    Returns:
        A client, the run's id, and {metric: (step, value)} of the last point of each.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Param

    artifacts = None
    if "://" not in uri and uri != "databricks":
        folder = Path(in_project(uri))
        folder.mkdir(parents=True, exist_ok=True)
        uri, artifacts = f"sqlite:///{(folder / 'mlflow.db').as_posix()}", folder.as_uri()
        for library in ("mlflow", "alembic"):  # which list the tables that they create
            logging.getLogger(library).setLevel(logging.WARNING)
    client = MlflowClient(uri)
    run = isinstance(run_id, str) and _or_none(lambda: client.get_run(run_id))
    if run:
        client.update_run(run_id, status="RUNNING")
    else:
        # another training may create it at the same moment
        _or_none(lambda: client.create_experiment(experiment, artifacts))
        id_ = client.get_experiment_by_name(experiment).experiment_id
        run = client.create_run(id_, run_name=name, tags=tags)
    params = [Param(*p) for p in _flattened(config) if p[0] not in run.data.params]
    for k in range(0, len(params), _MOST_PARAMS):
        client.log_batch(run.info.run_id, params=params[k : k + _MOST_PARAMS])
    last = {m.key: (m.step, m.value) for m in run.data.to_proto().metrics}
    return client, run.info.run_id, last


def _or_none(call: Callable[[], T]) -> T | None:
    """None where it does not exist, or does already."""
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as e:
        if e.error_code not in ("RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"):
            raise
        return None


def _flattened(config: dict, prefix: str = "") -> list[tuple[str, str]]:
    """(dotted key, value as a text that MLflow takes); lists are one value."""
    params = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            params += _flattened(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            params.append((safe_name(f"{prefix}{key}"), shortened(text, _LONGEST)))
    return params
