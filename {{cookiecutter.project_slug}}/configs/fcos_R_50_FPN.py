"""FCOS R50-FPN, from ImageNet weights: upstream has none of COCO."""

from .models.fcos import model
from .retinanet_R_50_FPN import dataloader, dataset, lr_multiplier, optimizer, train, writers

train.output_dir = "output/fcos_R_50_FPN"
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.max_iter = 2 * train.max_iter  # the pyramid and the head have all to learn

model.backbone.bottom_up.freeze_at = 2  # as upstream: the stem and res2 stay as pretrained
