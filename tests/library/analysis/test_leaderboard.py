"""tools/leaderboard.py: all runs, the best first, whatever state they are in."""

import csv
import json
import subprocess
import sys
from itertools import pairwise

import pytest
from conftest import PROJECT_ROOT
from detection.classes import CLASSES
from wcwidth import wcswidth

CONFIG = """\
dataloader:
  train:
    total_batch_size: 8
    mapper:
      augmentations:
      - {{_target_: detectron2.data.transforms.ResizeShortestEdge, short_edge_length: [128]}}
      - {{_target_: detectron2.data.transforms.RandomFlip, horizontal: true}}
dataset: {{fold: {fold}}}
model:
  _target_: {model}
  input_shape: !!python/object/new:detectron2.layers.shape_spec.ShapeSpec [{channels}, 7, 7, null]
  activation: !!python/name:torch.nn.modules.activation.ReLU ''
optimizer: {{_target_: torch.optim.SGD, lr: {lr}}}
train:
  best_checkpointer: {{mode: {mode}, val_metric: {metric}}}
  max_iter: 100
  output_dir: output/{fold}{lr}
"""


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


def write_run(folder, rows, **settings):
    """A folder as a training leaves it; settings of the config, or none for no config.yaml."""
    folder.mkdir(parents=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "metrics.json").write_text("\n".join(lines), encoding="utf-8")
    if settings:
        defaults = {"fold": 0, "lr": 0.01, "model": "a.FasterRCNN", "channels": 64}
        defaults |= {"mode": "max", "metric": "bbox/AP50"}
        text = CONFIG.format(**defaults | settings)
        (folder / "config.yaml").write_text(text, encoding="utf-8")


def rows(*scores, seconds=1.8):
    """Evaluations of AP50 at 50, 100, … iterations; AP is half of it."""
    return [
        {"iteration": 50 * k + 49, "time": seconds, "bbox/AP50": ap50, "bbox/AP": ap50 / 2}
        for k, ap50 in enumerate(scores)
    ]


def board(output, *arguments, check=True):
    command = [sys.executable, "tools/leaderboard.py", str(output), *arguments]
    process = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, encoding="utf-8")
    assert "Traceback" not in process.stderr
    assert process.returncode == (0 if check else 2), process.stderr
    return process.stdout if check else process.stderr


def read_table(text):
    """{run: {column: text}}, by where the rule's dashes stand."""
    head, rule, *lines = text.splitlines()
    ends, at = [], 0
    for dashes in rule.split("  "):
        ends.append((at, at + len(dashes)))
        at += len(dashes) + 2
    columns = [head[a:b].strip() for a, b in ends]
    return {
        cells[0]: dict(zip(columns, cells, strict=True))
        for cells in ([_cut(line, a, b) for a, b in ends] for line in lines)
    }


def _cut(line, start, end):
    """What stands between two columns of the terminal, where Korean letters take two each."""
    return "".join(c for k, c in enumerate(line) if start <= wcswidth(line[:k]) < end).strip()


def test_the_table(output):
    write_run(output / "첫 실험", rows(40, 60), fold=0)
    write_run(output / "sweep" / "a1b2", rows(80, 70, seconds=3.6), lr=0.02)
    write_run(output / "sweep" / "c3d4", rows(20), channels=32)
    write_run(output / "other", rows(50, 50), model="b.RetinaNet")
    (output / "sweep" / "a1b2" / "inference").mkdir()
    (output / "sweep" / "a1b2" / "inference" / "metrics.json").write_text("")
    table = read_table(board(output))
    assert list(table) == ["sweep/a1b2", "첫 실험", "other", "sweep/c3d4"]
    assert table["sweep/a1b2"] == {
        "run": "sweep/a1b2",
        "bbox/AP50": "80.00",
        "bbox/AP": "40.00",
        "at": "50",
        "iterations": "100",
        "of": "100",
        "finished": "yes",
        "hours": "0.10",
        "differs in": "lr=0.02",
    }
    assert table["첫 실험"]["at"] == "100" and table["첫 실험"]["differs in"] == ""
    assert table["sweep/c3d4"]["finished"] == "no" and table["sweep/c3d4"]["iterations"] == "50"
    assert table["sweep/c3d4"]["differs in"] == "input_shape=[32, 7, 7, null]"
    assert table["other"]["differs in"] == "model=RetinaNet"


def test_another_metric_and_a_csv(output, tmp_path):
    write_run(output / "a", [{**row, "total_loss": 2} for row in rows(60, 40)], lr=0.1)
    write_run(output / "b", [{**row, "total_loss": 1} for row in rows(30, 50)], lr=0.2)
    file = tmp_path / "new" / "runs.csv"
    table = read_table(board(output, "--metric", "total_loss", "--csv", str(file)))
    assert list(table) == ["b", "a"]  # the lower loss first
    # of two values neither is the usual one
    assert [row["differs in"] for row in table.values()] == ["lr=0.2", "lr=0.1"]
    with file.open(encoding="utf-8", newline="") as f:
        read = list(csv.DictReader(f))
    assert [(r["run"], float(r["total_loss"]), r["optimizer.lr"]) for r in read] == [
        ("b", 1, "0.2"),
        ("a", 2, "0.1"),
    ]
    assert "did you mean bbox/AP50?" in board(output, "--metric", "bbox/AP5", check=False)


def test_what_is_noise_and_what_is_not(output, tmp_path):
    """Of 30 images with a box each "best" finds all, "close" all but one, "far" half."""
    box = {"category_id": 0, "bbox": [0.0, 0.0, 10.0, 10.0]}
    coco = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 50, "height": 50} for i in range(30)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES)],
        "annotations": [{**box, "id": i + 1, "image_id": i, "area": 100.0} for i in range(30)],
    }
    val = tmp_path / "val.json"
    val.write_text(json.dumps(coco, ensure_ascii=False), encoding="utf-8")
    for name, found, value in (("best", 30, 1.0), ("close", 29, 0.97), ("far", 15, 0.5)):
        row = {"iteration": 9, "competition/mAP50": value}
        write_run(output / name, [row], metric="competition/mAP50")
        config = (output / name / "config.yaml").read_text()
        config = config.replace("dataset: {fold: 0}", f"dataset: {{val: {{json_file: '{val}'}}}}")
        (output / name / "config.yaml").write_text(config)
        results = [{**box, "image_id": i, "score": 0.9} for i in range(found)]
        (output / name / "inference").mkdir()
        (output / name / "inference" / "best.json").write_text(json.dumps(results))
    write_run(output / "unknown", [{"iteration": 9, "competition/mAP50": 0.1}])
    table = read_table(board(output))
    behind = {name: row["against the best (95 %)"] for name, row in table.items()}
    assert behind["best"] == behind["unknown"] == "-"
    assert behind["close"].startswith("-0.0") and "within noise" in behind["close"]
    assert behind["far"].startswith("-0.4950 (") and "noise" not in behind["far"]


def test_a_metric_of_which_less_is_better(output):
    for name, score in (("a", 3), ("b", 1), ("c", 2)):
        write_run(output / name, [{"iteration": 9, "err": score}], metric="err", mode="min")
    assert list(read_table(board(output))) == ["b", "c", "a"]


def test_runs_that_were_cut_off(output):
    write_run(output / "whole", rows(10, 20), lr=0.01)
    write_run(output / "mid line", rows(30, 40), lr=0.01)
    file = output / "mid line" / "metrics.json"
    file.write_text(file.read_text()[:-20])
    write_run(output / "mid letter", [*rows(25), {"iteration": 99, "bbox/AP-종": 1}], lr=0.01)
    file = output / "mid letter" / "metrics.json"
    file.write_bytes(file.read_bytes().partition("종".encode())[0] + "종".encode()[:1])
    write_run(output / "unevaluated", [{"iteration": 19, "time": 1, "total_loss": 3}], lr=0.01)
    write_run(output / "empty", [], lr=0.01)
    write_run(output / "garbage", [[1], [2]], lr=0.01)
    (output / "garbage" / "config.yaml").write_text("a: [")
    write_run(output / "without config", rows(15))
    table = read_table(board(output))
    assert list(table)[:4] == ["mid line", "mid letter", "whole", "without config"]
    assert table["mid line"]["bbox/AP50"] == "30.00" and table["mid line"]["finished"] == "no"
    assert table["without config"]["of"] == table["without config"]["finished"] == "-"
    assert table["unevaluated"]["bbox/AP50"] == "-"
    assert table["unevaluated"]["iterations"] == "20"
    for name in ("empty", "garbage"):
        assert table[name]["bbox/AP50"] == table[name]["iterations"] == "-"
    assert {row["differs in"] for row in table.values()} == {""}


def test_values_that_no_run_writes(output):
    """Aliases that explode or hold themselves, lists too deep, numbers too large."""
    write_run(output / "sound", rows(10), lr=0.01)
    bomb = "a: &a [x]\n" + "".join(
        f"{n}: &{n} [{', '.join([f'*{m}'] * 9)}]\n" for m, n in pairwise("abcdefghijk")
    )
    texts = {"bomb": bomb, "loop": "a: &a [*a]\n", "deep": f"a: {'[' * 900}{']' * 900}\n"}
    for name, text in texts.items():
        write_run(output / name, [*rows(5), {"iteration": 7, "bbox/AP": 10**400}], lr=0.01)
        (output / name / "config.yaml").write_text(text)
    nested = '{"iteration": ' + "[" * 50_000
    (output / "bomb" / "metrics.json").write_text(f'{nested}\n{{"iteration": 1}}\n')
    table = read_table(board(output))
    assert next(iter(table)) == "sound"
    assert {table[name]["bbox/AP50"] for name in ("loop", "deep")} == {"5.00"}
    assert table["bomb"]["bbox/AP50"] == "-"


def test_hours_count_what_a_resume_repeated_once(output):
    whole, resumed = rows(1, 2, 3), rows(1, 2)
    write_run(output / "whole", whole, lr=0.01)
    write_run(output / "resumed", [*resumed, *whole[1:]], lr=0.01)
    table = read_table(board(output))
    assert table["resumed"]["hours"] == table["whole"]["hours"] == "0.07"


def test_fast_dev_runs_are_left_out(output):
    write_run(output / "a", rows(40, 60), lr=0.1)
    write_run(output / "b", rows(30, 50), lr=0.1)
    for name in ("a", "sweep/c"):  # the folders that train_net.py --fast-dev-run names
        dev = {"lr": 0.5, "fold": 1, "model": "b.RetinaNet"}
        write_run(output / f"{name}_fast_dev_run", rows(99), **dev)
    text = board(output)
    table = read_table(text)
    assert list(table) == ["a", "b"]
    assert {row["differs in"] for row in table.values()} == {""}


def test_nothing_there(tmp_path):
    assert "has no training in it" in board(tmp_path / "nowhere", check=False)


def test_needs_no_heavy_library():
    code = "import sys, detection.workshop.analysis.leaderboard; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=True)
