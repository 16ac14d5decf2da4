"""Faster R-CNN R50-FPN (Ren et al., 2015): upstream's Mask R-CNN without its mask branch."""

from detectron2 import model_zoo

from detection.classes import CLASSES
from detection.modeling.anchors import set_anchors

from ..common.anchors import anchors

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
for key in ("mask_in_features", "mask_pooler", "mask_head"):
    del model.roi_heads[key]

model.roi_heads.num_classes = len(CLASSES)
set_anchors(model.proposal_generator, anchors)
# mAP counts low scores too: the default of 0.05 gives part of it away
model.roi_heads.box_predictor.test_score_thresh = 0.001
