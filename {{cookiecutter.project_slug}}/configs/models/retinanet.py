"""RetinaNet R50-FPN (Lin et al., 2017)."""

from detectron2 import model_zoo

from detection.classes import CLASSES
from detection.modeling.anchors import set_anchors

from ..common.anchors import anchors

model = model_zoo.get_config("common/models/retinanet.py").model
model.num_classes = len(CLASSES)
set_anchors(model, anchors)
# mAP counts low scores too: the default of 0.05 gives part of it away
model.test_score_thresh = 0.001
