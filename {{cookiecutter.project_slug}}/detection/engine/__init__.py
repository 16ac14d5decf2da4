"""The training loop: trainer, hooks, launch and setup."""

from detection.engine import dev_run
from detection.engine.checkpoint_hooks import (
    BestCheckpointer,
    EarlyStopping,
    ModelArtifacts,
    PeriodicCheckpointer,
)
from detection.engine.completion import Completion
from detection.engine.hooks import (
    EvalHook,
    PeriodicWriter,
    PreciseBN,
    SeedIterations,
    SyncStatistics,
)
from detection.engine.launch import run
from detection.engine.prediction_images import PredictionImages
from detection.engine.setup import find_start, prepared, set_max_iter
from detection.engine.stopping import CleanStop
from detection.engine.time_budget import TimeBudget
from detection.engine.trainer import build_trainer

__all__ = [
    "BestCheckpointer",
    "CleanStop",
    "Completion",
    "EarlyStopping",
    "EvalHook",
    "ModelArtifacts",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "PreciseBN",
    "PredictionImages",
    "SeedIterations",
    "SyncStatistics",
    "TimeBudget",
    "build_trainer",
    "dev_run",
    "find_start",
    "prepared",
    "run",
    "set_max_iter",
]
