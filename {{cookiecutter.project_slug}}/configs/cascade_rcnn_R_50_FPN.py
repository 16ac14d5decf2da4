"""Cascade R-CNN R50-FPN, fine-tuned from COCO."""

from .common.dataset import dataloader, dataset
from .common.optim import SGD as optimizer
from .common.schedule import lr_multiplier_step as lr_multiplier
from .common.train import train
from .common.writers import writers
from .models.cascade_rcnn import model

__all__ = ["dataloader", "dataset", "lr_multiplier", "model", "optimizer", "train", "writers"]

train.output_dir = "output/cascade_rcnn_R_50_FPN"
# a Cascade Mask R-CNN: the weights of its mask head are left over
train.init_checkpoint = (
    "detectron2://Misc/cascade_mask_rcnn_R_50_FPN_3x/144998488/model_final_480dd8.pkl"
)
train.max_iter = 10000  # × 8 images = 20 epochs of 4,000 images

dataloader.train.total_batch_size = 8  # the learning rate follows it
