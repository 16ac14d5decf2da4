"""How a training went: what metrics.json and config.yaml in its output folder say."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from detection.checks.class_names import describe_lists
from detection.data.image_roots import config_root, load_dataset
from detection.utils.errors import UserError
from detection.utils.run_config import read_config


def read_history(run: str) -> dict[str, list[tuple[int, float]]]:
    """
    The curves of a run, {metric: [(iteration, value)]}, iterations ascending.

    After a resume iterations may stand there twice: the later row holds. A last line that is not
    whole, as a killed run leaves it, is left out; so are values that are not finite.

    Raises:
        UserError: there is no metrics.json, or it is malformed.
    """
    path = Path(run) / "metrics.json"
    try:
        # a killed run may end in the middle of a letter
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError as e:
        reason = e.strerror or e
        raise UserError(f"{path}: cannot be read ({reason}); --run takes an output folder") from e
    rows = {}
    written = [line for line in text.split("\n") if line.strip()]
    for number, line in enumerate(written, start=1):
        try:
            row = json.loads(line)
            iteration = int(row["iteration"])
            rows[iteration] = rows.get(iteration, {}) | row
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as e:
            if number == len(written):
                break
            raise UserError(f"{path}: line {number} is no row of metrics; take it out") from e
    curves = {}
    for iteration in sorted(rows):
        for name, value in rows[iteration].items():
            # math.isfinite raises an error for whole numbers of 400 digits
            is_number = type(value) in (int, float) and abs(value) <= sys.float_info.max
            if name != "iteration" and is_number:
                curves.setdefault(name, []).append((iteration, value))
    return curves


def check_classes(run: str, names: Sequence[str]) -> None:
    """
    Raises:
        UserError: the best model of a run is for other classes than these, in any order.
    """
    try:
        recorded = json.loads((Path(run) / "model_best.json").read_bytes())["thing_classes"]
        is_other = set(recorded) != set(names)
    except (KeyError, OSError, TypeError, ValueError):  # of an older run, or none
        return
    if is_other:
        raise UserError(
            f"{run}: the training's {describe_lists(recorded, names)}; give the --run that made "
            "the predictions, or its annotations"
        )


def read_image_root(results_file: str, json_file: str, run: str | None = None) -> str:
    """
    The folder of an annotation file's images, as the training has it, or else as configs share it.

    Args:
        results_file: what the training's model found.
        run: the training's output folder; None: that of `<run>/predictions/<results_file>`.

    Raises:
        UserError: the training's config.yaml is malformed.
    """
    run = run or str(Path(results_file).resolve().parent.parent)
    try:
        dataset = read_config(run).get("dataset")
    except UserError as e:
        raise UserError(f"{Path(run) / 'config.yaml'}: cannot be read; say --image-root") from e
    try:
        plain = {k: v for k, v in dataset.items() if "${" not in str(v)}
        return config_root(plain, json_file)
    except (AttributeError, TypeError):
        return config_root(load_dataset(), json_file)
