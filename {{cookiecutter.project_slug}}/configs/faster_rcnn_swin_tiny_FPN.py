"""Faster R-CNN on Swin-T (Liu et al., 2021), from ImageNet weights by timm."""

from .common.dataset import dataloader, dataset
from .common.optim import AdamW as optimizer
from .common.schedule import lr_multiplier_cosine as lr_multiplier
from .common.train import train
from .common.writers import writers
from .models.timm_fpn import model

train.output_dir = "output/faster_rcnn_swin_tiny_FPN"
train.max_iter = 20000  # × 8 images = 40 epochs of 4,000 images

model.backbone.bottom_up.model_name = "swin_tiny_patch4_window7_224.ms_in1k"
model.backbone.bottom_up.model_args = dict(strict_img_size=False)  # images of any size
