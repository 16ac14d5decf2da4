"""Faster R-CNN R50-FPN, fine-tuned from COCO."""

from .common.dataset import dataloader, dataset
from .common.optim import SGD as optimizer
from .common.schedule import lr_multiplier_step as lr_multiplier
from .common.train import train
from .common.writers import writers
from .models.faster_rcnn import model

train.output_dir = "output/faster_rcnn_R_50_FPN"
train.init_checkpoint = (
    "detectron2://COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl"
)
