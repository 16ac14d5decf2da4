"""Faster R-CNN on MViTv2-T, fine-tuned from COCO."""

from .common.dataset import dataloader, dataset
from .common.optim import AdamW as optimizer
from .common.schedule import lr_multiplier_cosine as lr_multiplier
from .common.train import train
from .common.writers import writers
from .models.mvitv2_fpn import model

train.output_dir = "output/faster_rcnn_mvitv2_t_FPN"
train.init_checkpoint = (
    "detectron2://MViTv2/mask_rcnn_mvitv2_t_3x/f307611773/model_final_1a1c30.pkl"
)

# as upstream
optimizer.params.overrides = {
    name: {"weight_decay": 0.0} for name in ("pos_embed", "rel_pos_h", "rel_pos_w")
}
