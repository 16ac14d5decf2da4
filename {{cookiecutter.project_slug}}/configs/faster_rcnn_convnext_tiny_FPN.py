"""Faster R-CNN on ConvNeXt-Tiny (Liu et al., 2022), from ImageNet weights by timm."""

from .common.dataset import dataloader, dataset
from .common.optim import AdamW as optimizer
from .common.schedule import lr_multiplier_cosine as lr_multiplier
from .common.train import train
from .common.writers import writers
from .models.timm_fpn import model

train.output_dir = "output/faster_rcnn_convnext_tiny_FPN"
train.max_iter = 20000  # × 8 images = 40 epochs of 4,000 images

model.backbone.bottom_up.model_name = "convnext_tiny.in12k_ft_in1k"
