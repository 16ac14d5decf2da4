"""Cascade R-CNN R50-FPN, fine-tuned from COCO."""

from .common.dataset import dataloader, dataset
from .common.optim import SGD as optimizer
from .common.schedule import lr_multiplier_step as lr_multiplier
from .common.train import train
from .common.writers import writers
from .models.cascade_rcnn import model

train.output_dir = "output/cascade_rcnn_R_50_FPN"
# a Cascade Mask R-CNN: the weights of its mask head are left over
train.init_checkpoint = (
    "detectron2://Misc/cascade_mask_rcnn_R_50_FPN_3x/144998488/model_final_480dd8.pkl"
)
