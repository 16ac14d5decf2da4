"""Faster R-CNN with a backbone of timm; `model.backbone.bottom_up.model_name=…` takes another."""

from detectron2.config import LazyCall as L

from detection.modeling.timm_backbone import TimmBackbone, pixel_statistics

from .faster_rcnn import model

model.backbone.bottom_up = L(TimmBackbone)(
    model_name="resnet50.a1_in1k",
    out_features=["res2", "res3", "res4", "res5"],
    pretrained=True,  # False: random weights, which want freeze_norm=False
    checkpoint_path="",  # a file of these weights, where timm cannot download them
    freeze_at=0,  # 2: the stem and res2 stay as pretrained
    freeze_norm=True,  # BatchNorm, where there is one
    gradient_checkpointing=False,  # True: less memory in training, and slower
    model_args={},
)

# as in the pretraining
model.input_format = "RGB"
for name in ("mean", "std"):
    model[f"pixel_{name}"] = L(pixel_statistics)(
        model_name="${..backbone.bottom_up.model_name}", of=name
    )
