"""Sends the page of `make report` to W&B, with its figures."""

import numpy as np
import wandb

from detection.workshop.reports.worst_images import WorstImage
from detection.writers.wandb_beside import Beside
from detection.writers.wandb_media import boxes_image

# tables: the page's rows, and their columns
TABLES = {
    "classes": ("class_rows", "name AP AP50 AP75 boxes detections found threshold F1"),
    "sizes": ("size_rows", "name boxes AP"),
    "errors": ("error_rows", "name count cost"),
    "calibration": ("bin_rows", "score count mean precision"),
}


def send_report(training: Beside, page: dict, page_file: str, worst: list[WorstImage]) -> list[str]:
    """
    Send a report as a W&B run of its own, of the job type "report", to the training's project.

    Args:
        training: the run is beside its run.
        page: the values of its template.
        page_file: the page.
        worst: what a table shows.

    Returns:
        Lines to print, if not all could be sent.
    """
    config = {"training": training.name, "results": page["results_file"]}
    config |= {"annotations": page["json_file"]}
    if training.training_run:
        config["training_run"] = training.training_run

    def scalars() -> dict:
        html = wandb.Html(page_file, inject=False)
        return {"report/page": html, **_named(_scalars(page))}

    # afterwards, since W&B makes artifacts of them, which more can prevent
    tables = [lambda: _named(_tables(page)), lambda: _named(_images(worst))]
    name = f"{training.name}: report"
    return training.send("report", name, training.tags, config, [scalars, *tables])


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


def _images(worst: list[WorstImage]) -> dict:
    columns = ["file", "picture", "cost", "false positives", "misses", "boxes"]
    rows = []
    for image in worst:
        picture = boxes_image(
            image.pixels,
            image.size,
            image.truth,
            image.detections,
            image.class_names,
            image.file_name,
        )
        counts = [image.false_positives, image.misses, len(image.truth)]
        rows.append([image.file_name, picture, image.cost, *counts])
    return {"worst_images": wandb.Table(columns, rows)} if rows else {}
