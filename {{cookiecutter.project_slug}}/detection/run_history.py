"""How a training went: what metrics.json in its output folder says."""

import json
import math
from pathlib import Path

from detection.errors import UserError


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
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = getattr(e, "strerror", None) or e
        raise UserError(f"{path}: cannot be read ({reason}); --run takes an output folder") from e
    rows = {}
    lines = [line for line in text.split("\n") if line.strip()]
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows[row["iteration"]] = rows.get(row["iteration"], {}) | row
        except (KeyError, TypeError, ValueError) as e:
            if number == len(lines):
                break
            raise UserError(f"{path}: line {number} is no row of metrics; take it out") from e
    curves = {}
    for iteration in sorted(rows):
        for name, value in rows[iteration].items():
            if name != "iteration" and type(value) in (int, float) and math.isfinite(value):
                curves.setdefault(name, []).append((iteration, value))
    return curves
