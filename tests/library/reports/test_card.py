"""tools/card.py: the card says what the report and the configs say, and any name is safe in it."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import card as tool
import pytest
import yaml
from detection.evaluation.average_precision import average_precision
from detection.workshop.reports.card import as_code, as_text
from huggingface_hub import ModelCard
from test_report import NAMES, classes, planted

__all__ = ["classes", "planted"]

HISTORY = [
    {"iteration": 19, "total_loss": 2.5, "time": 36.0, "bbox/AP": 10.0},
    {"iteration": 39, "total_loss": 1.5, "time": 36.0, "bbox/AP": 30.0},
]


@pytest.fixture(scope="module")
def run(planted, tmp_path_factory) -> Path:
    """A training's output folder, of faster_rcnn_R_50_FPN.py with another learning rate."""
    folder = tmp_path_factory.mktemp("out") / "faster_rcnn_R_50_FPN_종이 [a]|b"
    folder.mkdir()
    overrides = ["optimizer.lr=0.5", "train.max_iter=40", "train.init_checkpoint=hf://me/model"]
    overrides += [f"dataset.{split}.json_file={planted}/val.json" for split in ("train", "val")]
    config = tool.plain_config("configs/faster_rcnn_R_50_FPN.py", overrides)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    rows = "".join(json.dumps(row) + "\n" for row in HISTORY)
    (folder / "metrics.json").write_text(rows, encoding="utf-8")
    log = "[01/01 00:00:00 detection.checkpoint.hub]: weights of me/model, license: apache-2.0\n"
    (folder / "log.txt").write_text(log, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def written(planted, run) -> str:
    arguments = [str(planted / "results.json"), str(planted / "val.json"), "--run", str(run)]
    assert tool.main([*arguments, "--metric", "mAP50", "--license", "mit"]) == 0
    return (run / "card.md").read_text(encoding="utf-8")


def rows_of(text: str, head: str) -> dict[str, list[str]]:
    """{first cell: the others} of the table whose first column has that head."""
    table = text[text.index(f"| {head} |") :].split("\n\n")[0].splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table]
    assert len({len(row) for row in cells}) == 1  # no name has broken a row
    return {first.strip(): [cell.strip() for cell in others] for first, *others in cells[2:]}


def test_the_hub_reads_its_head(written, run):
    card = ModelCard(written).data
    assert (card.license, card.pipeline_tag, card.base_model) == (
        "mit",
        "object-detection",
        "me/model",
    )
    assert card.model_name == run.name
    assert [(e.metric_type, e.task_type) for e in card.eval_results] == [
        ("mAP50", "object-detection"),
        ("coco_AP", "object-detection"),
    ]


def test_scores_are_those_of_an_evaluation(written, planted):
    coco, results = (
        json.loads((planted / f"{n}.json").read_text("utf-8")) for n in ("val", "results")
    )
    expected = average_precision(coco, results)
    scores = rows_of(written, "metric")
    for name, key in (("mAP50", "AP50"), ("coco\\_AP", "AP")):
        value, between = scores[name]
        low, high = map(float, between.split(" to "))
        assert float(value) == pytest.approx(expected[key] / 100, abs=6e-5)
        assert low <= float(value) <= high and low < high
    by_class = rows_of(written, "class")
    assert by_class["all"][1] == f"{expected['AP']:.1f}"
    for name in NAMES:
        assert by_class[as_text(name)][1] == f"{expected[f'AP-{name}']:.1f}"


def test_data_settings_and_weights(written, planted):
    data = rows_of(written, "split")
    assert data["val"][1:3] == ["8", "10"] and len(data["val"][3].strip("`")) == 64
    settings = rows_of(written, "setting")
    assert settings["iterations"] == ["`40`"] and settings["learning rate"] == ["`0.5`"]
    assert settings["hours, without evaluations"] == ["`0.40`"]
    changes = written[
        written.index("Settings that differ") : written.index("Weights to start from")
    ]
    keys = set(rows_of(changes, "setting"))
    assert {"`optimizer.lr`", "`train.max_iter`", "`train.init_checkpoint`"} <= keys and len(
        keys
    ) == 5
    assert "- `me/model`, license: apache-2.0" in written


def test_curves_are_pictures_beside_it(written, run):
    files = re.findall(r"\]\((card_\w+\.svg)\)", written)
    assert files == ["card_losses.svg", "card_ap.svg"]
    for name in files:
        root = ElementTree.parse(run / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in (run / name).read_text("utf-8")


def test_no_name_is_markup(written):
    body = written.split("---\n", 2)[2]
    assert not re.search(r"(?<!\\)<", body)
    assert "{{ glass }}" not in body and as_text("{{ glass }}") in body


@pytest.mark.parametrize("name", ["a`b``c", "`", "a|b", "x\ny", "", "종이 🙂"])
def test_code_of_any_text(name):
    span = as_code(name)
    fence = re.match("`+", span)[0]
    inner = span[len(fence) : -len(fence)]
    assert fence not in re.findall("`+", inner) and "\n" not in span
    assert not re.search(r"(?<!\\)\|", span)


def test_run_without_a_config_or_log(planted, tmp_path, capsys):
    run = tmp_path / "mine"
    run.mkdir()
    (run / "metrics.json").write_text('{"iteration": 1, "lr": 0.1}\n', encoding="utf-8")
    arguments = [str(planted / "results.json"), str(planted / "val.json"), "--run", str(run)]
    assert tool.main(arguments) == 0
    assert "license: unknown" in (run / "card.md").read_text(encoding="utf-8")


def test_mistakes_are_one_line(planted, run, tmp_path, capsys):
    arguments = [str(planted / "results.json"), str(planted / "val.json"), "--run"]
    for more, told in (
        ([str(tmp_path)], "metrics.json: cannot be read"),
        ([str(run), "--metric", "x"], "--metric x"),
        ([str(run), "--config-file", "nowhere.py"], "nowhere.py: no such config file"),
        ([str(run), "--output", str(planted / "val.json")], "is what is read"),
    ):
        assert tool.main([*arguments, *more]) == 2
        error = capsys.readouterr().err
        assert told in error and len(error.splitlines()) == 1
