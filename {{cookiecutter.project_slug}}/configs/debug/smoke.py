"""Runs everything once, in minutes on two CPU cores, on the data of tools/make_toy_dataset.py."""

from detectron2.layers import ShapeSpec

from detection.modeling.anchors import set_anchors

from ..common.dataset import dataloader, dataset
from ..common.optim import SGD as optimizer
from ..common.schedule import lr_multiplier_cosine as lr_multiplier
from ..common.train import train
from ..common.writers import writers
from ..models.faster_rcnn import model

dataset.folds = "datasets/toy/folds"
for split in ("train", "val"):
    dataset[split].json_file = f"datasets/toy/{split}.json"
    dataset[split].image_root = "datasets/toy/images"

train.output_dir = "output/smoke"
train.max_iter = 500
train.eval_period = 250
train.checkpointer.period = 250

# the toy images as they are; small ones, so that a step takes a fraction of a second
dataloader.train.mapper.augmentations[0].short_edge_length = (128,)
dataloader.test.mapper.augmentations[0].short_edge_length = 128
# loading them takes less time than starting a process
dataloader.train.num_workers = dataloader.test.num_workers = 0

# trained from random weights: a short warm-up, and BatchNorm instead of frozen statistics
optimizer.lr = 0.03
lr_multiplier.warmup = 0.1
backbone = model.backbone.bottom_up
backbone.stem.norm = "BN"
backbone.stages.norm = "BN"
model.backbone.norm = "BN"
model.pixel_std = [57.375, 57.120, 58.395]

# ResNet-18 without its last stage, and a pyramid of 64 channels in place of 256
backbone.stages.depth = 18
del backbone.stages.stride_in_1x1  # ResNet-50's blocks only
backbone.out_features = ["res2", "res3", "res4"]
model.backbone.out_channels = 64
model.backbone.top_block = None

# three levels, with anchors as large as the toy objects
model.proposal_generator.in_features = ["p2", "p3", "p4"]
model.proposal_generator.head.in_channels = 64
model.proposal_generator.anchor_generator.strides = [4, 8, 16]
set_anchors(model.proposal_generator, dict(sizes=[16, 32, 64], aspect_ratios=[0.5, 1.0, 2.0]))
model.roi_heads.box_in_features = ["p2", "p3", "p4"]
model.roi_heads.box_pooler.scales = [1 / 4, 1 / 8, 1 / 16]

# few proposals and a small head: an image holds a handful of objects
model.proposal_generator.batch_size_per_image = 64
model.proposal_generator.pre_nms_topk = (200, 200)
model.proposal_generator.post_nms_topk = (100, 100)
model.roi_heads.batch_size_per_image = 64
model.roi_heads.positive_fraction = 0.5
model.roi_heads.box_head.input_shape = ShapeSpec(channels=64, height=7, width=7)
model.roi_heads.box_head.fc_dims = [128]
model.roi_heads.box_predictor.input_shape = ShapeSpec(channels=128)
