"""Checks a submission against its json and the competition's sample, and scores it."""

import math

from detection.data.coco import read_coco
from detection.data.results import check_ground_truth
from detection.evaluation.average_precision import average_precision, results_table
from detection.evaluation.competition_metrics import find_metric
from detection.utils.errors import UserError
from detection.workshop.submission.formats import DEFAULT_FORMAT, Format
from detection.workshop.submission.reading import (
    Submission,
    columns_of,
    read_csv,
    read_submission,
    short,
)
from detection.workshop.submission.writing import find_format


def check_submission(
    path: str,
    json_file: str,
    format_name: str = DEFAULT_FORMAT,
    sample: str | None = None,
    must_score: bool = False,
) -> tuple[list[str], bool]:
    """
    Read a submission, and score it if the json has annotations and nothing is wrong.

    Args:
        path: the submission.
        json_file: the COCO json of its images.
        format_name: a key of FORMATS.
        sample: the competition's sample submission, to compare columns and images with.
        must_score: refuse a json without annotations.

    Returns:
        Lines to print, and whether everything is right.

    Raises:
        UserError: a file cannot be read at all.
    """
    coco, form = read_coco(json_file), find_format(format_name)
    is_scored = must_score or bool(coco.get("annotations"))
    if is_scored:
        check_ground_truth(coco, json_file)
    if form.rows:  # only what wrote it knows what is in it
        header, rows = read_csv(path)
        line = f"{path}: {format_name}, {len(list(rows))} rows, not read back"
        wanted = list(form.columns) if sample is None else read_csv(sample)[0]
        if header != wanted:
            line = f"{path}: error: its columns are {','.join(header)}, not {','.join(wanted)}"
        return [line], header == wanted
    submission = read_submission(path, coco, json_file, form)
    if sample is not None:
        _compare(submission, path, sample, form)
    lines = [f"{path}: {line}" for line in submission.findings()]
    if not submission.is_sound:
        return lines, False
    images, boxes = submission.images, len(submission.results)
    lines.append(f"{path}: read back as {format_name}: {images} images, {boxes} boxes, sound")
    if is_scored:
        lines.append(f"scored on {json_file}:")
        lines.append(_score(coco, submission.results, form))
    return lines, True


def _compare(submission: Submission, path: str, sample: str, form: Format) -> None:
    """Note how columns and images differ from the sample's."""
    if form.suffix == ".json":
        raise UserError(f"{sample}: the format is COCO's json, which has no sample; leave it out")
    header, rows = read_csv(path)
    wanted_header, wanted_rows = read_csv(sample)
    if header != wanted_header:
        submission.add("sample_columns", f"{','.join(header)} for {','.join(wanted_header)}")
    names = [
        dict.fromkeys(row[at] for _, row in part if len(row) > at)
        for part, at in (
            (rows, columns_of(path, header, form)[0]),
            (wanted_rows, columns_of(sample, wanted_header, form)[0]),
        )
    ]
    for kind, (some, others) in (("not_in_sample", names), ("only_in_sample", names[::-1])):
        for name in some:
            if name not in others:
                submission.add(kind, short(name))


def _score(coco: dict, results: list[dict], form: Format) -> str:
    """The table of AP, over all classes as one if the format has none, and the metric."""
    score = find_metric(form.metric).score(coco, results, threshold=-math.inf)
    if form.suffix == ".csv" and "label" not in form.box.split() and len(coco["categories"]) > 1:
        only = coco["categories"][0]["id"]
        coco = {
            **coco,
            "categories": [{"id": only, "name": "any class"}],
            "annotations": [{**a, "category_id": only} for a in coco["annotations"]],
        }
    table = results_table(average_precision(coco, results), coco)
    return f"{table}\ncompetition/{form.metric}: {score.value:.4f}"
