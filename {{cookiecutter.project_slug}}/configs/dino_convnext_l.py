"""DINO on ConvNeXt-L (Liu et al., 2022), from ImageNet-22k weights by timm, under Apache-2.0."""

from .dino_swin_l import dataloader, dataset, lr_multiplier, model, optimizer, train, writers

train.output_dir = "output/dino_convnext_l"

model.backbone.bottom_up.model_name = "convnext_large.fb_in22k"
model.backbone.bottom_up.model_args = dict(drop_path_rate=0.2)
