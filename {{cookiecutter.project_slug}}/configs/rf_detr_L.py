"""RF-DETR L, fine-tuned from COCO."""

from .rf_detr_M import dataloader, dataset, lr_multiplier, model, optimizer, train, writers

train.output_dir = "output/rf_detr_L"
train.init_checkpoint = "hf://Roboflow/rf-detr-large"

model.config.backbone_config.image_size = 704
model.multi_scale = list(range(544, 865, 32))
for split in ("train", "test"):
    dataloader[split].mapper.augmentations[0].short_edge_length = 704
