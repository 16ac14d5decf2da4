"""Predictions in batches that are kept on disk, so that an interrupted one continues."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from detection.utils.files import write_atomically
from detection.utils.progress import progress

logger = logging.getLogger(__name__)


def predict_in_batches(
    output: Path, settings: dict, count: int, batches: Callable[[int], Iterator[list[dict]]]
) -> list[dict]:
    """
    Predict, or continue an interrupted prediction with the same settings.

    Args:
        output: file of the results; finished batches are in `batches_file(output)`.
        settings: what the results depend on; other settings start again.
        count: of all batches.
        batches: yields the results of each from a number on.

    Returns:
        The results of all batches.
    """
    partial = batches_file(output)
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    done = _read_partial(partial, key)
    if done:
        logger.info(f"{partial}: continues after {len(done)} batches")
    if not done:
        write_atomically(partial, f"{json.dumps(key)}\n".encode())
    with open(partial, "a", encoding="utf-8") as f:
        for results in progress(batches(len(done)), count, "batches", len(done)):
            f.write(json.dumps(results) + "\n")
            f.flush()
            done.append(results)
    return [result for results in done for result in results]


def batches_file(output: Path) -> Path:
    """The file of finished batches while `output` is incomplete."""
    return output.with_name(f"{output.name}.batches")


def _read_partial(partial: Path, key: str) -> list[list[dict]]:
    """Read finished batches of the same settings; drop a torn last one from the file."""
    if not partial.is_file():
        return []
    lines = partial.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    if not lines or lines[0] != json.dumps(key) + "\n":
        logger.info(f"{partial}: has other settings, so prediction starts again")
        return []
    done = []
    with suppress(ValueError):
        for line in lines[1:]:
            done.append(json.loads(line[: line.index("\n")]))
    if 1 + len(done) < len(lines):
        write_atomically(partial, "".join(lines[: 1 + len(done)]).encode())
    return done
