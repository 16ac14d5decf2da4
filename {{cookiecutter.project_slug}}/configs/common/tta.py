"""Test-time augmentation, for `predict.py` and `train_net.py --eval-only`: `tta.enabled=True`."""

from detectron2.config import LazyCall as L

from detection.inference.tta import DetectorWithTTA

tta = dict(
    enabled=False,
    detector=L(DetectorWithTTA)(
        # each view costs another pass of the model: here six
        scales=[0.8, 1.0, 1.2],  # of the size that dataloader.test's mapper gives
        horizontal_flip=True,
        vertical_flip=False,
        image_format="${dataloader.test.mapper.image_format}",
        method="wbf",  # or nms, soft_nms, nmw
        iou_threshold=0.55,
        max_per_image=100,
    ),
)
