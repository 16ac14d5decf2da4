"""
DINO R50, from ImageNet weights.

The authors' COCO weights (https://github.com/IDEA-Research/DINO, a Google Drive folder) are loaded
as they are: `train.init_checkpoint=checkpoint0011_4scale.pth`.
"""

from .common.augmentations import crops
from .common.dataset import dataloader, dataset
from .common.optim import AdamW as optimizer
from .common.schedule import lr_multiplier_late as lr_multiplier
from .common.train import train
from .common.writers import writers
from .models.dino import model

train.output_dir = "output/dino_R_50"
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.max_iter = 6000  # × 8 images = 12 epochs of 4,000 images; more without COCO weights
train.clip_grad.norm = 0.1

optimizer.params.backbone_lr_factor = 0.1
optimizer.weight_decay = 1e-4
lr_multiplier.milestones = [11 / 12]

dataloader.train.mapper.transforms = crops
dataloader.train.mapper.augmentations[0].short_edge_length = list(range(480, 801, 32))
dataloader.test.mapper.augmentations[0].short_edge_length = 800
