"""The rooms of detection/: imports go one way, and a room of the workshop can be deleted."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

# each may import those before it
ROOMS = (
    *("utils", "classes", "config", "checks", "data", "checkpoint", "modeling", "solver"),
    *("evaluation", "inference", "writers", "engine"),
    *("workshop.preparation", "workshop.submission", "workshop.analysis", "workshop.search"),
    *("workshop.reports", "workshop.kaggle"),
)
WORKSHOP = [room for room in ROOMS if room.startswith("workshop.")]


def imports(file: Path) -> Iterator[str]:
    """Yield the modules of detection/ that a Python file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("detection."))


def room_of(module: str) -> str:
    """Return the room of a dotted name: "data" for "detection.data.coco"."""
    parts = module.split(".")[1:]
    return ".".join(parts[: 2 if parts[0] == "workshop" else 1])


def importers(project: Path, rooms: set[str]) -> set[Path]:
    """Return the tools and rooms, as paths in the project, that cannot do without some rooms."""
    found = set()
    for file in sorted([*project.glob("tools/*.py"), *project.glob("detection/workshop/*/*.py")]):
        if {room_of(name) for name in imports(file)} & rooms:
            found.add(file if file.parent.name == "tools" else file.parent)
    return found


def test_only_classes_and_config_are_outside_of_rooms(bake):
    files = {path.name for path in (bake() / "detection").glob("*.py")}
    assert files == {"__init__.py", "classes.py", "config.py"}


def test_imports_go_one_way(bake):
    library = bake() / "detection"
    for file in library.rglob("*.py"):
        own = room_of("detection." + ".".join(file.relative_to(library).with_suffix("").parts))
        if own != "__init__" and own in ROOMS:
            for name in imports(file):
                order = ROOMS.index(room_of(name)), ROOMS.index(own)
                assert order[0] <= order[1], f"{file.relative_to(library)} imports {name}"


def test_nothing_but_tools_imports_the_workshop(bake):
    project = bake()
    outside = [*project.glob("*.py"), *project.glob("configs/**/*.py")]
    outside += [p for p in project.glob("detection/*/*.py") if p.parent.name != "workshop"]
    for file in [*outside, *project.glob("tests/conftest.py")]:
        assert not [name for name in imports(file) if name.startswith("detection.workshop")], file


@pytest.mark.parametrize("room", WORKSHOP)
def test_nothing_refers_to_a_deleted_room(bake, room):
    """A room goes with the tools, and the rooms, that are made of it."""
    project = bake(fresh=True)
    gone, before = {room}, set()
    shutil.rmtree(project / "detection" / room.replace(".", "/"))
    while gone != before:
        before = set(gone)
        for path in importers(project, gone):
            if path.is_dir():
                gone.add(f"workshop.{path.name}")
                shutil.rmtree(path)
            else:
                path.unlink()
    left = {file: set(imports(file)) for file in project.rglob("*.py")}
    left = {f: names for f, names in left.items() if "tests" not in f.parts}
    for file, names in left.items():
        assert not {room_of(name) for name in names} & gone, file
    tools = {file.stem for file in project.glob("tools/*.py")}
    assert {"make_toy_dataset", "preview_augmentations", "submit"} <= tools
