"""The columns of each competition's submission file, and the metric that it is ranked by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

DEFAULT_FORMAT = "{{ cookiecutter.submission_format }}"


@dataclass(frozen=True)
class Format:
    """
    A csv with a row for each image, or the COCO results themselves.

    Attributes:
        columns: the header, in order, and what each column holds.
        metric: a key of METRICS in detection/evaluation/competition_metrics.py, which scores a
            submission; that of DEFAULT_FORMAT is DEFAULT_METRIC there.
        box: the fields of a box, in order: `label`, `score`, corners `x1 y1 x2 y2` or `x y w h`.
        label: what names a class: the annotation file's category id, the position in CLASSES, or
            the name in CLASSES.
        image: what names an image: its `file_name` as in the json, or `0000` of `test/0000.jpg`.
        image_suffix: comes after that name.
        normalized: coordinates are fractions of the image's width and height, else pixels.
        empty: what is written for an image without boxes.
        has_hierarchy: a box also goes in for each class above its own, where there is a hierarchy.
        rows: writes the cells of an image's rows, in place of `box` to `empty`; such a file is not
            read back.
        suffix: of the file; ".json" is COCO's results format, which needs none of the above.
    """

    columns: dict[str, Literal["image", "boxes", "row"]]
    metric: str
    box: str = "label score x1 y1 x2 y2"
    label: Literal["category_id", "index", "name"] = "category_id"
    image: Literal["file_name", "stem"] = "stem"
    image_suffix: str = ""
    normalized: bool = False
    empty: str = ""
    has_hierarchy: bool = False
    rows: Callable[[dict, list[dict]], list[list]] | None = None
    suffix: Literal[".csv", ".json"] = ".csv"


def custom_rows(image: dict, boxes: list[dict]) -> list[list]:
    """
    The rows of an image in the format "custom", to be replaced by your competition's, as its
    metric `custom` in detection/evaluation/competition_metrics.py is.

    Here, as an example: a row for each box, with its corners in pixels.

    Args:
        image: of the COCO json: `{id, file_name, width, height}`.
        boxes: `[{image_id, category_id, bbox: [x, y, w, h] in pixels, score}]`, the best first.
    """
    rows = []
    for box in boxes:
        x, y, w, h = box["bbox"]
        corners = (f"{v:.5f}" for v in (x, y, x + w, y + h))
        rows.append([image["file_name"], box["category_id"], f"{box['score']:.6f}", *corners])
    return rows


FORMATS = {
    "recycling_trash": Format(
        columns={"PredictionString": "boxes", "image_id": "image"},
        metric="{{ cookiecutter._metrics.recycling_trash }}",
        image="file_name",
    ),
    "global_wheat": Format(
        columns={"image_id": "image", "PredictionString": "boxes"},
        metric="{{ cookiecutter._metrics.global_wheat }}",
        box="score x y w h",
    ),
    "rsna": Format(
        columns={"patientId": "image", "PredictionString": "boxes"},
        metric="{{ cookiecutter._metrics.rsna }}",
        box="score x y w h",
    ),
    "vinbigdata": Format(
        columns={"image_id": "image", "PredictionString": "boxes"},
        metric="{{ cookiecutter._metrics.vinbigdata }}",
        label="index",
        empty="14 1 0 0 1 1",  # class 14 is "No finding"
    ),
    "open_images": Format(
        columns={"ImageId": "image", "PredictionString": "boxes"},
        metric="{{ cookiecutter._metrics.open_images }}",
        label="name",  # its labels are MIDs such as /m/01g317: CLASSES has to name them
        normalized=True,
        has_hierarchy=True,
    ),
    "cots": Format(
        columns={"index": "image", "annotations": "boxes"},
        metric="{{ cookiecutter._metrics.cots }}",
        box="score x y w h",
    ),
    "siim": Format(
        columns={"Id": "image", "PredictionString": "boxes"},
        metric="{{ cookiecutter._metrics.siim }}",
        label="name",  # CLASSES has to be opacity
        image_suffix="_image",
        empty="none 1 0 0 1 1",
    ),
    "coco": Format(
        columns={},
        metric="{{ cookiecutter._metrics.coco }}",
        image="file_name",
        suffix=".json",
    ),
    "custom": Format(
        columns=dict.fromkeys(["image", "label", "score", "x1", "y1", "x2", "y2"], "row"),
        metric="{{ cookiecutter._metrics.custom }}",
        rows=custom_rows,
    ),
}
