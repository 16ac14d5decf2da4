"""Cascade R-CNN R50-FPN (Cai & Vasconcelos, 2018): upstream's Cascade Mask R-CNN without masks."""

from detectron2 import model_zoo

from detection.classes import CLASSES
from detection.modeling.anchors import set_anchors

from ..common.anchors import anchors

model = model_zoo.get_config("common/models/cascade_rcnn.py").model
for key in ("mask_in_features", "mask_pooler", "mask_head"):
    del model.roi_heads[key]

model.roi_heads.num_classes = len(CLASSES)
set_anchors(model.proposal_generator, anchors)
# mAP counts low scores too: the default of 0.05 gives part of it away
for box_predictor in model.roi_heads.box_predictors:
    box_predictor.test_score_thresh = 0.001
