"""RT-DETRv2 R50, fine-tuned from COCO."""

from .common.detr import dataloader, dataset, lr_multiplier, optimizer, train, writers
from .models.rt_detr_v2 import model

train.output_dir = "output/rt_detr_v2_R_50"
train.init_checkpoint = "hf://PekingU/rtdetr_v2_r50vd"
