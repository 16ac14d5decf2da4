"""Learning rate schedules, as multipliers of the optimizer's `lr`; milestones and warm-up are
fractions of the training, so that another `max_iter` keeps the shape."""

from detectron2.config import LazyCall as L

from detection.solver.schedule import cosine, multistep

# as upstream's 3x
lr_multiplier_step = L(multistep)(milestones=[7 / 9, 25 / 27], gamma=0.1, warmup=0.05)

lr_multiplier_cosine = L(cosine)(warmup=0.05)
