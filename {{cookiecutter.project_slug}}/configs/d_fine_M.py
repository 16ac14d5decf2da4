"""
D-FINE M, fine-tuned from COCO after Objects365.

From COCO alone: `train.init_checkpoint=hf://ustc-community/dfine-medium-coco`.
"""

from .d_fine_L import dataloader, dataset, lr_multiplier, model, optimizer, train, writers

train.output_dir = "output/d_fine_M"
train.init_checkpoint = "hf://ustc-community/dfine-medium-obj2coco"
optimizer.params.backbone_lr_factor = 0.1

model.config.depth_mult = 0.67
model.config.decoder_layers = 4
model.config.encoder_in_channels = [384, 768, 1536]
model.config.freeze_backbone_batch_norms = False  # as the authors trained it
model.config.backbone_config.update(  # HGNetV2-B2
    use_learnable_affine_block=True,
    hidden_sizes=[192, 384, 768, 1536],
    stem_channels=[3, 24, 32],
    stage_in_channels=[32, 96, 384, 768],
    stage_mid_channels=[32, 64, 128, 256],
    stage_out_channels=[96, 384, 768, 1536],
    stage_numb_of_layers=[4, 4, 4, 4],
)
