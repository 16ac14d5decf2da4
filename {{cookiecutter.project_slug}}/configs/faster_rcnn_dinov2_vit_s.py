"""Faster R-CNN on DINOv2's ViT-S (Oquab et al., arXiv:2304.07193), from its weights by timm."""

from .common.dataset import dataloader, dataset
from .common.optim import AdamW as optimizer
from .common.schedule import lr_multiplier_cosine as lr_multiplier
from .common.train import train
from .common.writers import writers
from .models.vit_pyramid import model

train.output_dir = "output/faster_rcnn_dinov2_vit_s"
train.max_iter = 20000  # × 8 images = 40 epochs of 4,000 images

model.backbone.bottom_up.model_name = "vit_small_patch14_dinov2.lvd142m"
# patches of 16 pixels, into which timm resamples the weights, and images of any size
model.backbone.bottom_up.model_args = dict(patch_size=16, img_size=512, dynamic_img_size=True)

optimizer.params.layer_decay = 0.8
optimizer.params.overrides = {"pos_embed": {"weight_decay": 0.0}}
