"""Turns the answers to the questions in cookiecutter.json into data, and refuses bad ones.

cookiecutter loads `AnswersExtension` before the first prompt. Right after a question, a private
variable passes its answer to the filter that checks it. A bad answer raises `BadAnswer`: one
line, exit status 1, nothing written. `read_classes` also replaces the answer: whatever form it
had, it becomes a JSON list, so that no path of this computer reaches the project, and a replay or
an update reads the same names on another computer.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension

# What a folder may not be called on Windows, with or without an extension.
WINDOWS_DEVICES = {"con", "prn", "aux", "nul"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in range(10)
}
# What the generated pyproject.toml depends on: a project of that name would depend on itself.
DEPENDENCIES = set(
    "detectron2 fvcore hotcoco huggingface-hub hydra-core imagehash iopath jinja2 "
    "markupsafe matplotlib numpy omegaconf opencv-python-headless pillow pre-commit pycocotools "
    "pytest pytest-timeout pyyaml ruff safetensors scikit-learn scipy simplejpeg submitit "
    "tabulate tensorboard timm torch torchvision tqdm transformers wandb wcwidth".split()
)
# W&B refuses the first six; the others would end or change the Python string that they land in.
WANDB_FORBIDDEN = "/#?%:\\" + "'\"`{}"
WANDB_LONGEST = 128
CLASS_LONGEST = 1000

CSV_FIELD = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",\s][^,]*)?)\s*(?:,|\Z)')


class BadAnswer(FailedHookException):
    """An answer that no project can be made from.

    It is a `FailedHookException` because the command prints that one as its bare message.
    """


def refuse(question: str, problem: str) -> NoReturn:
    """Raise BadAnswer with one line that the terminal can show, whatever its encoding."""
    raise BadAnswer(_showable(f"{question}: {problem}."))


def _note(question: str, note: str) -> None:
    """Print one line on an answer that was accepted."""
    print(_showable(f"{question}: {note}."))


def _showable(line: str) -> str:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


# -- writing answers into files ------------------------------------------------------------------


def python_string(text: str) -> str:
    """Return the literal of `text` that `ruff format` leaves as it is."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    escaped = {quote: f"\\{quote}", "\\": "\\\\"}
    escaped |= {c: repr(c)[1:-1] for c in text if not c.isprintable()}
    return quote + "".join(escaped.get(c, c) for c in text) + quote


def python_items(names_json: str) -> str:
    """Return the lines of a Python list, one name each, each after a line break."""
    return "".join(f"\n    {python_string(name)}," for name in json.loads(names_json))


def toml_text(text: str) -> str:
    """Return `text` as it is written between the double quotes of a TOML string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def markdown_text(text: str) -> str:
    """Return `text` as Markdown that shows every character of it."""
    return re.sub(r"([\\`*_\[\]<>#|~&!$])", r"\\\1", text)


def _quoted(text: str) -> str:
    return python_string(text if len(text) <= 60 else f"{text[:57]}...")


# -- names ---------------------------------------------------------------------------------------


def _control_character(text: str) -> str | None:
    """Return the first character that would break a line, a table or a file's encoding."""
    broken = {"Cc", "Cs"}  # controls, and surrogates, which no UTF-8 file can hold
    return next((c for c in text if unicodedata.category(c) in broken), None)


def check_project_name(name: str) -> str:
    """Raise BadAnswer unless `name` can be a heading and a one-line description."""
    if not name.strip():
        refuse("project_name", "nothing given; name the project")
    if len(name) > 100:
        refuse("project_name", f"{len(name)} characters are too many; 100 are the most")
    bad = _control_character(name) or next((c for c in name if c in "\u2028\u2029"), None)
    if bad:
        refuse("project_name", f"{_quoted(name)} holds the control character {_quoted(bad)}")
    if re.search(r"\{[{%#]", name):
        refuse("project_name", f"{_quoted(name)} would be rendered by a later update; use no {{")
    return ""


def _slug_problem(slug: str) -> str | None:
    if not slug:
        return "nothing given; name the folder"
    if len(slug) > 100:
        return f"{len(slug)} characters are too many; 100 are the most"
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", slug):
        return (
            f"{_quoted(slug)} cannot name a folder and a Python project; use letters a to z, "
            "digits and - _ . inside, with a letter or digit at both ends"
        )
    if slug.lower().split(".")[0] in WINDOWS_DEVICES:
        return f"{_quoted(slug)} is the name of a device on Windows; choose another"
    if re.sub(r"[._-]+", "-", slug).lower() in DEPENDENCIES:
        return f"{_quoted(slug)} is a package that the project depends on; choose another name"
    return None


def usable_slug(slug: str) -> str:
    """Return `slug`, or the nearest name to it that passes `check_project_slug`."""
    if not slug:
        return "detection"
    return f"{slug}-detection" if _slug_problem(slug) else slug


def check_project_slug(slug: str) -> str:
    """Raise BadAnswer unless `slug` is a folder name anywhere and a distribution's name."""
    if problem := _slug_problem(slug):
        refuse("project_slug", problem)
    return ""


def _check_wandb_name(question: str, name: str) -> None:
    if len(name) > WANDB_LONGEST:
        refuse(question, f"{len(name)} characters are too many; W&B takes {WANDB_LONGEST}")
    bad = next((c for c in name if c in WANDB_FORBIDDEN or not c.isprintable()), None)
    if bad:
        refuse(question, f"{_quoted(name)} holds {_quoted(bad)}, which cannot be in it; remove it")
    if name != name.strip():
        refuse(question, f"{_quoted(name)} begins or ends with a blank; remove it")


def check_wandb_project(project: str) -> str:
    """Raise BadAnswer unless W&B takes `project` and a Python string holds it as it is."""
    if not project:
        refuse("wandb_project", "nothing given; name one (nothing is sent before you log in)")
    _check_wandb_name("wandb_project", project)
    return ""


def check_wandb_entity(entity: str) -> str:
    """Raise BadAnswer unless `entity` is empty or a name as in `check_wandb_project`."""
    _check_wandb_name("wandb_entity", entity)
    return ""


# -- classes -------------------------------------------------------------------------------------


def read_classes(answer: str) -> str:
    """Return the class names in `answer` as a JSON list.

    Braces are written as \\u007b: cookiecutter renders the values that it is given on the
    command line or by an update, and this list must pass through that unchanged.

    Raises:
        BadAnswer: no names can be read, or `check_classes` refuses them.
    """
    names = parse_classes(answer)
    check_classes(names)
    first: dict[str, str] = {}
    for name in names:
        key = "".join(name.split()).casefold()
        if key in first:
            alike = f"{_quoted(first[key])} and {_quoted(name)} differ in case or blanks alone"
            _note("classes", f"{alike}; if they are one class, give it one name")
        first.setdefault(key, name)
    return json.dumps(names, ensure_ascii=False).replace("{", "\\u007b")


def parse_classes(answer: str) -> list[str]:
    """Return the names in a COCO json's path, a JSON list or a comma list, in that order of trial.

    Raises:
        BadAnswer: the file, the list or the quoting cannot be read.
    """
    answer = answer.strip()
    if path := _annotation_path(answer):
        return _read_categories(path)
    if answer.startswith("["):
        return _parse_json_list(answer)
    return _parse_comma_list(answer) if answer else []


def check_classes(names: list[str]) -> None:
    """Raise BadAnswer unless `names` are at least one, all different, and none is blank."""
    if not names:
        refuse("classes", "nothing given; name at least one, or give the path of a COCO json")
    seen: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name.strip():
            refuse("classes", f"class {number} is empty; give it a name, or remove its comma")
        if len(name) > CLASS_LONGEST:
            most = f"{len(name)} characters; {CLASS_LONGEST} are the most"
            refuse("classes", f"class {number}, {_quoted(name)}, has {most}")
        if bad := _control_character(name):
            where = f"class {number}, {_quoted(name)}, holds {_quoted(bad)}"
            refuse("classes", f"{where}, which would break tables and logs; rename it")
        if name in seen:
            twice = f"{_quoted(name)} is there twice, as class {seen[name]} and as class {number}"
            refuse("classes", f"{twice}; keep one")
        seen[name] = number


def _annotation_path(answer: str) -> str | None:
    """Return the path that `answer` is: it ends in .json, or a file is there.

    A path may stand in quotes, as file managers copy it, if a file is there.
    """
    bare = re.fullmatch(r"""(["'])(.+)\1""", answer)
    if bare and _is_file(bare[2]):
        return bare[2]
    if answer.startswith(("[", '"')) or _control_character(answer):
        return None
    if answer.lower().endswith(".json") or _is_file(answer):
        return answer
    return None


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(os.path.expanduser(path))
    except ValueError:  # `~` before a character that no user name can hold
        return False


def _read_categories(path: str) -> list[str]:
    """Return the names of a COCO json's classes in the order of their ids."""
    try:
        text = Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig")
        data = json.loads(text)
    except OSError as error:
        refuse("classes", f"cannot read {_quoted(path)} ({error.strerror}); check the path")
    except UnicodeDecodeError:
        refuse("classes", f"{_quoted(path)} is not in UTF-8; save it in UTF-8")
    except (ValueError, RecursionError) as error:
        hint = 'a class of that name is written ["name"]'
        refuse("classes", f"{_quoted(path)} is not JSON ({error}); {hint}")
    categories = data.get("categories") if isinstance(data, dict) else None
    if not isinstance(categories, list) or not categories:
        wanted = 'a COCO json has a list "categories" with an id and a name in each'
        refuse("classes", f"{_quoted(path)} has no categories; {wanted}")
    by_id: dict[int, dict] = {}
    for index, category in enumerate(categories):
        where = f"{_quoted(path)}, categories[{index}]"
        category = category if isinstance(category, dict) else {}
        id_, name = category.get("id"), category.get("name")
        if type(id_) is not int or not isinstance(name, str):
            refuse("classes", f"{where} needs an id that is an integer and a name that is text")
        if id_ in by_id:
            twin = _quoted(by_id[id_]["name"])
            refuse("classes", f"{where} repeats the id of {twin}; give it its own")
        by_id[id_] = category
    for parent, reason in _spare_categories(by_id, data.get("annotations")):
        del by_id[parent["id"]]
        what = f"left out {_quoted(parent['name'])}, category {parent['id']} of {_quoted(path)}"
        _note("classes", f"{what}: no annotation uses it, and {reason}")
    return [category["name"] for _, category in sorted(by_id.items())]


def _spare_categories(by_id: dict[int, dict], annotations: object) -> list[tuple[dict, str]]:
    """Return the categories that are no classes, as Roboflow's root is, each with the reason.

    No annotation uses them, and others name them as supercategory or have their name. Without
    annotations nothing can be said of use: only one goes then whose name another one keeps.
    """
    annotations = annotations if isinstance(annotations, list) else []
    ids = (a.get("category_id") for a in annotations if isinstance(a, dict))
    used = {id_ for id_ in ids if type(id_) is int}
    left = Counter(category["name"] for category in by_id.values())
    used_names = {by_id[id_]["name"] for id_ in used & by_id.keys()}
    children = defaultdict(list)
    for category in by_id.values():
        if isinstance(category.get("supercategory"), str):
            children[category["supercategory"]].append(category)
    spare = []
    for id_, category in by_id.items():
        name = category["name"]
        child = next((c for c in children[name] if c["id"] != id_), None)
        if id_ in used:
            continue
        if left[name] > 1 and (child or name in used_names):
            spare.append((category, "another category has its name"))
        elif child and used_names:
            spare.append((category, f"it is the supercategory of {_quoted(child['name'])}"))
        else:
            continue
        left[name] -= 1
    return spare


def _parse_json_list(answer: str) -> list[str]:
    try:
        names = json.loads(answer)
    except (ValueError, RecursionError) as error:
        hint = 'a name that begins with [ is written in double quotes: "[a]"'
        refuse("classes", f"begins with [ but is not a JSON list ({error}); {hint}")
    for number, name in enumerate(names, 1):
        if not isinstance(name, str):
            refuse("classes", f"class {number}, {reprlib.repr(name)}, is not text; quote it")
    return names


def _parse_comma_list(answer: str) -> list[str]:
    """Return the names between commas; blanks around a name go, double quotes keep all inside."""
    names, start = [], 0
    while True:
        if not (field := CSV_FIELD.match(answer, start)):
            where = f"class {len(names) + 1}, {_quoted(answer[start:].strip())}"
            hint = 'close its quotes right before a comma, and double those inside: "5"" disc"'
            refuse("classes", f"{where}, cannot be read; {hint}")
        quoted, bare = field.groups()
        names.append(quoted.replace('""', '"') if quoted is not None else (bare or "").strip())
        start = field.end()
        if field[0][-1:] != ",":
            return names


class AnswersExtension(Extension):
    """The filters that cookiecutter.json and the rendered files use."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        filters: list[Callable[[str], str]] = [
            check_project_name,
            check_project_slug,
            check_wandb_entity,
            check_wandb_project,
            markdown_text,
            python_items,
            read_classes,
            toml_text,
            usable_slug,
        ]
        environment.filters.update({function.__name__: function for function in filters})
        # `cruft update` renders two versions of the template in one process: each imports its own
        sys.modules.pop(__name__, None)
