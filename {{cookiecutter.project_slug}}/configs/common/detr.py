"""The recipe that RT-DETR and its successors are fine-tuned by; their leaves begin with it."""

from detectron2.config import LazyCall as L

from detection.data.resizing import ResizeSquare

from .augmentations import zoom
from .dataset import dataloader, dataset
from .optim import AdamW as optimizer
from .schedule import lr_multiplier_late as lr_multiplier
from .train import train
from .writers import writers

train.clip_grad.norm = 0.1
train.ema.enabled = True
train.ema.decay = 0.9999

optimizer.params.backbone_lr_factor = 0.1
optimizer.weight_decay = 1e-4

# squares, not padded images; `model.multi_scale` changes the size of whole training batches
for split in ("train", "test"):
    dataloader[split].mapper.augmentations[0] = L(ResizeSquare)(
        short_edge_length=640, letterbox=False
    )
dataloader.train.aspect_ratio_grouping = False
dataloader.train.mapper.transforms = zoom  # until dataloader.train.mapper.augment_until
