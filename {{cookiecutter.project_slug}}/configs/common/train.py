"""What the training loop itself needs; each leaf sets its own `output_dir`."""

from detection.evaluation.competition_metrics import DEFAULT_METRIC

train = dict(
    output_dir="output",
    # a path, a URL, detectron2://…, hf://owner/name or wandb-artifact://entity/project/name:alias;
    # "": random
    init_checkpoint="",
    seed=42,  # -1: another one each time
    max_iter=10000,  # × 8 images = 20 epochs of 4,000 images
    epochs=None,  # e.g. 20: max_iter follows from the number of images and the batch
    # e.g. 8.5: max_iter follows from the measured speed, so that all is done in this time
    hours=None,
    amp=dict(enabled=False, precision="fp16"),  # or bf16, on CPUs too
    # parts of a batch that go through the model one by one, to save memory: 4 means 2 images at a
    # time of a batch of 8. The learning rate stays. "auto": as few as the largest batch fits in
    accumulate=1,
    # the layout in memory; None: on CPUs, where it is a little faster. Try True on GPUs with amp
    channels_last=None,
    clip_grad=dict(norm=None, value=None),  # norm: of all gradients together; value: of each
    freeze=[],  # names of modules or parameters that stay as loaded, e.g. ["backbone", "*.bias"]
    # of the box heads of R-CNNs: a weight for each class or {"Battery": 3}; focal_gamma=2: focal
    class_loss=dict(weights=None, focal_gamma=0),
    # the weights' moving average is evaluated and kept as the best; see detection/solver/ema.py
    ema=dict(enabled=False, decay=0.9998, warmup=10),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    precise_bn=dict(enabled=False, num_iter=200),  # only for models with trained BatchNorm
    checkpointer=dict(period=1000, max_to_keep=2),  # iterations; the best is kept as well
    # what the competition ranks by, a key of METRICS in detection/evaluation/competition_metrics.py
    metric=DEFAULT_METRIC,
    # that metric as it is logged, also what early stopping and sweeps go by; e.g. "bbox/AP"
    best_checkpointer=dict(val_metric="competition/${train.metric}", mode="max"),
    # the best and the last model to W&B: hundreds of MB a run; link_to: the best one also to the
    # Registry, e.g. "wandb-registry-model/trash"
    artifacts=dict(enabled=False, link_to=None),
    early_stopping=dict(patience=None),  # e.g. 5 evaluations without a better one; None: off
    eval_period=1000,  # iterations; 0: only at the end
    val_loss=dict(enabled=False),  # the losses on dataloader.test too, at each evaluation
    # validation images with their boxes at each evaluation, for W&B and TensorBoard; count=0: none
    pictures=dict(count=8, max_size=1024, min_score=0.3),
    log_period=20,
    # "auto": a GPU after it has computed something, or the CPU of a machine without one
    device="auto",
)
