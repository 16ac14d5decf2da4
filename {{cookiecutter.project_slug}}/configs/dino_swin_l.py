"""
DINO on Swin-L (Liu et al., 2021), from ImageNet-22k weights by timm, under the MIT License.

The authors' COCO weights: `train.init_checkpoint=checkpoint0011_4scale_swin.pth`.
"""

from detectron2.config import LazyCall as L

from detection.modeling.timm_backbone import TimmBackbone

from .dino_R_50 import dataloader, dataset, lr_multiplier, model, optimizer, train, writers

train.output_dir = "output/dino_swin_l"
train.init_checkpoint = ""

model.backbone.norm_inputs = True
model.backbone.bottom_up = L(TimmBackbone)(
    model_name="swin_large_patch4_window12_384.ms_in22k",
    out_features=["res3", "res4", "res5"],
    pretrained=True,
    checkpoint_path="",  # a file of these weights, where timm cannot download them
    gradient_checkpointing=True,
    # images of any size; windows of the last stage are shifted too, as in the authors' Swin
    model_args=dict(strict_img_size=False, always_partition=True, drop_path_rate=0.2),
)
model.transformer.gradient_checkpointing = True
