"""The card of a model, Markdown for the Hugging Face Hub or a solution's post."""

import hashlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from detection.evaluation.competition_metrics import METRICS
from detection.evaluation.intervals import RESAMPLES, interval, resample
from detection.evaluation.matching import match
from detection.utils.files import write_atomically
from detection.utils.paths import in_project
from detection.utils.text import printable
from detection.workshop.analysis.leaderboard import Run, differences
from detection.workshop.reports.charts import standalone
from detection.workshop.reports.errors import class_names, errors_section
from detection.workshop.reports.training import run_section

NOT_KNOWN = "not known"
LOGGED = re.compile(r"weights of (.+?)(?:, from \S+)?, license: (\S.*)$", re.MULTILINE)
MODEL_ZOO = "CC BY-SA 3.0, of detectron2's model zoo"
SETTINGS = {  # what a training has, by its config
    "iterations": "train.max_iter",
    "batch": "dataloader.train.total_batch_size",
    "learning rate": "optimizer.lr",
    "optimizer": "optimizer._target_",
    "seed": "train.seed",
    "mixed precision": "train.amp.enabled",
    "averaged weights": "train.ema.enabled",
    "fold": "dataset.fold",
}


def write_card(
    output: str,
    run: Run,
    folder: str,
    coco: dict,
    results: list[dict],
    json_file: str,
    metric: str,
    config_file: str,
    default: dict | None,
    license: str,
) -> None:
    """
    Write a card, and its curves beside it as `<card>_<curve>.svg`.

    Args:
        output: the Markdown file.
        run: the training.
        folder: its output folder.
        coco: the annotations that it is scored on, of `json_file`.
        results: the detections of its best checkpoint, in COCO's results format.
        metric: a key of METRICS, the first in the table.
        config_file, default: the config to compare with, plain; None if it is not known.
        license: of the model, as the Hub names it.

    Raises:
        UserError: a file cannot be written.
    """
    page = errors_section(coco, results, match(coco, results))
    scores = []
    for name in dict.fromkeys((metric, "coco_AP", "mAP50")):
        drawn = resample(name, coco, results)
        low, high = interval(drawn.values)
        definition = METRICS[name].definition
        scores.append(dict(name=name, value=drawn.value, low=low, high=high, definition=definition))
    curves = []
    for chart in run_section(run.curves)["run_charts"]:
        path = Path(output).with_name(f"{Path(output).stem}_{chart['title'].lower()}.svg")
        write_atomically(path, standalone(chart["svg"]).encode("utf-8", "xmlcharrefreplace"))
        curves.append({"file": path.name, "caption": f"{chart['title']}: {chart['caption']}"})
    title = Path(folder).resolve().name
    model = str(run.setting("model", "_target_") or "").rpartition(".")[2] or "a model"
    card = _environment().get_template("card.md.jinja")
    values = {
        "front_matter": _front_matter(title, model, scores, json_file, license, run),
        "title": title,
        "model": model,
        "classes": class_names(coco),
        "curves": curves,
        "images": len(coco["images"]),
        "json_file": json_file,
        "resamples": RESAMPLES,
        "scores": scores,
        "class_rows": page["class_rows"],
        "all_row": {"name": "all", **page["all_row"]},
        "data": [
            _describe_split(s, run.setting("dataset", s, "json_file")) for s in ("train", "val")
        ],
        "settings": _settings(run),
        "config_file": config_file,
        "differences": default and _compare(default, run.config),
        "starts": _starts(run, folder),
        "run": folder,
        "commands": _commands(config_file, folder),
    }
    text = card.render(**values)
    write_atomically(output, text.encode("utf-8", "backslashreplace"), output)


def _front_matter(
    title: str, model: str, scores: list[dict], json_file: str, license: str, run: Run
) -> str:
    """What the Hub reads, https://huggingface.co/docs/hub/model-cards, as YAML."""
    start = str(run.setting("train", "init_checkpoint") or "")
    data = ModelCardData(
        license=license,
        library_name="detectron2",
        pipeline_tag="object-detection",
        tags=["object-detection", "detectron2", model],
        base_model=start.removeprefix("hf://") if start.startswith("hf://") else None,
        metrics=[score["name"] for score in scores],
        model_name=printable(title),
        eval_results=[
            EvalResult(
                task_type="object-detection",
                dataset_type=Path(json_file).stem,
                dataset_name=printable(json_file),
                metric_type=score["name"],
                metric_value=round(score["value"], 4),
            )
            for score in scores
        ],
    )
    return data.to_yaml() + "\n"


def _describe_split(name: str, json_file: str | None) -> dict:
    """Counts and hash of a split's annotations; `-` where the file is not here."""
    row = {"name": name, "file": str(json_file or "-"), "images": "-", "boxes": "-", "hash": "-"}
    try:
        content = Path(in_project(row["file"])).read_bytes()
        coco = json.loads(content)
        counts = {"images": len(coco["images"]), "boxes": len(coco["annotations"])}
    except (KeyError, OSError, TypeError, ValueError):
        return row
    return row | counts | {"hash": hashlib.sha256(content).hexdigest()}


def _settings(run: Run) -> dict[str, str]:
    found = {name: run.setting(*key.split(".")) for name, key in SETTINGS.items()}
    if run.iterations is not None and run.iterations != found["iterations"]:
        found["iterations"] = f"{run.iterations} of {found['iterations']}"
    if run.hours:
        found["hours, without evaluations"] = f"{run.hours:.2f}"
    return {name: _text(value) for name, value in found.items() if value is not None}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _compare(default: dict, config: dict) -> dict[str, tuple[str, str]]:
    """{setting: (its value here, in the default config)}."""
    found = differences([config, default])
    found.pop("train.device", None)  # of "auto", what the machine had
    return {key: (str(here), str(there)) for key, (here, there) in found.items()}


def _starts(run: Run, folder: str) -> list[dict[str, str]]:
    """The weights that a training began with, with the licenses that it has logged."""
    try:
        log = (Path(folder) / "log.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        log = ""
    starts = dict(LOGGED.findall(log))
    checkpoint = str(run.setting("train", "init_checkpoint") or "")
    name = checkpoint.removeprefix("hf://")
    if checkpoint and not any(logged.startswith(name) for logged in starts):
        is_zoo = checkpoint.startswith("detectron2://")
        starts[checkpoint] = MODEL_ZOO if is_zoo else NOT_KNOWN
    backbone = run.setting("model", "backbone", "bottom_up") or {}
    if not starts and backbone.get("pretrained"):  # of timm
        starts[str(backbone.get("model_name"))] = NOT_KNOWN
    return [{"name": name, "license": license} for name, license in starts.items()]


def _commands(config_file: str, folder: str) -> str:
    checkpoint = Path(folder, "model_best.pth").as_posix()
    config = Path(folder, "config.yaml").as_posix()
    predict = ["python", "predict.py", "--config-file", config, "--checkpoint", checkpoint]
    return "\n".join(
        shlex.join([*predict, images, "--output", "predictions.json"])
        for images in ("photos", "datasets/test.json")
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": as_text, "code": as_code, "fixed": _fixed}
    return environment


def as_text(text: str) -> str:
    """Markdown that shows every character of a text, in a table's cell too."""
    # a colon too where it begins the name of an emoji
    return re.sub(r"([\\`*_\[\]<>#|~&!$@{}]|:(?=\w+:))", r"\\\1", printable(str(text)))


def as_code(text: str) -> str:
    """A text as a code span, in a table's cell too."""
    text = printable(str(text)) or " "
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    edge = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{edge}{text}{edge}{fence}".replace("|", r"\|")


def _fixed(value: float | None, decimals: int) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.{decimals}f}"
