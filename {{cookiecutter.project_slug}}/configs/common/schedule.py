"""
Learning rate schedules: multipliers of the optimizer's `lr`. Milestones and warm-up are fractions
of the training, so that another `max_iter` keeps the shape.
"""

from detectron2.config import LazyCall as L

from detection.solver.schedule import cosine, multistep

# the 3x schedule of detectron2's model zoo
lr_multiplier_step = L(multistep)(milestones=[7 / 9, 25 / 27], gamma=0.1, warmup=0.05)

lr_multiplier_cosine = L(cosine)(warmup=0.05)

# constant, as for DETRs with averaged weights, and lower at the end
lr_multiplier_late = L(multistep)(milestones=[0.9], gamma=0.1, warmup=0.05)
