"""
Optimizers. A config imports one of them as `optimizer`, and may change it: its own lines win.

`params.model` is set to the model just before they are built.
"""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

from detection.solver.optimizer import adamw, layer_decayed_params, scaled_lr

# `lr` follows total_batch_size. `optimizer.lr=0.005` sets it as it is; `optimizer.lr.base_lr=0.01`
# sets the value that is scaled.
SGD = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),
    lr=L(scaled_lr)(
        base_lr=0.02,
        base_batch_size=16,
        total_batch_size="${dataloader.train.total_batch_size}",
        power=1.0,
    ),
    momentum=0.9,
    weight_decay=1e-4,
)

AdamW = L(adamw)(
    params=L(layer_decayed_params)(
        lr="${..lr}",
        layer_decay=1.0,  # e.g. 0.8: lower rates for early blocks of a pretrained backbone
        backbone_lr_factor=1.0,  # e.g. 0.1: a lower rate for all of it
        weight_decay_norm=0.0,
    ),
    lr=L(scaled_lr)(
        base_lr=1e-4,
        base_batch_size=16,
        total_batch_size="${dataloader.train.total_batch_size}",
        power=0.5,
    ),
    betas=(0.9, 0.999),
    weight_decay=0.05,
)
