"""Sends the figures of `make report` to W&B."""

import os
import uuid
from pathlib import Path

import numpy as np
import wandb

from detection.utils.errors import UserError
from detection.utils.files import read_record
from detection.utils.wandb_files import sync_command
from detection.utils.wandb_runs import (
    default_mode,
    finish_run,
    make_settings,
    open_run,
    time_limit,
)
from detection.workshop.analysis.runs import read_config

# tables of the page, and their columns; all but the first of each are numbers
TABLES = {
    "classes": (
        "class_rows",
        ("name", "AP", "AP50", "AP75", "boxes", "detections", "found", "threshold", "F1"),
    ),
    "sizes": ("size_rows", ("name", "boxes", "AP")),
    "errors": ("error_rows", ("name", "count", "cost")),
    "calibration": ("bin_rows", ("score", "count", "mean", "precision")),
}


def writer_settings(run: str) -> dict:
    """
    The settings of the W&B writer of a training, as its config.yaml has them.

    Args:
        run: output folder of the training.

    Raises:
        UserError: it was one without W&B.
    """
    writer = (read_config(run).get("writers") or {}).get("wandb")
    if not writer or _mode(writer) == "disabled":
        raise UserError(f"{run}: its config.yaml has no W&B project; leave out --wandb")
    return writer


def send_report(run: str, writer: dict, page: dict, page_file: str) -> list[str]:
    """
    Send a report: the page itself, its tables, its curves and its confusion matrix.

    They become a W&B run of their own, of the job type "report", in the project of the training:
    its own run stays as it is, so that a resume finds no rows that are not of the training.

    Args:
        run: output folder of the training.
        writer: its `writer_settings`.
        page: what the page was made of, with percent as it shows them.
        page_file: the page.

    Returns:
        Lines to print, if not all could be sent.
    """
    unsent = []
    timeouts = {name: writer[name] for name in ("init_timeout", "finish_timeout") if name in writer}
    name = writer.get("name") or Path(run).resolve().name
    wandb_run = open_run(
        Path(run),
        uuid.uuid4().hex[:8],
        _mode(writer),
        make_settings([], **timeouts),
        lambda: unsent.append(True),
        project=writer.get("project") or None,
        entity=writer.get("entity") or None,
        name=f"{name}: report",
        job_type="report",
        config={
            "training": name,
            "training_run": _training_id(run),
            "results": page["results_file"],
            "annotations": page["json_file"],
        },
    )
    if wandb_run is None:
        return []
    command = sync_command(wandb_run)
    try:
        with time_limit(wandb_run.settings.finish_timeout):
            wandb_run.log({"report/page": wandb.Html(page_file, inject=False), **_scalars(page)})
            # after that, since W&B makes artifacts of them, which more can prevent
            wandb_run.log(_tables(page))
    except Exception:  # W&B's own process is gone; the page is written
        unsent.append(True)
    if not finish_run(wandb_run):
        unsent.append(True)
    return [f"W&B: not all could be sent; `{command}` sends the rest"] if unsent else []


def _mode(writer: dict) -> str:
    return writer.get("mode") or os.environ.get("WANDB_MODE") or default_mode()


def _scalars(page: dict) -> dict[str, float]:
    texts = {figure["name"]: figure["value"] for figure in page["figures"]}
    texts |= {f"AP-{row['name']}": row["AP"] for row in page["class_rows"]}
    texts |= {f"cost/{row['name']}": row["cost"] for row in page["error_rows"]}
    texts["calibration_error"] = page["calibration_error"]
    numbers = {f"report/{name}": _number(text) for name, text in texts.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _tables(page: dict) -> dict:
    tables = {}
    for name, (rows, columns) in TABLES.items():
        data = [[row[columns[0]], *(_number(row[c]) for c in columns[1:])] for row in page[rows]]
        tables[f"report/{name}"] = wandb.Table(list(columns), data)
    if charts := page["recall_charts"]:
        tables["report/precision_recall"] = wandb.plot.line_series(
            np.linspace(0, 1, len(charts[0]["curve"])).tolist(),
            [np.nan_to_num(chart["curve"]).tolist() for chart in charts],
            [chart["title"] for chart in charts],
            "Precision at IoU 0.5",
            "recall",
        )
    tables["report/confusion"] = _confusion(page["matrix"])
    return tables


def _confusion(matrix: dict) -> wandb.plot.CustomChart:
    data = [
        [row["name"], name, cell["count"]]
        for row in matrix["rows"]
        for name, cell in zip(matrix["columns"], row["cells"], strict=True)
    ]
    columns = ["Actual", "Predicted", "nPredictions"]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns, data),
        {column: column for column in columns},
        {"title": "Confusion at IoU 0.5"},
    )


def _number(text: str) -> float | None:
    """A figure of the page; None for a dash."""
    return None if text == "–" else float(text.replace(",", ""))


def _training_id(run: str) -> str | None:
    run_id = read_record(Path(run) / "wandb_run.json").get("id")
    return run_id if isinstance(run_id, str) else None
