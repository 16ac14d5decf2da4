"""Sends the page of `make report` to W&B, with its figures."""

import os
import uuid
from pathlib import Path

import numpy as np
import wandb

from detection.utils import wandb_runs
from detection.utils.errors import UserError
from detection.utils.files import read_record
from detection.utils.wandb_files import sync_command
from detection.workshop.analysis.runs import read_config
from detection.writers.wandb_record import grouping

# tables: the page's rows, and their columns
TABLES = {
    "classes": ("class_rows", "name AP AP50 AP75 boxes detections found threshold F1"),
    "sizes": ("size_rows", "name boxes AP"),
    "errors": ("error_rows", "name count cost"),
    "calibration": ("bin_rows", "score count mean precision"),
}


def writer_settings(run: str) -> dict:
    """
    The settings of a training's W&B writer, from its config.yaml.

    Args:
        run: output folder of the training.

    Raises:
        UserError: the training was without W&B.
    """
    writer = (read_config(run).get("writers") or {}).get("wandb")
    if not writer or _mode(writer) == "disabled":
        raise UserError(f"{run}: its config.yaml has no W&B project; leave out --wandb")
    return writer


def send_report(run: str, writer: dict, page: dict, page_file: str) -> list[str]:
    """
    Send a report as a W&B run of its own, of the job type "report", to the training's project.

    The training's own run stays as it is, so that a resume finds only the training's rows.

    Args:
        run: output folder of the training.
        writer: its `writer_settings`.
        page: the values of its template.
        page_file: the page.

    Returns:
        Lines to print, if not all could be sent.
    """
    unsent = []
    timeouts = {key: writer[key] for key in ("init_timeout", "finish_timeout") if key in writer}
    training = writer.get("name") or Path(run).resolve().name
    group, tags = grouping(training, (read_config(run).get("dataset") or {}).get("fold"))
    config = {"training": training, "results": page["results_file"]}
    config |= {"annotations": page["json_file"]}
    if isinstance(id_ := read_record(Path(run) / "wandb_run.json").get("id"), str):
        config["training_run"] = id_
    wandb_run = wandb_runs.open_run(
        Path(run),
        uuid.uuid4().hex[:8],
        _mode(writer),
        wandb_runs.make_settings([], **timeouts),
        lambda: unsent.append(True),
        project=writer.get("project") or None,
        entity=writer.get("entity") or None,
        name=f"{training}: report",
        group=writer.get("group") or os.environ.get("WANDB_RUN_GROUP") or group,
        job_type="report",
        tags=[*writer.get("tags", []), *tags],
        config=config,
    )
    if wandb_run is None:
        return []
    command = sync_command(wandb_run)
    try:
        with wandb_runs.time_limit(wandb_run.settings.finish_timeout):
            html = wandb.Html(page_file, inject=False)
            wandb_run.log({"report/page": html, **_named(_scalars(page))})
            # afterwards, since W&B makes artifacts of them, which more can prevent
            wandb_run.log(_named(_tables(page)))
    except Exception:  # W&B's own process is gone; the page is written
        unsent.append(True)
    if not wandb_runs.finish_run(wandb_run) or unsent:
        return [f"W&B: not all could be sent; `{command}` sends the rest"]
    return []


def _mode(writer: dict) -> str:
    return writer.get("mode") or os.environ.get("WANDB_MODE") or wandb_runs.default_mode()


def _named(values: dict) -> dict:
    return {f"report/{name}": value for name, value in values.items() if value is not None}


def _scalars(page: dict) -> dict[str, float | None]:
    return {
        **{name: page["all_row"][name] for name in ("AP", "AP50", "AP75")},
        **{f"AP-{row['name']}": row["AP"] for row in page["class_rows"]},
        **{f"cost/{row['name']}": row["cost"] for row in page["error_rows"]},
        "calibration_error": page["calibration_error"],
    }


def _tables(page: dict) -> dict:
    tables = {
        name: wandb.Table(
            columns.split(), [[row[c] for c in columns.split()] for row in page[rows]]
        )
        for name, (rows, columns) in TABLES.items()
    }
    if charts := page["recall_charts"]:
        recall = np.linspace(0, 1, len(charts[0]["curve"])).tolist()
        curves = [np.nan_to_num(chart["curve"]).tolist() for chart in charts]
        titles = [chart["title"] for chart in charts], "Precision at IoU 0.5", "recall"
        tables["precision_recall"] = wandb.plot.line_series(recall, curves, *titles)
    fields = {key: key for key in ("Actual", "Predicted", "nPredictions")}
    cells = [
        [row["name"], name, count]
        for row in page["matrix"]["rows"]
        for name, count in zip(page["matrix"]["columns"], row["counts"], strict=True)
    ]
    cells, title = wandb.Table(list(fields), cells), {"title": "Confusion at IoU 0.5"}
    tables["confusion"] = wandb.plot_table("wandb/confusion_matrix/v1", cells, fields, title)
    return tables
