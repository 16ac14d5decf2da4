"""Mask R-CNN R50-FPN (He et al., 2017), for annotations with masks."""

from detectron2 import model_zoo

from detection.classes import CLASSES
from detection.modeling.anchors import set_anchors

from ..common.anchors import anchors

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.roi_heads.num_classes = len(CLASSES)
set_anchors(model.proposal_generator, anchors)
# mAP counts low scores too: the default of 0.05 gives part of it away
model.roi_heads.box_predictor.test_score_thresh = 0.001
