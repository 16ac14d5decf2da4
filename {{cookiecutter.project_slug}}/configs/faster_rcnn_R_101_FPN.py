"""
Faster R-CNN R101-FPN, fine-tuned from COCO.

Depth is one override wherever the backbone is a ResNet; for Cascade R-CNN, with ImageNet weights:

    train_net.py --config-file configs/cascade_rcnn_R_50_FPN.py \\
        model.backbone.bottom_up.stages.depth=101 train.output_dir=output/cascade_rcnn_R_101_FPN \\
        train.init_checkpoint=detectron2://ImageNetPretrained/MSRA/R-101.pkl
"""

from .faster_rcnn_R_50_FPN import (
    dataloader,
    dataset,
    lr_multiplier,
    model,
    optimizer,
    train,
    writers,
)

train.output_dir = "output/faster_rcnn_R_101_FPN"
train.init_checkpoint = (
    "detectron2://COCO-Detection/faster_rcnn_R_101_FPN_3x/137851257/model_final_f6e8b1.pkl"
)
model.backbone.bottom_up.stages.depth = 101
