"""RT-DETRv2 X, on ResNet-101, fine-tuned from COCO."""

from .rt_detr_v2_R_50 import dataloader, dataset, lr_multiplier, model, optimizer, train, writers

train.output_dir = "output/rt_detr_v2_X"
train.init_checkpoint = "hf://PekingU/rtdetr_v2_r101vd"
optimizer.params.backbone_lr_factor = 0.01

model.config.encoder_hidden_dim = 384
model.config.encoder_ffn_dim = 2048
model.config.decoder_in_channels = [384, 384, 384]
model.config.backbone_config.depths = [3, 4, 23, 3]
