"""FCOS R50-FPN (Tian et al., 2019), without anchors."""

from detectron2 import model_zoo

from detection.classes import CLASSES
from detection.modeling.fcos import FCOSHead

model = model_zoo.get_config("common/models/fcos.py").model
model.num_classes = len(CLASSES)
model.head._target_ = FCOSHead  # mixed precision works
# mAP counts low scores too: the default of 0.2 gives part of it away
model.test_score_thresh = 0.001
