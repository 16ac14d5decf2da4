"""Reads class names from commas, a JSON list or a COCO json, and checks them."""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections import Counter, defaultdict
from pathlib import Path

from detectron2_prompts.text import control_character, note, quoted, refuse

CLASS_LONGEST = 1000

CSV_FIELD = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",\s][^,]*)?)\s*(?:,|\Z)')


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
            alike = f"{quoted(first[key])} and {quoted(name)} differ in case or blanks alone"
            note("classes", f"{alike}; if they are one class, give it one name")
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
            refuse("classes", f"class {number}, {quoted(name)}, has {most}")
        if bad := control_character(name):
            where = f"class {number}, {quoted(name)}, holds {quoted(bad)}"
            refuse("classes", f"{where}, which would break tables and logs; rename it")
        if name in seen:
            twice = f"{quoted(name)} is there twice, as class {seen[name]} and as class {number}"
            refuse("classes", f"{twice}; keep one")
        seen[name] = number


def _annotation_path(answer: str) -> str | None:
    """Return the path that `answer` is: it ends in .json, or a file is there.

    A path may stand in quotes, as file managers copy it, if a file is there.
    """
    bare = re.fullmatch(r"""(["'])(.+)\1""", answer)
    if bare and _is_file(bare[2]):
        return bare[2]
    if answer.startswith(("[", '"')) or control_character(answer):
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
        refuse("classes", f"cannot read {quoted(path)} ({error.strerror}); check the path")
    except UnicodeDecodeError:
        refuse("classes", f"{quoted(path)} is not in UTF-8; save it in UTF-8")
    except (ValueError, RecursionError) as error:
        hint = 'a class of that name is written ["name"]'
        refuse("classes", f"{quoted(path)} is not JSON ({error}); {hint}")
    categories = data.get("categories") if isinstance(data, dict) else None
    if not isinstance(categories, list) or not categories:
        wanted = 'a COCO json has a list "categories" with an id and a name in each'
        refuse("classes", f"{quoted(path)} has no categories; {wanted}")
    by_id: dict[int, dict] = {}
    for index, category in enumerate(categories):
        where = f"{quoted(path)}, categories[{index}]"
        category = category if isinstance(category, dict) else {}
        id_, name = category.get("id"), category.get("name")
        if type(id_) is not int or not isinstance(name, str):
            refuse("classes", f"{where} needs an id that is an integer and a name that is text")
        if id_ in by_id:
            twin = quoted(by_id[id_]["name"])
            refuse("classes", f"{where} repeats the id of {twin}; give it its own")
        by_id[id_] = category
    for parent, reason in _spare_categories(by_id, data.get("annotations")):
        del by_id[parent["id"]]
        what = f"left out {quoted(parent['name'])}, category {parent['id']} of {quoted(path)}"
        note("classes", f"{what}: no annotation uses it, and {reason}")
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
            spare.append((category, f"it is the supercategory of {quoted(child['name'])}"))
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
            where = f"class {len(names) + 1}, {quoted(answer[start:].strip())}"
            hint = 'close its quotes right before a comma, and double those inside: "5"" disc"'
            refuse("classes", f"{where}, cannot be read; {hint}")
        whole, bare = field.groups()
        names.append(whole.replace('""', '"') if whole is not None else (bare or "").strip())
        start = field.end()
        if field[0][-1:] != ",":
            return names
