"""The columns of each competition's submission file."""

from dataclasses import dataclass
from typing import Literal

DEFAULT_FORMAT = "{{ cookiecutter.submission_format }}"


@dataclass(frozen=True)
class Format:
    """
    A csv with a row for each image, or the COCO results themselves.

    Attributes:
        columns: the header, in order, and what each column holds.
        box: the fields of a box, in order: `label`, `score`, corners `x1 y1 x2 y2` or `x y w h`.
        label: what names a class: the annotation file's category id, the position in CLASSES, or
            the name in CLASSES.
        image: what names an image: its `file_name` as in the json, or `0000` of `test/0000.jpg`.
        normalized: coordinates are fractions of the image's width and height, else pixels.
        empty: what is written for an image without boxes.
        suffix: of the file; ".json" is COCO's results format, which needs none of the above.
    """

    columns: dict[str, Literal["image", "boxes"]]
    box: str = "label score x1 y1 x2 y2"
    label: Literal["category_id", "index", "name"] = "category_id"
    image: Literal["file_name", "stem"] = "stem"
    normalized: bool = False
    empty: str = ""
    suffix: Literal[".csv", ".json"] = ".csv"


FORMATS = {
    "recycling_trash": Format(
        columns={"PredictionString": "boxes", "image_id": "image"},
        image="file_name",
    ),
    "global_wheat": Format(
        columns={"image_id": "image", "PredictionString": "boxes"},
        box="score x y w h",
    ),
    "rsna": Format(
        columns={"patientId": "image", "PredictionString": "boxes"},
        box="score x y w h",
    ),
    "vinbigdata": Format(
        columns={"image_id": "image", "PredictionString": "boxes"},
        label="index",
        empty="14 1 0 0 1 1",  # class 14 is "No finding"
    ),
    "open_images": Format(
        columns={"ImageId": "image", "PredictionString": "boxes"},
        label="name",  # its labels are MIDs such as /m/01g317: CLASSES has to name them
        normalized=True,
    ),
    "coco": Format(columns={}, image="file_name", suffix=".json"),
}
