"""Runs a detector's ONNX file: NumPy, Pillow and ONNX Runtime, no PyTorch and no detectron2."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from detection.inference.onnx.masks import pasted
from detection.inference.onnx.metadata import Metadata
from detection.utils.errors import UserError

NEEDS = "`uv pip install --group export`, or `pip install onnxruntime`, installs it"


# in this order; others, such as TensorRT's, round otherwise or compile for minutes
PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]


class Detections(NamedTuple):
    """
    What is found in an image, the best first.

    Attributes:
        boxes: float32 (K, 4), corners in pixels of the image.
        scores: float32 (K,).
        labels: int64 (K,), positions in `classes`.
        masks: K bool (H, W); None if the model has none.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[np.ndarray] | None


class OnnxDetector:
    """
    A detector from a file of tools/export.py.

    Attributes:
        metadata: what the file says of itself.
    """

    def __init__(self, file: str | Path, threads: int = 0, is_on_cpu: bool = False):
        """
        Args:
            file: the .onnx file.
            threads: of a run on the CPU; 0: as many as there are cores.
            is_on_cpu: even where ONNX Runtime has a GPU.

        Raises:
            UserError: ONNX Runtime is missing, or the file is not such a file.
        """
        try:
            import onnxruntime
        except ImportError as e:
            raise UserError(f"{file}: needs onnxruntime; {NEEDS}") from e
        if not Path(file).is_file():
            raise UserError(f"{file}: no such file; tools/export.py writes one")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        known = onnxruntime.get_available_providers()
        wanted = ["CPUExecutionProvider"] if is_on_cpu else PROVIDERS
        providers = [name for name in wanted if name in known]
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        except Exception as e:  # its own, which have no common class
            raise UserError(f"{file}: cannot be run ({_reason(e)}); export again") from e
        self._file = str(file)
        texts = self._session.get_modelmeta().custom_metadata_map
        self.metadata = Metadata.read(texts, str(file))

    def resized(self, image: np.ndarray) -> np.ndarray:
        """An image, uint8 (H, W, 3) RGB, as the model takes it: (3, h, w)."""
        size = self.metadata.resized(*image.shape[:2])
        if size != image.shape[:2]:
            image = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        if self.metadata.channels == "BGR":
            image = image[:, :, ::-1]
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    def detect(
        self, images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """
        Detect in images, each as if it were alone.

        Args:
            images: of `resized`.
            sizes: the (height, width) that each had before.
        """
        groups = defaultdict(list)  # padding changes scores, so only equal canvases share a run
        for position, image in enumerate(images):
            groups[self.metadata.canvas_of(*image.shape[1:])].append(position)
        found = [None] * len(images)
        for canvas, positions in groups.items():
            step = self.metadata.batch or len(positions)
            for start in range(0, len(positions), step):
                part = positions[start : start + step]
                outputs = self.run([images[p] for p in part], canvas)
                for number, position in enumerate(part):
                    own = [output[number] for output in outputs]
                    inner = images[position].shape[1:]
                    found[position] = _detections(own, inner, sizes[position])
        return found

    def run(self, images: Sequence[np.ndarray], canvas: tuple[int, int]) -> list[np.ndarray]:
        """The file's outputs for images, as many as it takes at most, on canvases of one size."""
        count = self.metadata.batch or len(images)
        batch = np.zeros((count, 3, *canvas), np.uint8)
        sizes = np.ones((count, 2), np.int64)
        for number, image in enumerate(images):
            batch[number, :, : image.shape[1], : image.shape[2]] = image
            sizes[number] = image.shape[1:]
        try:
            return self._session.run(None, {"images": batch, "sizes": sizes})
        except Exception as e:  # its own, which have no common class
            height, width = canvas
            raise UserError(
                f"{self._file}: cannot be run on {count} images of {height}×{width} "
                f"({_reason(e)}); export again with --size {height}x{width}"
            ) from e


def _reason(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _detections(
    outputs: list[np.ndarray], inner: tuple[int, int], size: tuple[int, int]
) -> Detections:
    """An image's outputs in its own pixels; `inner` is its size as the model saw it."""
    boxes, scores, labels, *masks = outputs
    height, width = size
    scale = np.array([width / inner[1], height / inner[0]], np.float32)
    boxes = np.clip(boxes * np.tile(scale, 2), 0, np.array([width, height] * 2, np.float32))
    kept = (scores >= 0) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes = boxes[kept]
    if masks:
        masks = [pasted(*pair, size) for pair in zip(masks[0][kept], boxes, strict=True)]
    return Detections(boxes, scores[kept], labels[kept], masks if len(outputs) > 3 else None)
