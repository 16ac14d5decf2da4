"""Data and submissions by Kaggle's command; a stand-in prints what release 2.2.5 does."""

import json
import os
import stat
import sys
import zipfile

import pytest
from tools import kaggle_competition

COMMAND = """#!{python}
import json, os, sys, zipfile
json.dump(sys.argv[1:], open({arguments!r}, "w"))
print("  50%|#####     |", file=sys.stderr, end="\\r")
answer = {answer!r}
if answer.startswith("zip "):
    with zipfile.ZipFile(os.path.join(sys.argv[-1], sys.argv[3] + ".zip"), "w") as archive:
        for name in answer.split()[1:]:
            archive.writestr(name, "new")
    answer = ""
elif answer:
    sys.exit(answer)
print("Successfully submitted to Trash")
"""
NO_KEY = """Authentication required to call the Kaggle API.

First, you will need a Kaggle account. You can sign up at
  https://www.kaggle.com/account/login
"""
FORBIDDEN = """You must accept this competition's rules before you'll be able to download files.

You don't have access to this resource.
If this is a competition, you may need to accept its rules first at
  https://www.kaggle.com/competitions/<competition>/rules
"""
OLD_FORBIDDEN = (
    "403 Client Error: Forbidden for url: https://www.kaggle.com/api/v1/competitions/data"
)
NOT_FOUND = "The resource was not found. Check the spelling of the reference you passed."
BROKEN = "Traceback (most recent call last):\nModuleNotFoundError: No module named 'six'"
NO_NETWORK = "HTTPSConnectionPool(host='api.kaggle.com', port=443): Max retries exceeded"


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """Installs a command that gives an answer; returns what reads its last arguments."""
    (folder := tmp_path / "bin").mkdir()
    arguments = tmp_path / "arguments.json"
    monkeypatch.setenv("PATH", str(folder))

    def install(answer=""):
        command = folder / "kaggle"
        values = {"python": sys.executable, "arguments": str(arguments), "answer": answer}
        command.write_text(COMMAND.format(**values))
        command.chmod(command.stat().st_mode | stat.S_IEXEC)
        return lambda: json.loads(arguments.read_text())

    install.folder = folder
    return install


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (None, "uv tool install kaggle"),
        (NO_KEY, "kaggle auth login"),
        (FORBIDDEN, "https://www.kaggle.com/competitions/trash/rules"),
        (OLD_FORBIDDEN, "https://www.kaggle.com/competitions/trash/rules"),
        (NOT_FOUND, "COMPETITION"),
        (BROKEN, "--with six"),
        (NO_NETWORK, "Max retries exceeded"),
    ],
)
@pytest.mark.parametrize("part", ["download", "submit"])
def test_what_the_command_refuses_is_one_line(part, answer, named, kaggle, tmp_path, capsys):
    if answer is not None:
        kaggle(answer)
    (file := tmp_path / "submission.csv").write_text("image_id\n")
    options = {
        "download": ["--output", str(tmp_path)],
        "submit": ["--file", str(file), "--message", "x"],
    }
    assert kaggle_competition.main([part, "trash", *options[part]]) == 2
    shown = capsys.readouterr().err.splitlines()
    lines = [line for line in shown if line and "%|" not in line]
    assert len(lines) == 1 and named in lines[0]


def test_data_are_unpacked_beside_what_is_there(kaggle, tmp_path, capsys):
    data = tmp_path / "내 데이터"
    (data / "train").mkdir(parents=True)
    (data / "train/1.jpg").write_text("mine")
    arguments = kaggle("zip train/1.jpg train/2.jpg sample_submission.csv")
    address = "https://www.kaggle.com/competitions/trash/"
    assert kaggle_competition.main(["download", address, "--output", str(data)]) == 0
    assert arguments() == ["competitions", "download", "trash", "--path", str(data)]
    assert (data / "train/1.jpg").read_text() == "mine"
    assert (data / "train/2.jpg").read_text() == "new"
    assert not (data / "trash.zip").exists()
    out = capsys.readouterr().out
    assert "2 files" in out and "train/1.jpg" in out


def test_archive_cannot_write_outside(kaggle, tmp_path, capsys):
    kaggle("zip ../outside.txt")
    assert kaggle_competition.main(["download", "trash", "--output", str(tmp_path / "data")]) == 2
    assert "outside" in capsys.readouterr().err and not (tmp_path / "outside.txt").exists()


def test_message_is_the_run_and_its_score(kaggle, tmp_path, monkeypatch):
    (run := tmp_path / "한글 실험").mkdir()
    best = {"metric": "competition/mAP50", "value": 0.61237, "iteration": 9}
    (run / "model_best.json").write_text(json.dumps(best))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "submission.csv").touch()
    arguments = kaggle()
    assert kaggle_competition.main(["submit", "trash", "--run", str(run)]) == 0
    assert arguments()[2:] == [
        *("trash", "--file", "submission.csv", "--message", "한글 실험 mAP50 0.6124")
    ]
    notebook = ["--kernel", "me/trash-predict", "--version", "3"]
    assert kaggle_competition.main(["submit", "trash", "--run", str(run), *notebook]) == 0
    assert arguments()[-4:] == notebook


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["submit", ""], "COMPETITION"),
        (["submit", "trash"], "--run"),
        (["submit", "trash", "--run", "output/none"], "output/none"),
        (["submit", "trash", "--message", "x", "--file", "none.csv"], "none.csv"),
        (["submit", "trash", "--message", "x", "--version", "2"], "--kernel"),
    ],
)
def test_mistakes_are_reported_before_anything_is_sent(args, named, kaggle, capsys):
    arguments = kaggle()
    assert kaggle_competition.main(args) == 2
    assert named in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        arguments()


def test_damaged_archive_is_named(tmp_path, kaggle, capsys):
    kaggle()
    (tmp_path / "trash.zip").write_bytes(b"PK\x03\x04 cut off")
    assert kaggle_competition.main(["download", "trash", "--output", str(tmp_path)]) == 2
    assert "trash.zip: is damaged" in capsys.readouterr().err
    assert not zipfile.is_zipfile(tmp_path / "trash.zip") and os.listdir(tmp_path)
