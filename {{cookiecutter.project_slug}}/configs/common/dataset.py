"""The loaders of the data in paths.py, and the evaluator."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts

from detection.data.datasets import register_split, training_images
from detection.data.loader import build_train_loader
from detection.data.mapper import BoxMapper
from detection.evaluation.coco_evaluator import COCOEvaluator

from .augmentations import default, default_test
from .paths import dataset

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(training_images)(
            names=L(register_split)(
                name="${dataset.train.name}",
                json_file="${dataset.train.json_file}",
                image_root="${dataset.train.image_root}",
            ),
            filter_empty=True,  # leave out images without boxes; False: negative examples
            pseudo="${dataset.pseudo}",
            held_out="${dataset.val}",
        ),
        mapper=L(BoxMapper)(
            is_train=True,
            # in this order; augmentations.py has lists to choose from
            mixing=[],  # several images in one: mosaic, mixup, copy-paste
            transforms=[],  # torchvision.transforms.v2's: colour, turns, crops …
            albumentations=[],  # that library's, after `uv add albumentations`
            # of train.max_iter: then all three, and a DETR's model.multi_scale, are left out, so
            # that a training ends on images as they are
            augment_until=0.9,
            augmentations=default,  # detectron2's: resize and flip
            image_format="${oc.select:model.input_format,BGR}",  # BGR: FCOS does not say
            # drop boxes that augmentation leaves smaller (square pixels) or less visible
            min_area=1.0,
            min_visibility=0.1,
            keep_emptied=True,  # images that lose all boxes: negative examples; False: replaced
        ),
        tiles="${oc.select:tiles,null}",  # see tiles.py
        repeat_threshold=None,  # e.g. 0.05: repeat images of classes in fewer than 5% of them
        total_batch_size=8,  # over all GPUs; the learning rate follows it
        seed="${train.seed}",
        start_iter=0,  # set by a resumed training
        num_workers=4,  # for each GPU
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names=L(register_split)(
                name="${dataset.val.name}",
                json_file="${dataset.val.json_file}",
                image_root="${dataset.val.image_root}",
            ),
            filter_empty=False,
        ),
        mapper=L(BoxMapper)(
            is_train=False,
            augmentations=default_test,
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=4,
    ),
    evaluator=L(COCOEvaluator)(
        dataset_name="${..test.dataset.names}",
        output_dir="${train.output_dir}/inference",
        metric="${train.metric}",
    ),
)
