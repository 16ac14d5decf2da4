"""Cascade R-CNN on Swin-B, fine-tuned from COCO."""

from .common.dataset import dataloader, dataset
from .common.optim import AdamW as optimizer
from .common.schedule import lr_multiplier_cosine as lr_multiplier
from .common.train import train
from .common.writers import writers
from .models.swin_fpn import model

__all__ = ["dataloader", "dataset", "lr_multiplier", "model", "optimizer", "train", "writers"]

train.output_dir = "output/cascade_rcnn_swin_b_FPN"
train.init_checkpoint = (
    "detectron2://ViTDet/COCO/cascade_mask_rcnn_swin_b_in21k/f342979038/model_final_246a82.pkl"
)
train.max_iter = 10000  # × 8 images = 20 epochs of 4,000 images

dataloader.train.mapper.image_format = "RGB"
dataloader.train.total_batch_size = 8  # the learning rate follows it

# as upstream
optimizer.params.overrides = {"relative_position_bias_table": {"weight_decay": 0.0}}
