"""Faster R-CNN on a plain ViT-B (ViTDet), fine-tuned from COCO."""

from .common.dataset import dataloader, dataset
from .common.optim import AdamW as optimizer
from .common.schedule import lr_multiplier_cosine as lr_multiplier
from .common.train import train
from .common.tta import tta
from .common.writers import writers
from .models.vitdet import model

train.output_dir = "output/faster_rcnn_vitdet_b"
train.init_checkpoint = (
    "detectron2://ViTDet/COCO/mask_rcnn_vitdet_b/f325346929/model_final_61ccd1.pkl"
)

# images lie on squares of that size; of larger ones only a part would
for split in ("train", "test"):
    dataloader[split].mapper.augmentations[0].max_size = "${model.backbone.square_pad}"
tta.detector.scales = [0.6, 0.8, 1.0]

# lower rates for early blocks, as upstream
optimizer.params.layer_decay = 0.7
optimizer.params.overrides = {"pos_embed": {"weight_decay": 0.0}}
