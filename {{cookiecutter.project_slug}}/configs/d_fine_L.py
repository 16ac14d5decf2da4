"""
D-FINE L, fine-tuned from COCO after Objects365.

From COCO alone: `train.init_checkpoint=hf://ustc-community/dfine-large-coco`.
"""

from .common.detr import dataloader, dataset, lr_multiplier, optimizer, train, writers
from .models.d_fine import model

train.output_dir = "output/d_fine_L"
train.init_checkpoint = "hf://ustc-community/dfine-large-obj2coco-e25"

optimizer.lr.base_lr = 2.5e-4
optimizer.lr.base_batch_size = 32
optimizer.weight_decay = 1.25e-4
optimizer.params.backbone_lr_factor = 0.05
