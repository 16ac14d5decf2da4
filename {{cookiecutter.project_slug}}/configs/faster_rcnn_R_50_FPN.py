"""Faster R-CNN R50-FPN, fine-tuned from COCO."""

from .common.dataset import dataloader, dataset
from .common.optim import SGD as optimizer
from .common.schedule import lr_multiplier_step as lr_multiplier
from .common.train import train
from .common.writers import writers
from .models.faster_rcnn import model

__all__ = ["dataloader", "dataset", "lr_multiplier", "model", "optimizer", "train", "writers"]

train.output_dir = "output/faster_rcnn_R_50_FPN"
train.init_checkpoint = (
    "detectron2://COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl"
)
train.max_iter = 10000  # × 8 images = 20 epochs of 4,000 images

dataloader.train.total_batch_size = 8  # the learning rate follows it
