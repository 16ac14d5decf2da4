"""What happens to answers: good ones arrive as given, bad ones end in one line and no files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import CHOICES, QUESTIONS, TEMPLATE, read_classes, ruff
from cookiecutter.cli import main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectron2_prompts.classes import parse_classes
from detectron2_prompts.classes import read_classes as classes_as_json
from detectron2_prompts.names import check_project_slug, check_wandb_project, usable_slug
from detectron2_prompts.text import BadAnswer, markdown_text, python_items, toml_text

TRASH = [
    "General trash",
    "Paper",
    "Paper pack",
    "Metal",
    "Glass",
    "Plastic",
    "Styrofoam",
    "Plastic bag",
    "Battery",
    "Clothing",
]
HOSTILE = [
    "재활용 쓰레기",
    '5" disc',
    "it's",
    "both ' and \"",
    "a/b",
    "a\\b",
    "\\n",
    "ends with \\",
    "{{x}}",
    "{{ cookiecutter.project_slug }}",
    "{% raw %}",
    "{% endraw %}",
    "{# no comment #}",
    "{1, 2}",
    '"""',
    "'''",
    "None",
    "True",
    "#",
    "%s",
    "${x}",
    "[bold]x[/bold]",
    "🗑️",
    "👨\u200d👩\u200d👧",
    "line\u2028separator",
    "\u202eright to left",
    "no\u00a0break",
    " blanks around ",
    "a, b",
    "x" * 300,
    "50",
    "-",
]
QUESTION_NAMES = [name for name in QUESTIONS if not name.startswith("_")]

# Names that must arrive as they are: all text but controls, lone surrogates and blanks only.
class_name = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).filter(str.strip)
class_names = st.lists(class_name, min_size=1, unique=True)


def write_coco(path: Path, names: list[str]) -> str:
    categories = [{"id": id_, "name": name} for id_, name in enumerate(names)]
    path.write_text(json.dumps({"categories": categories}), encoding="utf-8")
    return str(path)


def typed(**answers: str) -> str:
    """Return what a person types: an answer to each question, Enter where there is none."""
    return "".join(f"{answers.get(name, '')}\n" for name in QUESTION_NAMES)


@pytest.fixture
def cookie(config_file, tmp_path):
    """Return a function that runs the `cookiecutter` command in this process."""
    out = tmp_path / "out"

    def run(*arguments: str, stdin: str | None = None):
        options = ["--config-file", str(config_file), "--output-dir", str(out)]
        if stdin is None and "--replay" not in arguments:
            options.append("--no-input")
        result = CliRunner().invoke(main, [*options, str(TEMPLATE), *arguments], input=stdin)
        result.projects = sorted(out.iterdir()) if out.is_dir() else []
        return result

    return run


def run_command(config_file: Path, out: Path, stdin: str, *arguments: str, **environment: str):
    """Run the command in a process of its own, as a person would."""
    command = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), *arguments]
    return subprocess.run(
        [*command, "--config-file", str(config_file), "--output-dir", str(out)],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )


# -- good answers --------------------------------------------------------------------------------


def test_only_enter_makes_a_project(config_file, tmp_path):
    result = run_command(config_file, tmp_path, "\n" * len(QUESTION_NAMES))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["recycling-trash-detection"]
    assert read_classes(tmp_path / "recycling-trash-detection") == TRASH
    assert "make demo" in result.stdout


def test_the_questions_and_their_defaults():
    assert QUESTION_NAMES == [
        "project_name",
        "project_slug",
        "classes",
        "metric_names",
        "wandb_project",
        "wandb_entity",
        "submission_format",
        "detectron2_source",
    ]
    defaults = {name: answers[0] for name, answers in CHOICES.items()}
    assert defaults == {
        "metric_names": "mmdet2",
        "submission_format": "recycling_trash",
        "detectron2_source": "pypi",
    }
    assert not re.search("key|token|password|secret", json.dumps(QUESTIONS), re.IGNORECASE)


def test_the_default_classes_are_those_of_the_competition(data_dir):
    file = data_dir / "recycling_trash" / "train.json"
    assert parse_classes(str(file)) == parse_classes(QUESTIONS["classes"]) == TRASH


def test_typed_names_arrive_exactly(config_file, tmp_path):
    names = [name.strip() for name in HOSTILE]
    answer = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    result = run_command(config_file, tmp_path, typed(classes=answer, project_slug="x"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert read_classes(tmp_path / "x") == names


def test_a_typed_json_list_arrives_exactly(cookie):
    result = cookie(stdin=typed(classes=json.dumps(HOSTILE, ensure_ascii=False)))
    assert result.exit_code == 0, result.output
    assert read_classes(result.projects[0]) == HOSTILE


def test_names_in_a_coco_file_arrive_exactly(bake, tmp_path):
    assert read_classes(bake(classes=write_coco(tmp_path / "a.json", HOSTILE))) == HOSTILE


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=class_names)
def test_any_names_in_a_coco_file_arrive_exactly(bake, tmp_path, names):
    project = bake(fresh=True, classes=write_coco(tmp_path / "any.json", names))
    assert read_classes(project) == names


@settings(max_examples=300, deadline=None)
@given(names=class_names)
def test_any_names_survive_being_written_and_read(names):
    as_json = classes_as_json(json.dumps(names))
    assert eval(f"[{python_items(as_json)}\n]") == names
    # What is kept of the answer is the same answer, and no braces that a later run would render.
    assert classes_as_json(as_json) == as_json
    assert "{" not in as_json


@settings(max_examples=300, deadline=None)
@given(names=class_names)
def test_any_names_survive_a_quoted_comma_list(names):
    answer = " , ".join('"' + name.replace('"', '""') + '"' for name in names)
    assert parse_classes(answer) == names


@settings(max_examples=50, deadline=None)
@given(names=class_names)
def test_ruff_would_write_the_list_the_same_way(names):
    source = f"CLASSES = [{python_items(json.dumps(names))}\n]\n"
    options = ["--isolated", "--line-length=100"]
    formatted = ruff("format", *options, "-", input=source.encode(), check=True)
    assert formatted.stdout.decode() == source


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("  a ,\tb\u3000,  c d  ", ["a", "b", "c d"]),
        ('"a, b", c', ["a, b", "c"]),
        ('"a, b" , c', ["a, b", "c"]),
        ('" a "', [" a "]),
        ('"say ""x"""', ['say "x"']),
        ('5", 7"', ['5"', '7"']),
        ("it's, o'clock", ["it's", "o'clock"]),
        ("a\\, b", ["a\\", "b"]),
        ('"annotations.json"', ["annotations.json"]),
        ('["a", "b, c"]', ["a", "b, c"]),
        ('[" a "]', [" a "]),
        ('["\\u007b\\u007bx}}"]', ["{{x}}"]),
    ],
)
def test_forms_of_a_list(answer, names):
    assert parse_classes(answer) == names


def test_the_order_is_that_of_the_category_ids(tmp_path):
    path = tmp_path / "sparse.json"
    categories = [{"id": 90, "name": "z"}, {"id": 0, "name": "b"}, {"id": 7, "name": "a"}]
    path.write_text(json.dumps({"images": [], "categories": categories}))
    assert parse_classes(str(path)) == ["b", "a", "z"]


ROOT = [
    {"id": 0, "name": "peixos", "supercategory": "none"},
    {"id": 1, "name": "peix", "supercategory": "peixos"},
]


def category(id_: int, name: str, parent: str = "none") -> dict:
    return {"id": id_, "name": name, "supercategory": parent}


@pytest.mark.parametrize(
    ("categories", "used", "names", "left_out"),
    [
        (ROOT, [1, 1], ["peix"], ["category 0"]),
        (ROOT, [0, 1], ["peixos", "peix"], []),
        (ROOT, [], ["peixos", "peix"], []),  # such as a test.json, of which nobody can say
        (ROOT, None, ["peixos", "peix"], []),
        ([category(0, "a"), category(1, "a", "a"), category(2, "b", "a")], [1], ["a", "b"], ["0"]),
        ([category(0, "a"), category(1, "a", "a")], [], ["a"], ["category 0"]),
        ([category(1, "a"), category(2, "a")], [1], ["a"], ["category 2"]),
        ([category(1, "person", "person"), category(2, "car")], [2], ["person", "car"], []),
        ([category(1, "a", "b"), category(2, "b", "a")], [7], ["a", "b"], []),
        (
            [category(0, "x"), category(1, "y", "x"), category(2, "z", "y")],
            [2],
            ["z"],
            ["category 0", "category 1"],
        ),
    ],
)
def test_a_category_that_is_no_class_is_left_out(
    cookie, tmp_path, categories, used, names, left_out
):
    annotations = {} if used is None else {"annotations": [{"category_id": id_} for id_ in used]}
    path = tmp_path / "roboflow.json"
    path.write_text(json.dumps({"categories": categories, **annotations}))
    result = cookie(f"classes={path}")
    assert result.exit_code == 0, result.output
    assert read_classes(result.projects[0]) == names
    notes = [line for line in result.output.splitlines() if "left out" in line]
    assert len(notes) == len(left_out)
    assert all(which in note for which, note in zip(left_out, notes, strict=True))


@pytest.mark.parametrize(
    ("answer", "alike"),
    [("Fish, cat, fish", True), ('"fish",car,"fi sh "', True), ("fish, fishes", False)],
)
def test_names_alike_but_for_case_and_blanks_are_named(cookie, answer, alike):
    result = cookie(f"classes={answer}")
    assert result.exit_code == 0, result.output
    assert len(read_classes(result.projects[0])) == len(answer.split(","))
    assert sum("case or blanks" in line for line in result.output.splitlines()) == alike


def test_a_path_may_start_at_home_or_here_and_may_hold_blanks(tmp_path, monkeypatch):
    (tmp_path / "my data").mkdir()
    write_coco(tmp_path / "my data" / "train.JSON", ["a"])
    write_coco(tmp_path / "no_suffix", ["b"])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert parse_classes("~/my data/train.JSON") == ["a"]
    assert parse_classes("my data/train.JSON") == ["a"]
    assert parse_classes('"my data/train.JSON"') == ["a"]
    assert parse_classes("'my data/train.JSON'") == ["a"]
    assert parse_classes("no_suffix") == ["b"]


def test_a_byte_order_mark_is_no_part_of_a_json_file(tmp_path):
    path = tmp_path / "bom.json"
    path.write_text('{"categories": [{"id": 1, "name": "a"}]}', encoding="utf-8-sig")
    assert parse_classes(str(path)) == ["a"]


def test_a_path_in_the_answers_is_replaced_by_the_names(cookie, config_file, tmp_path):
    path = write_coco(tmp_path / "gone.json", HOSTILE)
    assert cookie(stdin=typed(classes=path)).exit_code == 0
    Path(path).unlink()
    replay = config_file.parent / "replay" / f"{TEMPLATE.name}.json"
    answers = json.loads(replay.read_text(encoding="utf-8"))["cookiecutter"]
    assert json.loads(answers["classes"]) == HOSTILE

    again = cookie("--replay", "--overwrite-if-exists")
    assert again.exit_code == 0, again.output
    assert read_classes(again.projects[0]) == HOSTILE

    # An update of the project passes the answers as values, which cookiecutter renders.
    updated = cookie(f"classes={answers['classes']}", "project_slug=updated")
    assert updated.exit_code == 0, updated.output
    assert read_classes(updated.projects[-1]) == HOSTILE


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Global Wheat!", "global-wheat"),
        ("재활용 쓰레기", "jaehwalyong-sseuregi"),
        ("🧪", "detection"),
        ("Torch", "torch-detection"),
        ("con", "con-detection"),
        ("x" * 90 + " y", "x" * 60),
    ],
)
def test_the_slug_offered_is_always_accepted(bake, name, slug):
    assert bake(project_name=name).name == slug


@given(st.text(st.characters(codec="ascii"), max_size=60))
def test_a_usable_slug_is_one_that_the_check_accepts(text):
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    assert check_project_slug(usable_slug(slug)) == ""


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_toml_reads_back_what_was_written(text):
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    assert tomllib.loads(f'x = "{toml_text(text)}"')["x"] == text


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=128))
def test_an_accepted_wandb_project_is_a_python_string_as_it_stands(name):
    try:
        check_wandb_project(name)
    except BadAnswer:
        return
    assert eval(f'"{name}"') == name


def test_markdown_shows_markup_as_text():
    assert markdown_text("A <b>*x*</b> [y](z)") == r"A \<b\>\*x\*\</b\> \[y\](z)"
    assert markdown_text("Global Wheat 2 (final)") == "Global Wheat 2 (final)"


# -- bad answers ---------------------------------------------------------------------------------

BAD_TYPED = [("project_name", "a {{x}}", "update"), ("project_name", "{% raw %}", "update")]
BAD = [
    ("project_name", "x" * 101, "100"),
    ("project_slug", "a b", "letters"),
    ("project_slug", ".hidden", "letters"),
    ("project_slug", "-x", "letters"),
    ("project_slug", "x.", "letters"),
    ("project_slug", "a/b", "letters"),
    ("project_slug", "..", "letters"),
    ("project_slug", "재활용", "letters"),
    ("project_slug", "x" * 101, "100"),
    ("project_slug", "NUL", "Windows"),
    ("project_slug", "com1.txt", "Windows"),
    ("project_slug", "Detectron2", "depends"),
    ("project_slug", "hydra_core", "depends"),
    ("classes", ",", "class 1"),
    ("classes", "a,,b", "class 2"),
    ("classes", "a, b,", "class 3"),
    ("classes", 'a, "", b', "class 2"),
    ("classes", "a, b, a", '"a"'),
    ("classes", '"a, b', "quotes"),
    ("classes", 'c,  "a, b', "quotes"),
    ("classes", '"big" box', "quotes"),
    ("classes", "a\x01b", r"\x01"),
    ("classes", "~\x00", r"\x00"),
    ("classes", "~\x00/a.json", r"\x00"),
    ("classes", "'~\x00'", r"\x00"),
    ("classes", '["a", ' + "[" * 400 + "]" * 400 + "]", "class 2"),
    ("classes", "x" * 1001, "1001"),
    ("classes", "[]", "nothing given"),
    ("classes", "[a]", "JSON"),
    ("classes", '["a", 1]', "class 2"),
    ("classes", '["a", "a"]', '"a"'),
    ("classes", '["a\\nb"]', r"\n"),
    ("classes", '["\\ud800"]', r"\ud800"),
    ("classes", '["a", " "]', "class 2"),
    ("classes", "no/such/file.json", "no/such/file.json"),
    ("classes", "~/no-such-file.json", "check the path"),
    ("wandb_project", "a/b", '"/"'),
    ("wandb_project", "a\\b", r'"\\"'),
    ("wandb_project", "a#b", '"#"'),
    ("wandb_project", "100%", '"%"'),
    ("wandb_project", 'a"b', "'\"'"),
    ("wandb_project", "a'b", '"\'"'),
    ("wandb_project", "}}", '"}"'),
    ("wandb_project", "x" * 129, "128"),
    ("wandb_project", "a\x07b", r"\x07"),
    ("wandb_entity", "team/project", '"/"'),
    ("wandb_entity", "x" * 129, "128"),
]


def assert_one_line(result, question: str, expected: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    line = result.output[result.output.rindex(f"{question}: ") :]
    assert line.endswith(".\n")
    assert len(line.splitlines()) == 1
    assert expected in line
    assert result.projects == []


@pytest.mark.parametrize(("question", "answer", "expected"), BAD + BAD_TYPED)
def test_a_bad_answer_typed_ends_in_one_line(cookie, question, answer, expected):
    result = cookie(stdin=typed(**{question: answer}))
    assert_one_line(result, question, expected)
    asked = [int(n) for n in re.findall(r"\[(\d)/8\]", result.output)]
    assert max(asked) == QUESTION_NAMES.index(question) + 1, "it asked on"


@pytest.mark.parametrize(("question", "answer", "expected"), BAD)
def test_a_bad_answer_given_ends_in_one_line(cookie, question, answer, expected):
    result = cookie(f"{question}={answer}")
    assert_one_line(result, question, expected)
    assert result.output.startswith(f"{question}: "), "there is more than the line"


@pytest.mark.parametrize("question", ["project_name", "project_slug", "classes", "wandb_project"])
def test_an_empty_answer_given_ends_in_one_line(cookie, question):
    assert_one_line(cookie(f"{question}="), question, "nothing given")


@pytest.mark.parametrize("character", ["\n", "\t", "\x00", "\x7f", "\u2028", "\ud800"])
def test_a_control_character_in_the_project_name_ends_in_one_line(cookie, character):
    assert_one_line(cookie(f"project_name=a{character}b"), "project_name", "control character")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not JSON"),
        (b"a,b", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"categories": [{"id": ' + b"9" * 5000 + b"}]}", "not JSON"),
        (b'{"categories": [{"id": 1e999, "name": "a"}]}', "categories[0]"),
        (b'{"categories": [{"id": 1, "name": "' + b"x" * 10**8 + b'"}]}', "100000000"),
        ('{"categories": [{"id": 1, "name": "종이"}]}'.encode("cp949"), "UTF-8"),
        (b"[]", "no categories"),
        (b'"categories"', "no categories"),
        (b"{}", "no categories"),
        (b'{"categories": null}', "no categories"),
        (b'{"categories": {}}', "no categories"),
        (b'{"categories": []}', "no categories"),
        (b'{"categories": ["a"]}', "categories[0]"),
        (b'{"categories": [{"id": 1, "name": "a"}, {"id": 2}]}', "categories[1]"),
        (b'{"categories": [{"name": "a"}]}', "categories[0]"),
        (b'{"categories": [{"id": 1, "name": 5}]}', "categories[0]"),
        (b'{"categories": [{"id": 1, "name": null}]}', "categories[0]"),
        (b'{"categories": [{"id": "1", "name": "a"}]}', "categories[0]"),
        (b'{"categories": [{"id": true, "name": "a"}]}', "categories[0]"),
        (b'{"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "categories[1]"),
        (b'{"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}', "class 2"),
        (b'{"categories": [{"id": 1, "name": ""}]}', "class 1"),
        (b'{"categories": [{"id": 1, "name": "a\\nb"}]}', r"\n"),
        (b'{"categories": [{"id": 1, "name": "\\udc80"}]}', r"\udc80"),
    ],
)
def test_a_bad_file_ends_in_one_line(cookie, tmp_path, content, expected):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    assert_one_line(cookie(f"classes={path}"), "classes", expected)


def test_a_folder_for_a_file_ends_in_one_line(cookie, tmp_path):
    (tmp_path / "folder.json").mkdir()
    assert_one_line(cookie(f"classes={tmp_path / 'folder.json'}"), "classes", "cannot read")


def test_the_line_reaches_a_terminal_that_cannot_show_the_name(config_file, tmp_path):
    arguments = ["--no-input", "classes=종이, 종이"]
    result = run_command(config_file, tmp_path, "", *arguments, PYTHONIOENCODING="cp1252")
    assert result.returncode == 1
    assert result.stderr == ""
    assert r"\uc885\uc774" in result.stdout
    assert list(tmp_path.iterdir()) == []
