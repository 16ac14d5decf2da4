"""From the hidden images of a code competition to a checked submission, in its notebook."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detection.classes import CLASSES
from detection.data.coco import write_json
from detection.evaluation.score_threshold import FILE as THRESHOLD
from detection.utils.errors import UserError
from detection.utils.image_files import ImageFolder, image_size
from detection.utils.progress import progress
from detection.workshop.kaggle.images import find_images, find_sample, names_in_sample
from detection.workshop.kaggle.processes import run_script
from detection.workshop.submission.formats import DEFAULT_FORMAT, FORMATS

CATEGORIES = "categories.json"  # the annotation files' own, with their ids
CALIBRATION = "ensemble.calibration.json"


@dataclass(frozen=True)
class Settings:
    """
    Attributes:
        folder: the uploaded data set.
        inputs: all that the notebook can read.
        work: a folder for what comes before the submission.
        output: the submission.
        images: a folder of images; None: where the sample's are, by name.
        sample: the sample submission; None: the one among the inputs, if there is one.
        of_predict: more options and overrides for predict.py.
        of_ensemble: more options for tools/ensemble.py.
        max_per_image: boxes kept, by each model and by the ensemble.
    """

    folder: Path
    inputs: str
    work: Path
    output: str
    images: str | None = None
    sample: str | None = None
    of_predict: Sequence[str] = ()
    of_ensemble: Sequence[str] = ()
    max_per_image: int = 100


def write_submission(settings: Settings) -> None:
    """
    Predict with every run in the folder, fuse them if they are several, and write the submission.

    Raises:
        UserError: the images cannot be found, or a step has failed and said why.
    """
    runs = find_runs(settings.folder)
    sample = settings.sample or find_sample(settings.inputs, str(settings.folder))
    if FORMATS[DEFAULT_FORMAT].suffix == ".json":
        sample = None
    json_file, root = list_hidden(settings, sample)
    predictions = settings.work / "predictions"
    limit = ["--max-per-image", str(settings.max_per_image)]
    members = {}
    for name, (config, weights) in runs.items():
        members[name] = predictions / f"{name}.json"
        options = ["--config-file", config, "--checkpoint", weights, "--image-root", root, *limit]
        options += ["--output", members[name], "train.device=auto"]
        run_script("predict.py", json_file, *options, *settings.of_predict)
    results = next(iter(members.values()))
    if len(members) > 1:
        results = predictions / "ensemble.json"
        options = [json_file, *(f"{name}={path}" for name, path in members.items()), *limit]
        if (calibration := settings.folder / CALIBRATION).is_file():
            options += ["--calibration", calibration]
        run_script("tools/ensemble.py", *options, "--output", results, *settings.of_ensemble)
    if (threshold := settings.folder / THRESHOLD).is_file():
        shutil.copy(threshold, predictions)
    options = ["--output", settings.output, *(["--sample", sample] if sample else [])]
    run_script("tools/make_submission.py", results, json_file, *options)


def find_runs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """
    {name: (config.yaml, weights)} of an uploaded data set; UserError if it has no run.
    """
    runs = {}
    for config in sorted(folder.glob("runs/*/config.yaml")):
        weights = sorted(config.parent.glob("*.pth"))
        if len(weights) == 1:
            runs[config.parent.name] = config, weights[0]
    if not runs:
        raise UserError(f"{folder}/runs: has no run; make the folder again with `make kaggle`")
    return runs


def list_hidden(settings: Settings, sample: str | None) -> tuple[Path, str]:
    """
    Write the COCO json of the images to predict on: the sample's, or all in a folder.

    Returns:
        The json, and what its names are relative to.

    Raises:
        UserError: there is neither, an image is missing, or cannot be read.
    """
    if sample:
        names = names_in_sample(sample, FORMATS[DEFAULT_FORMAT])
        where = settings.images or settings.inputs
        if settings.images and "/" in names[0]:  # the names begin above that folder
            where = str(Path(where).parents[names[0].count("/") - 1])
        root, files = find_images(names, where, "test", str(settings.folder))
        paths = list(files.values())
    elif settings.images:
        root = settings.images
        paths = ImageFolder(root, root).paths
    else:
        raise UserError(f"{settings.inputs}: has no sample submission; name the folder, --images")
    images = []
    for number, path in enumerate(progress(paths, len(paths), "reading images"), start=1):
        width, height = image_size(Path(root, path))
        images.append({"id": number, "file_name": path, "width": width, "height": height})
    if not images:
        raise UserError(f"{root}: has no image; --images names another folder")
    coco = {"images": images, "annotations": [], "categories": _categories(settings.folder)}
    json_file = settings.work / "test.json"
    write_json(coco, str(json_file))
    return json_file, root


def _categories(folder: Path) -> list[dict]:
    try:
        return json.loads((folder / CATEGORIES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
