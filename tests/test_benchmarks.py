"""The benchmarks still find what they measure in a generated project."""

import ast
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def imported(tree: ast.Module) -> set[tuple[str, str]]:
    """(module, name) of all imports from the project, in code that is a text too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "detection":
            found |= {(node.module, alias.name) for alias in node.names}
        if isinstance(node, ast.Constant) and "\nfrom detection" in str(node.value):
            try:
                found |= imported(ast.parse(node.value))
            except SyntaxError:
                continue  # a text with placeholders
    return found


def names(path: Path) -> set[str]:
    """What a module defines or imports at its top level."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif hasattr(node, "name"):
            found.add(node.name)
    return found


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_in_the_project(path, bake):
    project = bake()
    missing = []
    for module, name in sorted(imported(ast.parse(path.read_text(encoding="utf-8")))):
        folder = project.joinpath(*module.split("."))
        file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        is_module = (folder / f"{name}.py").exists() or (folder / name).is_dir()
        if not is_module and not (file.exists() and name in names(file)):
            missing.append(f"{module}.{name}")
    assert not missing
