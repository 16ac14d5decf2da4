"""Learning rate schedules, as multipliers of the optimizer's `lr`."""

from detectron2.config import LazyCall as L

from detection.schedules import cosine, multistep

# Milestones are fractions of max_iter, so that another max_iter keeps the shape; with
# warmup_fraction=0.05 and the like, warm-up is one too.
lr_multiplier_step = L(multistep)(
    max_iter="${train.max_iter}",
    milestones=[2 / 3, 8 / 9],
    gamma=0.1,
    warmup_iters=500,
    warmup_fraction=None,
)

lr_multiplier_cosine = L(cosine)(
    max_iter="${train.max_iter}", warmup_iters=500, warmup_fraction=None
)
