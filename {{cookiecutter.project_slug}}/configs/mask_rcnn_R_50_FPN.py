"""Mask R-CNN R50-FPN, fine-tuned from COCO: boxes as Faster R-CNN's, and masks."""

from .faster_rcnn_R_50_FPN import dataloader, dataset, lr_multiplier, optimizer, train, writers
from .models.mask_rcnn import model

train.output_dir = "output/mask_rcnn_R_50_FPN"
train.init_checkpoint = (
    "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
)

dataloader.train.dataset.masks = True
dataloader.train.mapper.masks = True
