"""A generated project, installed and used as its owner would: slow, and the point of it all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import COMBINATIONS, LIMIT, TEMPLATE, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT + 300)]
QUIET = "--quiet --tb=short --show-capture=no"  # of pytest


@pytest.fixture(scope="session")
def own_data(project, python, tmp_path_factory) -> dict[str, str]:
    """A variable that makes toy data a project's own train.json and val.json."""
    folder = tmp_path_factory.mktemp("datasets")
    command = [python, "tools/make_toy_dataset.py", "--output", str(folder)]
    run(*command, "--train", "8", "--val", "4", cwd=project)
    for file in folder.glob("*.json"):
        coco = read(file)
        for image in coco["images"]:
            image["file_name"] = f"images/{image['file_name']}"
        file.write_text(json.dumps(coco), encoding="utf-8")
    return {"DETECTRON2_DATASETS": str(folder)}


@pytest.fixture
def passes(capsys) -> Callable[..., None]:
    """Runs a test suite, of which no test may fail or be skipped; shows its slowest tests."""

    def passes(*command: str, cwd: Path, **variables: str) -> None:
        out = run(*command, cwd=cwd, **variables).stdout
        assert " passed" in out and " skipped" not in out, out[-20000:]
        with capsys.disabled():
            print("", *out.splitlines()[-14:], sep="\n")

    return passes


def test_own_lint_and_tests_pass(project, own_data, passes):
    run("make", "lint", cwd=project)
    passes("make", "test", f"ARGS={QUIET}", cwd=project, **own_data)


def test_library_passes(project, passes):
    passes("make", "library-tests", f"PROJECT={project}", f"ARGS={QUIET}", cwd=TEMPLATE)


def test_pip_installs_beside_the_packages_that_are_there(bake, project, python, tmp_path):
    """As on Kaggle or in a container: PyTorch is there, and stays as it is."""
    path = bake(fresh=True)
    run(os.environ["UV"], "venv", "--quiet", "--seed", "--python", python, "venv", cwd=tmp_path)
    (pip,) = tmp_path.glob("venv/*/pip*[p0-9]") if os.name == "nt" else [tmp_path / "venv/bin/pip"]
    own = pip.with_name("python")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    there, new = (run(str(p), "-c", where, cwd=tmp_path).stdout.strip() for p in (python, own))
    (Path(new) / "there.pth").write_text(there)
    before = set(Path(new).glob("*.dist-info"))
    install = [str(pip), "install", "--quiet", "-e", ".", "./third_party/detectron2"]
    run(*install, cwd=path, PIP_CONFIG_FILE=os.devnull)  # whatever this machine holds pip to
    added = {e.name.partition("-")[0] for e in set(Path(new).glob("*.dist-info")) - before}
    assert added == {"detectron2", path.name.replace("-", "_")}
    code = "import detection.engine, detectron2, torch; print(torch.__file__, detectron2.__file__)"
    torch, detectron2 = run(str(own), "-c", code, cwd=tmp_path).stdout.split()
    assert torch.startswith(there) and detectron2.startswith(new)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The checkout of upstream's main that DETECTRON2_CHECKOUT names; skip where it names none."""
    if "DETECTRON2_CHECKOUT" not in os.environ:
        pytest.skip("DETECTRON2_CHECKOUT names no checkout of detectron2")
    return Path(os.environ["DETECTRON2_CHECKOUT"])


@pytest.fixture(scope="session")
def on_main(checkout, python, tmp_path_factory) -> dict[str, str]:
    """Variables that put upstream's Python sources before what is installed, uncompiled."""
    folder = tmp_path_factory.mktemp("main")
    ignore = shutil.ignore_patterns("__pycache__", "configs")
    shutil.copytree(checkout / "detectron2", folder / "detectron2", ignore=ignore)
    shutil.copytree(checkout / "configs", folder / "detectron2/model_zoo/configs")
    # its model zoo imports pkg_resources
    uv = (os.environ["UV"], "pip", "install", "--quiet", "--python", python)
    run(*uv, "--target", str(folder), "--no-deps", "setuptools<81", cwd=folder)
    return {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="session")
def project_on_main(bake, python, on_main) -> Path:
    """A project of upstream's main, which `python` imports with the variables of `on_main`."""
    path = bake(fresh=True, detectron2_source="git")
    code = "import detectron2; print(detectron2.__file__)"
    where = run(python, "-c", code, cwd=path, **on_main).stdout
    assert where.startswith(on_main["PYTHONPATH"])
    return path


def test_own_tests_pass_on_main(project_on_main, python, on_main, own_data, passes):
    command = [python, "-m", "pytest", "--durations=10", *QUIET.split()]
    passes(*command, cwd=project_on_main, **on_main, **own_data)


def test_library_passes_on_main(project_on_main, python, on_main, passes):
    command = ["make", "library-tests", f"PROJECT={project_on_main}", f"PYTHON={python}"]
    passes(*command, f"ARGS={QUIET}", cwd=TEMPLATE, **on_main)


def test_git_source_resolves(bake, checkout):
    """The lock file of a project on upstream's main, which the checkout stands in for."""
    path = bake(fresh=True, detectron2_source="git")
    url = "https://github.com/facebookresearch/detectron2"
    instead = {"KEY_0": f"url.{checkout.resolve().as_uri()}.insteadOf", "VALUE_0": url}
    variables = {"GIT_CONFIG_COUNT": "1", **{f"GIT_CONFIG_{k}": v for k, v in instead.items()}}
    run(os.environ["UV"], "lock", cwd=path, **variables)
    rev = re.search('rev = "([0-9a-f]{40})"', (path / "pyproject.toml").read_text("utf-8"))[1]
    lock = (path / "uv.lock").read_text(encoding="utf-8")
    assert f'source = {{ git = "{url}?rev={rev}#{rev}" }}' in lock
    assert 'name = "torch"' in lock and 'name = "yacs"' in lock


@pytest.mark.parametrize("installed", ["v0.6", "main"])
def test_trains_by_upstreams_tool(bake, python, checkout, on_main, installed):
    path = bake(fresh=True)
    run(python, "tools/make_toy_dataset.py", "--train", "8", "--val", "4", cwd=path)
    main = on_main["PYTHONPATH"] if installed == "main" else ""
    tool = str(checkout / "tools/lazyconfig_train_net.py")
    command = [python, tool, "--config-file", "configs/debug/smoke.py", "train.max_iter=2"]
    command += ["train.device=cpu"]  # upstream knows no "auto"
    run(*command, cwd=path, PYTHONPATH=os.pathsep.join(filter(None, [".", main])))
    lines = (path / "output/smoke/metrics.json").read_text(encoding="utf-8").splitlines()
    trained, evaluated = map(json.loads, lines)
    assert trained["iteration"] == 1 and "total_loss" in trained
    # upstream's last evaluation is one after the last iteration
    assert evaluated["iteration"] == 2 and "bbox/AP" in evaluated


@pytest.mark.parametrize("name", ["one class", "hard names"])
def test_trains_with_other_classes(bake, python, name):
    path = bake(fresh=True, **COMBINATIONS[name])
    tests = [f"tests/test_{part}.py" for part in ("training", "submission", "metric_names")]
    run(python, "-m", "pytest", *QUIET.split(), *tests, cwd=path)


def test_trains_on_real_images(bake, python, data_dir):
    data = data_dir / "bccd"
    path = bake(fresh=True, classes=str(data / "train.json"))
    command = [
        *(python, "train_net.py", "--config-file", "configs/debug/smoke.py"),
        *(f"dataset.{split}.json_file={data}/{split}.json" for split in ("train", "val")),
        *(f"dataset.{split}.image_root={data}/images" for split in ("train", "val")),
        *("train.max_iter=20", "train.eval_period=0", "train.log_period=5"),
    ]
    result = run(*command, cwd=path)
    assert "no area" in result.stdout, "the boxes without area are told"
    rows = (path / "output/smoke/metrics.json").read_text(encoding="utf-8").splitlines()
    last = json.loads(rows[-1])
    assert last["iteration"] == 19
    classes = {"RBC", "WBC", "Platelets"}
    assert {k.removeprefix("bbox/AP-") for k in last if k.startswith("bbox/AP-")} == classes


def check_dataset(python: str, path: Path, *args: str | Path) -> tuple[int, dict]:
    """The exit status of the generated project's doctor, and what it reports."""
    command = [python, "tools/check_dataset.py", *map(str, args), "--json", "report.json"]
    status = run(*command, cwd=path, check=False).returncode
    return status, json.loads((path / "report.json").read_text(encoding="utf-8"))


def test_checks_and_mends_blood_cells(bake, python, data_dir, tmp_path):
    data = data_dir / "bccd"
    path = bake(fresh=True, classes=str(data / "train.json"))
    files = [data / f"{split}.json" for split in ("train", "val", "test")]
    options = ["--image-root", data / "images", "--fix", "--output", tmp_path]
    status, report = check_dataset(python, path, *files, *options)
    assert status == 0 and report["images_read"] == 364
    found = [(f["kind"], f["split"], f["items"]) for f in report["findings"]]
    assert found == [("no_area", "train", [2288]), ("no_area", "val", [887])]
    assert report["findings_left"] == []


def test_says_what_is_odd_in_a_competition(bake, python, data_dir, tmp_path):
    data = data_dir / "recycling_trash"
    path = bake(fresh=True, classes=str(data / "train.json"))
    files = [data / f"{split}.json" for split in ("train", "test")]
    status, report = check_dataset(python, path, *files, "--image-root", tmp_path)
    assert status == 1
    assert {(f["kind"], f["split"], f["count"]) for f in report["findings"]} == {
        ("missing_images", "train", 4883),
        ("repeated_annotations", "train", 1),
        ("two_classes", "train", 1),
        ("annotation_id_0", "train", 1),
        ("category_numbering", "train", 10),
        ("missing_images", "test", 4871),
        ("no_annotations", "test", 1),
        ("category_numbering", "test", 10),
    }


def test_splits_a_competition(bake, python, data_dir, tmp_path):
    """Every fold has a fifth of each class, to within one box of the rarest, and two of others."""
    json_file = data_dir / "recycling_trash" / "train.json"
    path = bake(fresh=True, classes=str(json_file))
    run(python, "tools/split_dataset.py", str(json_file), "--output", str(tmp_path), cwd=path)
    classes = Counter(a["category_id"] for a in read(json_file)["annotations"])
    rarest, images = min(classes, key=classes.get), set()
    for fold in range(5):
        val = read(tmp_path / str(fold) / "val.json")
        counts = Counter(a["category_id"] for a in val["annotations"])
        assert abs(counts[rarest] - classes[rarest] / 5) < 1
        assert all(abs(counts[k] - classes[k] / 5) <= 2 for k in classes)
        ids = {image["id"] for image in val["images"]}
        assert not ids & images
        images |= ids
    assert len(images) == 4883


def test_explores_a_competition(bake, python, data_dir, tmp_path):
    path = bake(fresh=True, classes=str(data_dir / "recycling_trash" / "train.json"))
    command = [python, "tools/explore_dataset.py", data_dir / "recycling_trash" / "train.json"]
    command += ["--image-root", tmp_path, "--output", tmp_path / "page.html"]
    run(*map(str, command), cwd=path)
    text = re.sub(r"<[^>]*>", " ", (tmp_path / "page.html").read_text(encoding="utf-8"))
    text = " ".join(text.split())
    assert "4,883" in text and "23,144" in text and "Battery 159 0.7% 46" in text
    assert "images are missing or broken" in text


def test_fuses_as_ensemble_boxes(project, python, tmp_path):
    """The reference is installed for this test alone: it brings numba and pandas."""
    uv = (os.environ["UV"], "pip", "install", "--quiet", "--python", python)
    run(*uv, "--target", str(tmp_path), "ensemble-boxes==1.0.9", cwd=tmp_path)
    paths = {"PYTHONPATH": os.pathsep.join([str(project), str(tmp_path)])}
    assert run(python, str(TEMPLATE / "tests/compare_fusion.py"), cwd=project, **paths).stdout


def test_albumentations(project, python, passes, tmp_path):
    """The optional library is installed for this test alone."""
    uv = (os.environ["UV"], "pip", "install", "--quiet", "--python", python, "--no-deps")
    needs = ("albumentations==2.0.8", "albucore==0.0.24", "stringzilla", "simsimd")
    run(*uv, "--target", str(tmp_path), *needs, cwd=tmp_path)
    library = TEMPLATE / "tests/library"
    command = [python, "-m", "pytest", "-q", "-c", library / "pytest.ini", "--rootdir", library]
    command += ["--confcutdir", library, library / "data/with_albumentations.py"]
    passes(*map(str, command), cwd=project, PYTHONPATH=str(tmp_path))


def read(file: Path) -> dict:
    """A parsed json."""
    return json.loads(file.read_text(encoding="utf-8"))
