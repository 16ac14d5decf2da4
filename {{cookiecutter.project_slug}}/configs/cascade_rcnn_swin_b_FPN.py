"""Cascade R-CNN on Swin-B, fine-tuned from COCO."""

from .common.dataset import dataloader, dataset
from .common.optim import AdamW as optimizer
from .common.schedule import lr_multiplier_cosine as lr_multiplier
from .common.train import train
from .common.writers import writers
from .models.swin_fpn import model

train.output_dir = "output/cascade_rcnn_swin_b_FPN"
train.init_checkpoint = (
    "detectron2://ViTDet/COCO/cascade_mask_rcnn_swin_b_in21k/f342979038/model_final_246a82.pkl"
)

# as upstream
optimizer.params.overrides = {"relative_position_bias_table": {"weight_decay": 0.0}}
