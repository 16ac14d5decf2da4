"""RetinaNet R50-FPN, fine-tuned from COCO."""

from .common.dataset import dataloader, dataset
from .common.optim import SGD as optimizer
from .common.schedule import lr_multiplier_step as lr_multiplier
from .common.train import train
from .common.writers import writers
from .models.retinanet import model

train.output_dir = "output/retinanet_R_50_FPN"
train.init_checkpoint = (
    "detectron2://COCO-Detection/retinanet_R_50_FPN_3x/190397829/model_final_5bd44e.pkl"
)

optimizer.lr.base_lr = 0.01  # upstream trains RetinaNet at half of Faster R-CNN's rate
model.backbone.bottom_up.freeze_at = 2  # as upstream: the stem and res2 stay as pretrained
