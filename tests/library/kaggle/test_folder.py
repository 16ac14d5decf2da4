"""What a folder for Kaggle is called, what it refuses, and which images its notebook finds."""

import json
import re
import subprocess
import sys

import pytest
from conftest import PROJECT_ROOT
from detection.utils.errors import UserError
from detection.workshop.kaggle import wheels
from detection.workshop.kaggle.folder import slug
from detection.workshop.kaggle.image import KAGGLE, read_image
from detection.workshop.kaggle.images import find_images, find_sample, names_in_sample
from detection.workshop.kaggle.notebooks import prediction_notebook, training_notebook
from detection.workshop.submission.formats import FORMATS
from tools import kaggle_folder


@pytest.mark.parametrize(
    "name", ["recycling_trash.2", "재활용 쓰레기", "C", "Größe!", "x" * 90, ""]
)
def test_names_are_what_kaggle_takes(name):
    made = slug(name, "predict")
    assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", made)
    assert 6 <= len(made) and len(f"{made}-files") <= 50


def test_kept_list_is_of_python_and_torch_that_the_project_takes():
    image = read_image()
    assert image.python == "3.12" and len(image.packages) > 500
    assert image.packages["torch"].release >= (2, 8)
    assert re.search(r"20\d\d-\d\d-\d\d", KAGGLE.read_text())


@pytest.mark.parametrize(
    ("text", "named"),
    [("torch==2.10.0\n", "# python"), ("# python 3.12\nhello\n", "name==version"), (None, "read")],
)
def test_other_lists_are_refused(text, named, tmp_path, capsys):
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    args = ["output/x", "--user", "me", "--image", str(tmp_path / "list.txt")]
    assert kaggle_folder.main(args) == 2
    assert named in capsys.readouterr().err


def test_mistakes_leave_nothing_behind(tmp_path, capsys):
    """Before anything is resolved or downloaded."""
    (run := tmp_path / "run").mkdir()
    config = ["--train", "configs/debug/smoke.py", "dataset.val.json_file=datasets/none.json"]
    (full := tmp_path / "full").mkdir()
    (full / "mine.txt").touch()
    for args, named in (
        ([str(run)], "model_best.pth: no such checkpoint"),
        ([*config, "train.max_itr=3"], "train.max_iter"),
        (config, "no such file"),
        ([*config, "--output", str(full)], "holds something else"),
    ):
        output = [] if "--output" in args else ["--output", str(tmp_path / "made")]
        assert kaggle_folder.main([*args, *output, "--user", "me"]) == 2
        assert named in capsys.readouterr().err
    (run / "model_best.pth").touch()
    assert kaggle_folder.main([str(run), "--output", str(tmp_path / "made"), "--user", "me"]) == 2
    assert "config.yaml: is missing" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "run"]


def test_wheels_that_cannot_be_had_are_named(tmp_path, monkeypatch):
    """Upstream's main, which is compiled; no uv; and a wheel of another machine."""
    (folder := tmp_path / "wheels").mkdir()
    image = read_image()
    monkeypatch.setattr(wheels, "DETECTRON2", tmp_path / "none")
    with pytest.raises(UserError, match=r"pip wheel.*--wheel FILE"):
        wheels.gather_wheels(folder, image)
    for name in ("detectron2-0.6-cp311-cp311-linux_x86_64.whl", "detectron2.whl", "none.whl"):
        if name != "none.whl":
            (tmp_path / name).touch()
        with pytest.raises(UserError, match=name):
            wheels.gather_wheels(folder, image, given=[str(tmp_path / name)])
    (wheel := tmp_path / "detectron2-0.6-cp312-cp312-linux_x86_64.whl").touch()
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="pip install uv"):
        wheels.gather_wheels(folder, image, given=[str(wheel)])


@pytest.mark.parametrize("tool", ["kaggle_folder", "kaggle_notebook", "kaggle_competition"])
def test_help_comes_without_torch(tool):
    code = f"import sys, tools.{tool} as t\ntry: t.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=True)


def test_options_reach_the_command_as_they_are():
    """IPython replaces {names} and $names in a line that it gives to the shell."""
    options = ["train.class_loss.weights={Battery: 3}", "--images=/kaggle/input/a $x's"]
    notebook = json.loads(prediction_notebook("title", "submission.csv", options))
    line = notebook["cells"][2]["source"].splitlines()[0]
    shell = line.replace("{{", "{").replace("}}", "}").replace("$$", "$")
    seen = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {shell.split('submission.csv ')[1]}"],
        capture_output=True,
        text=True,
    ).stdout
    assert seen.splitlines() == options


@pytest.mark.parametrize(("given", "hours"), [([], "8.5"), (["train.hours=17"], "17")])
def test_training_ends_before_the_session_does(given, hours):
    text = training_notebook("title", ["--train", "configs/d_fine_M.py", *given])
    assert re.findall(r"train\.hours=([\d.]+)", text) == [hours]


@pytest.fixture
def inputs(tmp_path):
    """A competition's data: the same names in two folders, and a sample."""
    for name in ("train/1.jpg", "train/2.jpg", "test/1.jpg", "test/2.jpg", "test/3.PNG"):
        (path := tmp_path / "comp" / name).parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "comp/sample_submission.csv").write_text("image_id,PredictionString\n1,\n2,\n")
    return tmp_path


def test_images_of_the_sample_are_found_by_name(inputs):
    sample = find_sample(str(inputs), "")
    names = names_in_sample(sample, FORMATS["global_wheat"])
    root, files = find_images(names, str(inputs), "test")
    assert (root, files) == (f"{inputs}/comp/test", {"1": "1.jpg", "2": "2.jpg"})
    assert find_images(["test/3.PNG"], str(inputs), "test")[0] == f"{inputs}/comp"
    assert find_images(["1", "2", "3"], str(inputs), "x")[0] == f"{inputs}/comp/test"


@pytest.mark.parametrize(
    ("names", "split", "named"),
    [
        (["1", "4"], "test", "no image 4"),
        (["9"], "test", "no image 9"),
        (["1", "2"], "comp", "--images"),
    ],
)
def test_images_that_are_not_clear_are_named(names, split, named, inputs):
    with pytest.raises(UserError, match=named):
        find_images(names, str(inputs), split)


def test_two_samples_need_a_choice(inputs):
    (inputs / "old_sample_submission.csv").touch()
    with pytest.raises(UserError, match="--sample"):
        find_sample(str(inputs), "")
    assert find_sample(str(inputs), str(inputs / "comp")) == f"{inputs}/old_sample_submission.csv"
