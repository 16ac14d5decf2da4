"""Turns a record of the data set into a model input: reads, augments, checks."""

from collections.abc import Sequence
from itertools import compress

import cv2
import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from detection.data import albumentations as albumentations_adapter
from detection.data.samples import Sample, as_gt_masks, corners, read_mask, transformed
from detection.data.transforms import Pipeline
from detection.utils.errors import UserError
from detection.utils.images import read_image


class BoxMapper:
    """
    detectron2's `DatasetMapper` for boxes and masks, faster, with more kinds of augmentation.

    A training image passes `mixing`, `transforms`, `albumentations` and `augmentations` in this
    order; all see RGB. Images and boxes come out as from `DatasetMapper` with the same
    `augmentations`, except that resized boxes of whole numbers are not rounded down.
    Keypoints are left out: to train on those, use detectron2's own mapper,
    `L(DatasetMapper)(is_train=True, use_keypoint=True, augmentations=…, image_format=…)`.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence,
        image_format: str,
        mixing: Sequence = (),
        augment_until: float = 1.0,
        transforms: Sequence = (),
        albumentations: Sequence = (),
        min_area: float = 1.0,
        min_visibility: float = 0.1,
        keep_emptied: bool = True,
        masks: bool = False,
    ):
        """
        Args:
            is_train: apply the random lists, and give the model the boxes.
            augmentations: detectron2's, including the resizing.
            image_format: the model's, BGR or RGB.
            mixing: `detection.data.mixing.Mosaic` and others that combine several images.
            augment_until: the part of the training, 0 to 1, after which `mixing`, `transforms`
                and `albumentations` are left out, so that the model ends on images as they are.
            transforms: of torchvision.transforms.v2.
            albumentations: transforms of that library, if it is installed.
            min_area: boxes that augmentation leaves with fewer square pixels are dropped.
            min_visibility: boxes that it leaves with a smaller part, from 0 to 1, are dropped.
            keep_emptied: keep images that lose all boxes, as negative examples; otherwise another
                image is used instead.
            masks: give the model the masks too; `albumentations` moves only boxes.

        Raises:
            UserError: another image format, masks with albumentations, or that is missing.
        """
        if image_format not in ("BGR", "RGB"):
            raise UserError(f"image_format must be BGR or RGB, not {image_format!r}")
        if masks and albumentations:
            raise UserError(
                "albumentations do not move masks: set dataloader.train.mapper.albumentations=[]"
                " and use dataloader.train.mapper.transforms, or train a model of boxes"
            )
        self._is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self._is_bgr = image_format == "BGR"
        self._mixing = list(mixing)
        self._augment_until = augment_until
        self._limits = {"min_area": min_area, "min_visibility": min_visibility}
        self._pipelines = [
            make(given, **self._limits)
            for make, given in (
                (Pipeline, transforms),
                (albumentations_adapter.Pipeline, albumentations),
            )
            if given
        ]
        self._keep_emptied = keep_emptied
        self._masks = masks
        self._dataset = None
        self.progress = 0.0  # the part of the training that is done, which the loader sets

    def use_dataset(self, dataset: Sequence[dict]) -> None:
        """Take the other images of `mixing` from detectron2's data set dicts."""
        self._dataset = dataset
        for mix in self._mixing:
            if hasattr(mix, "use_dataset"):
                mix.use_dataset(dataset)

    def __call__(self, record: dict) -> dict | None:
        """
        Args:
            record: one of detectron2's data set dicts; it stays as it is.

        Returns:
            The record with `image`, uint8 (3, H, W), in place of its annotations, and in training
            `instances` with `gt_boxes` (x1, y1, x2, y2), `gt_classes` and, with `masks`,
            `gt_masks`. None: the image has lost all its boxes, see `keep_emptied`. After
            `augment_until` also `is_late`, so that a model leaves out its own augmentation.

        Raises:
            UserError: the image cannot be read, or its size differs from the json's.
        """
        sample = _read(record, self._masks)
        has_boxes = len(sample.boxes) > 0
        is_late = self.progress >= self._augment_until
        if self._is_train and not is_late:
            sample = self._mixed(sample)
            for pipeline in self._pipelines:
                sample = pipeline(sample)
        augmented = T.AugInput(sample.image, boxes=sample.boxes)
        transforms = self.augmentations(augmented)

        output = {key: value for key, value in record.items() if key != "annotations"}
        output["image"] = torch.from_numpy(planes(augmented.image, self._is_bgr))
        if not self._is_train:
            return output
        if is_late:
            output["is_late"] = True
        masks = [transformed(mask, transforms) for mask in sample.masks] if self._masks else None
        sample = Sample(augmented.image, augmented.boxes, sample.labels, masks)
        sample = sample.clipped(**self._limits)
        if has_boxes and not len(sample.boxes) and not self._keep_emptied:
            return None
        if "annotations" in record:
            output["instances"] = Instances(
                sample.image.shape[:2],
                gt_boxes=Boxes(torch.from_numpy(sample.boxes).float()),
                gt_classes=torch.from_numpy(sample.labels),
            )
            if self._masks:
                output["instances"].gt_masks = as_gt_masks(sample.masks, *sample.image.shape[:2])
        return output

    def _mixed(self, sample: Sample) -> Sample:
        if self._mixing and self._dataset is None:
            raise UserError(
                "mixing needs the data set: load with detection.data.loader.build_train_loader, or "
                "set dataloader.train.mapper.mixing=[]"
            )
        for mix in self._mixing:
            sample = mix(sample, self._draw, **self._limits)
        return sample

    def _draw(self, index: int | None = None) -> Sample:
        """Read image number `index` of the data set, or any."""
        if index is None:
            index = np.random.randint(len(self._dataset))
        return _read(self._dataset[index], self._masks)


def _read(record: dict, masks: bool = False) -> Sample:
    image = read_image(record["file_name"])
    height, width = image.shape[:2]
    expected = record.get("width", width), record.get("height", height)
    expected = record.get("whole_size", expected)
    if (width, height) != expected:
        raise UserError(
            f"{record['file_name']}: has {width}×{height} pixels, but the json says "
            f"{expected[0]}×{expected[1]}; `make check` lists all such files"
        )
    annotations = [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
    if masks:  # an unusable one is an empty list
        annotations = [a for a in annotations if a["segmentation"]]
    boxes = corners(annotations)
    labels = np.array([a["category_id"] for a in annotations], dtype=np.int64)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    sample = Sample(image, boxes[has_area], labels[has_area])
    if masks:
        kept = compress(annotations, has_area)
        sample = sample._replace(masks=[read_mask(a["segmentation"]) for a in kept])
    if "tile" in record:  # whose objects are chosen, so that all of them are kept
        sample = sample.cropped(*record["tile"], record["width"], record["height"]).clipped(0, 0)
        sample = sample._replace(image=np.ascontiguousarray(sample.image))  # lets the rest go
    return sample


def planes(image: np.ndarray, is_bgr: bool) -> np.ndarray:
    """
    An RGB image (H, W, 3) as contiguous planes (3, H, W), in reversed order for BGR.

    NumPy takes half as long to transpose a flipped view as decoding the JPEG takes; OpenCV is as
    fast as copying memory.
    """
    is_flipped = image.strides[1] < 0
    if is_flipped:
        image = image[:, ::-1]
    planes = np.empty((3, *image.shape[:2]), image.dtype)
    ordered = planes[::-1] if is_bgr else planes
    if image.flags.c_contiguous:
        cv2.split(image, list(ordered))
    else:
        ordered[:] = image.transpose(2, 0, 1)
    if is_flipped:
        for plane in planes:
            cv2.flip(plane, 1, dst=plane)
    return planes
