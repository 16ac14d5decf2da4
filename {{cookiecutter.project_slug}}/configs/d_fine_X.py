"""
D-FINE X, fine-tuned from COCO after Objects365.

From COCO alone: `train.init_checkpoint=hf://ustc-community/dfine-xlarge-coco`.
"""

from .d_fine_L import dataloader, dataset, lr_multiplier, model, optimizer, train, writers

train.output_dir = "output/d_fine_X"
train.init_checkpoint = "hf://ustc-community/dfine-xlarge-obj2coco"
optimizer.params.backbone_lr_factor = 0.01

model.config.encoder_hidden_dim = 384
model.config.encoder_ffn_dim = 2048
model.config.decoder_in_channels = [384, 384, 384]
model.config.backbone_config.update(  # HGNetV2-B5
    stem_channels=[3, 32, 64],
    stage_in_channels=[64, 128, 512, 1024],
    stage_mid_channels=[64, 128, 256, 512],
    stage_num_blocks=[1, 2, 5, 2],
)
