"""What the training loop itself needs; each leaf sets its own `output_dir` and `max_iter`."""

import torch

train = dict(
    output_dir="output",
    # a path, a URL, detectron2://… or wandb-artifact://entity/project/name:alias; "": random
    init_checkpoint="",
    seed=42,  # -1: another one each time
    max_iter=10000,
    amp=dict(enabled=False),  # mixed precision; needs CUDA
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    precise_bn=dict(enabled=False, num_iter=200),  # only for models with trained BatchNorm
    checkpointer=dict(period=1000, max_to_keep=2),
    best_checkpointer=dict(val_metric="bbox/AP", mode="max"),
    artifacts=dict(enabled=False),  # the best and the last model to W&B: hundreds of MB a run
    eval_period=1000,
    # validation images with their boxes at each evaluation, for W&B and TensorBoard; count=0: none
    pictures=dict(count=8, max_size=1024, min_score=0.3),
    log_period=20,
    device="cuda" if torch.cuda.is_available() else "cpu",
)
