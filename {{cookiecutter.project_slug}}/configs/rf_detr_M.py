"""RF-DETR M, fine-tuned from COCO."""

from .common.detr import dataloader, dataset, lr_multiplier, optimizer, train, writers
from .models.rf_detr import model

train.output_dir = "output/rf_detr_M"
train.init_checkpoint = "hf://Roboflow/rf-detr-medium"
train.ema.decay = 0.993

# as the authors: early blocks of the ViT learn more slowly
optimizer.params.backbone_lr_factor = 0.735
optimizer.params.layer_decay = 0.8
optimizer.params.overrides = {
    name: {"weight_decay": 0.0} for name in ("position_embeddings", "cls_token", "lambda1")
}

dataloader.train.mapper.transforms = []  # and several sizes to the end
dataloader.train.mapper.augment_until = 1.0
for split in ("train", "test"):
    dataloader[split].mapper.augmentations[0].short_edge_length = 576
