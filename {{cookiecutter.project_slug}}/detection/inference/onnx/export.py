"""Writes a detector into an ONNX file."""

import copy
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.data.transforms import ResizeShortestEdge
from omegaconf import DictConfig
from torch import nn
from torch.export import Dim

from detection.classes import CLASSES
from detection.data.resizing import ResizeSquare
from detection.inference.onnx.graphs import Graph, graph_of
from detection.inference.onnx.metadata import Metadata
from detection.inference.onnx.operators import translations
from detection.modeling.transformers_detector import TransformersDetector
from detection.utils.errors import UserError
from detection.utils.files import sha256

OPSET = 18  # RoIAlign's half pixels need 16, and the exporter writes 18
INPUTS = ["images", "sizes"]
OUTPUTS = ["boxes", "scores", "labels", "masks"]


def resize_of(augmentations: Sequence) -> dict:
    """
    How a test loader's augmentations resize, as `Metadata.resize`.

    Raises:
        UserError: they do something else.
    """
    only = augmentations[0] if len(augmentations) == 1 else None
    if isinstance(only, ResizeSquare) and len(only.short_edge_length) == 1:
        return {"kind": "square", "side": only.short_edge_length[0], "letterbox": only.letterbox}
    if isinstance(only, ResizeShortestEdge) and len(set(only.short_edge_length)) == 1:
        shorter, most = int(only.short_edge_length[0]), int(only.max_size)
        return {"kind": "shortest_edge", "short_edge_length": shorter, "max_size": most}
    names = ", ".join(type(augmentation).__name__ for augmentation in augmentations) or "nothing"
    raise UserError(
        f"dataloader.test.mapper.augmentations: {names} cannot be exported; one ResizeShortestEdge "
        "or ResizeSquare of one size can"
    )


def multiple_of(model: nn.Module) -> tuple[int, int]:
    """What the sides of a model's canvas are multiples of; and its least side, 0 for any."""
    constraints = getattr(model.backbone, "padding_constraints", None) or {}  # upstream's main
    own = getattr(model, "size_divisibility", 0)
    multiple = own or getattr(model.backbone, "size_divisibility", 0)
    return max(1, multiple), constraints.get("square_size", 0)


def refuse_views(cfg: DictConfig) -> None:
    """Raise a UserError if the config looks at several views of an image."""
    for name in ("tta", "tiles"):
        if cfg[name].enabled:
            raise UserError(
                f"{name}.enabled=True cannot be exported: the file has the model alone, which sees "
                "an image once; predict.py with a checkpoint has it"
            )


def describe(
    cfg: DictConfig,
    model: nn.Module,
    weights: str,
    *,
    config: str,
    size: tuple[int, int] | str | None,
    batch: int | None,
    min_score: float,
    max_per_image: int,
) -> Metadata:
    """
    What a file will say of itself.

    Args:
        cfg: of the training.
        model: with its weights.
        weights: the checkpoint that they are from.
        config: its name.
        size: (height, width) of the canvas; "dynamic"; None: the square that the config makes, else
            dynamic.
        batch, min_score, max_per_image: as of `Metadata`.

    Raises:
        UserError: the model, its resizing or the size cannot be exported.
    """
    graph_of(model, min_score, max_per_image)
    mapper = cfg.dataloader.test.mapper
    resize = resize_of(instantiate(mapper.augmentations))
    multiple, square = multiple_of(model)
    if size is None:
        is_square = resize["kind"] == "square"
        size = (resize["side"],) * 2 if is_square else (square,) * 2 if square else "dynamic"
        if is_square:  # padded as the model itself does
            size = tuple(-(-side // multiple) * multiple for side in size)
    canvas = None if size == "dynamic" else list(size)
    if canvas and any(side % multiple for side in canvas):
        raise UserError(
            f"--size {size[0]}x{size[1]}: this model takes multiples of {multiple} pixels"
        )
    if canvas and resize["kind"] == "square" and min(canvas) < resize["side"]:
        raise UserError(
            f"--size {size[0]}x{size[1]}: is smaller than the squares of {resize['side']} pixels "
            "that the config makes; change dataloader.test.mapper.augmentations.0.short_edge_length"
        )
    if canvas is None and isinstance(model, TransformersDetector):
        raise UserError(
            f"--size dynamic: {type(model.net).__name__} of transformers keeps the size that it is "
            "exported for; leave it out, or give HEIGHTxWIDTH"
        )
    return Metadata(
        classes=list(CLASSES),
        channels=instantiate(mapper.image_format),
        resize=resize,
        canvas=canvas,
        multiple=multiple,
        square=square,
        batch=batch,
        min_score=min_score,
        max_per_image=max_per_image,
        has_masks=bool(getattr(getattr(model, "roi_heads", None), "mask_on", False)),
        pixel_mean=model.pixel_mean.flatten().tolist(),
        pixel_std=model.pixel_std.flatten().tolist(),
        config=config,
        weights={"file": str(weights), "sha256": sha256(weights)},
        written_by=versions(),
    )


def write(model: nn.Module, metadata: Metadata, file: str | Path) -> None:
    """
    Write a detector.

    Args:
        model: in evaluation mode.
        metadata: says which sizes and how many images it has to take.
        file: an .onnx file.

    Raises:
        UserError: it cannot be exported so.
    """
    import onnx

    model = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).eval()
    graph = graph_of(model, metadata.min_score, metadata.max_per_image).eval()
    program = _program(graph, metadata)
    names = OUTPUTS if metadata.has_masks else OUTPUTS[:3]
    with _quiet(), _explained(metadata.config):
        torch.onnx.export(
            program,
            f=str(file),
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUTS,
            output_names=names,
            external_data=False,
            custom_translation_table=translations(),
            verbose=False,
        )
    written = onnx.load(str(file))
    onnx.helper.set_model_props(written, metadata.texts())
    onnx.save(written, str(file))


def _program(graph: Graph, metadata: Metadata) -> torch.export.ExportedProgram:
    # two images: with one the exporter takes it for a constant
    count = metadata.batch or 2
    step = metadata.multiple
    # so large that no feature map has a side of 1, which it takes for a constant too
    height, width = metadata.canvas or (-(-384 // step) * step, -(-512 // step) * step)
    images = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    sizes = torch.tensor([[height - 1, width - 1]] * count)
    dynamic = [{}, {}]
    if metadata.batch is None:
        dynamic = [{0: Dim("batch", min=1, max=1024)} for _ in dynamic]
    if metadata.canvas is None:
        for axis, name in ((2, "rows"), (3, "columns")):
            dynamic[0][axis] = step * Dim(name, min=1, max=1024)
    modules = {sys.modules[type(m).__module__] for m in graph.modules()}
    modules = [m for m in modules if m.__name__.startswith("transformers.")]
    with torch.no_grad(), _symbolic_len(modules), _quiet(), _explained(metadata.config):
        return torch.export.export(
            graph, (images, sizes), dynamic_shapes=tuple(dynamic), strict=False
        )


@contextmanager
def _explained(config: str) -> Iterator[None]:
    """Turn the exporter's errors into one line."""
    try:
        yield
    except Exception as e:  # of many kinds
        reason = (str(e).strip() or repr(e)).splitlines()[0]
        raise UserError(
            f"{config}: cannot be exported so ({reason}); try --size HEIGHTxWIDTH, and --batch 1"
        ) from e


@contextmanager
def _symbolic_len(modules: Sequence) -> Iterator[None]:
    """
    Let `len(tensor)` in some modules be a number that the exporter can follow.

    Python's own has to be an integer, which would fix the number of images.
    """

    def length(values):
        return values.shape[0] if isinstance(values, torch.Tensor) else len(values)

    for module in modules:
        module.len = length
    try:
        yield
    finally:
        for module in modules:
            del module.len


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's many notes off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(level)


def versions() -> dict[str, str]:
    """Of what writes a file."""
    import onnx
    import onnxscript

    return {
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxscript": onnxscript.__version__,
    }
