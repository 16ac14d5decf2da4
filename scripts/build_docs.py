"""
Write the sources of the documentation, with the pages that are generated, into a folder:

    python scripts/build_docs.py build/docs

docs/ is copied; reference/settings.md comes from the configs, project/ has the README and the
pages of a project with all the default answers, and coming-from.md gets its table of metric names.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from cookiecutter.main import cookiecutter

sys.path.insert(0, str(Path(__file__).resolve().parent))

import settings_page

TEMPLATE = Path(__file__).resolve().parents[1]
EXAMPLE = "https://github.com/OWNER/cookiecutter-detectron2/blob/example"
NOTE = """
!!! note

    This is of a project with all the default answers; yours has your names in it.
"""


def build(output: Path) -> None:
    """Write the sources into `output`, which is replaced."""
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(TEMPLATE / "docs", output)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")  # keeps replays out of the user's home
        config.write_text(f'{{"replay_dir": "{Path(folder, "replay").as_posix()}"}}')
        options = {"no_input": True, "output_dir": folder, "config_file": str(config)}
        project = Path(cookiecutter(str(TEMPLATE), **options))
        pages = {"reference/settings.md": settings_page.page(project / "configs")}
        for path in (project / "README.md", *project.glob("docs/*.md")):
            pages[f"project/{path.name}"] = project_page(path.read_text(encoding="utf-8"))
        names = metric_names(project)
    for name, text in pages.items():
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_text(text, encoding="utf-8")
    page = output / "coming-from.md"
    text = page.read_text(encoding="utf-8")
    before, mark, after = text.partition("<!-- the table of metric names -->")
    assert mark, page
    page.write_text(before + names + after, encoding="utf-8")


def project_page(text: str) -> str:
    """A page of a project, whose links to files other than pages go to the generated example."""
    text = re.sub(r"\]\((?:docs/|\.\./(?=README))", "](", text)
    text = re.sub(r"\]\((?!https?:|#|[\w-]+\.md\b)(?:\.\./)?([^)]+)\)", rf"]({EXAMPLE}/\1)", text)
    # Python-Markdown indents what belongs to an item of a list by 4, GitHub by 3
    text = re.sub(r"^((?: {4})* {3})(?=\S)", r"\1 ", text, flags=re.MULTILINE)
    title, rest = text.split("\n", 1)
    return f"{title}\n{NOTE}{rest}"


def metric_names(project: Path) -> str:
    """detectron2's names, and what each preset makes of them, as a table."""
    path = str(project)
    sys.path.insert(0, path)
    try:
        from detection.writers.metric_names import PRESETS
    finally:
        sys.path.remove(path)
    presets = {preset: names for preset, names in PRESETS.items() if names}
    lines = ["| detectron2 | " + " | ".join(presets) + " |", "|---" * (1 + len(presets)) + "|"]
    for name in dict.fromkeys(name for names in presets.values() for name in names):
        if not re.match("bbox|lr$|total_loss|loss_|fast_rcnn", name) or "_stage" in name:
            continue
        shown = (f"`{names[name][0]}`" if name in names else "" for names in presets.values())
        lines.append(f"| `{name}` | {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
