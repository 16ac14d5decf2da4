"""What a file says of itself, so that it alone is enough to predict with; without PyTorch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from detection.utils.errors import UserError

FORMAT = 1  # of the names below, and of the inputs and outputs


@dataclass(frozen=True)
class Metadata:
    """
    Attributes:
        classes: the names, in the order of the labels.
        channels: of `images`, BGR or RGB.
        resize: how an image is resized, bilinear with antialiasing:
            `{"kind": "shortest_edge", "short_edge_length", "max_size"}` or
            `{"kind": "square", "side", "letterbox"}`.
        canvas: (height, width) that each image is put on; None: as large as is needed.
        multiple: the sides of such a canvas are multiples of it.
        square: the sides of such a canvas at least, for models that take squares; 0: any.
        batch: images per run; None: any number.
        min_score: boxes below are left out.
        max_per_image: boxes per image, at most.
        has_masks: whether there are masks of the objects too.
        pixel_mean, pixel_std: which the file itself applies to values from 0 to 255.
        config: the name of the training's config.
        weights: the checkpoint's name, and the SHA-256 of its content.
        written_by: the versions of what wrote it.
    """

    classes: list[str]
    channels: str
    resize: dict
    canvas: list[int] | None
    multiple: int
    square: int
    batch: int | None
    min_score: float
    max_per_image: int
    has_masks: bool
    pixel_mean: list[float]
    pixel_std: list[float]
    config: str
    weights: dict[str, str]
    written_by: dict[str, str]

    def texts(self) -> dict[str, str]:
        """As `metadata_props`: json of each, by name."""
        values = {"format": FORMAT, **asdict(self)}
        return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}

    @classmethod
    def read(cls, texts: Mapping[str, str], file: str) -> "Metadata":
        """Read `metadata_props`; UserError if they are not what `texts` makes."""
        try:
            values = {name: json.loads(texts[name]) for name in ("format", *_names(cls))}
        except (KeyError, ValueError) as e:
            raise UserError(
                f"{file}: is not a file of tools/export.py ({e!r}); export again"
            ) from e
        if values.pop("format") != FORMAT:
            raise UserError(f"{file}: is of another version of tools/export.py; export again")
        return cls(**values)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image of a size gets."""
        if self.resize["kind"] == "square":
            side = self.resize["side"]
            if not self.resize["letterbox"]:
                return side, side
            factor = side / max(height, width)
            return max(1, round(factor * height)), max(1, round(factor * width))
        # in detectron2's order, so that numbers are rounded as its are
        shorter, most = float(self.resize["short_edge_length"]), self.resize["max_size"]
        factor = shorter / min(height, width)
        size = (shorter, factor * width) if height < width else (factor * height, shorter)
        if max(size) > most:
            factor = most / max(size)
            size = size[0] * factor, size[1] * factor
        if self.canvas:
            factor = min(1.0, self.canvas[0] / size[0], self.canvas[1] / size[1])
            size = size[0] * factor, size[1] * factor
        return max(1, int(size[0] + 0.5)), max(1, int(size[1] + 0.5))

    def canvas_of(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) of the canvas of a resized image."""
        if self.canvas:
            return tuple(self.canvas)
        return tuple(
            max(self.square, -(-side // self.multiple) * self.multiple) for side in (height, width)
        )


def _names(cls: type) -> list[str]:
    return [field.name for field in fields(cls)]
