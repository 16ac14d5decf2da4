#!/usr/bin/env python
"""
Train or evaluate a detector that a LazyConfig describes:

    python train_net.py --config-file configs/faster_rcnn_R_50_FPN.py train.max_iter=1000
    python train_net.py --config-file … --resume
    python train_net.py --config-file … --eval-only train.init_checkpoint=output/…/model_best.pth
    python train_net.py --config-file … --fast-dev-run
    torchrun --nproc-per-node 4 train_net.py --config-file …

The config defines `model`, `dataloader`, `optimizer` and `lr_multiplier`, as detectron2's own do.
"""

from detection.utils.arguments import early_args, parse_args

if __name__ == "__main__":  # before the imports below, which take seconds
    args = early_args(parse_args, __doc__)

from collections.abc import Callable

from detectron2.config import instantiate
from detectron2.engine import HookBase, hooks
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from detection.checkpoint.checkpointer import build_checkpointer
from detection.checkpoint.load import load_weights
from detection.config import load_config
from detection.data.datasets import class_names
from detection.engine import (
    BestCheckpointer,
    CleanStop,
    Completion,
    EarlyStopping,
    EvalHook,
    ModelArtifacts,
    PeriodicCheckpointer,
    PeriodicWriter,
    PreciseBN,
    PredictionImages,
    SeedIterations,
    SyncStatistics,
    TimeBudget,
    build_trainer,
    find_start,
    prepared,
    run,
    set_max_iter,
)
from detection.evaluation.evaluate import evaluate
from detection.evaluation.validation_loss import with_validation_losses
from detection.inference.tiles import with_tiles
from detection.inference.tta import with_tta
from detection.modeling.build import build_model
from detection.solver.ema import EMAHook
from detection.solver.optimizer import build_optimizer
from detection.writers.build import build_writers


def build_test(cfg, model, *onlookers: DatasetEvaluator) -> Callable[[], dict]:
    """Build the evaluation on `dataloader.test` now: bad data fails before training starts."""
    loader = instantiate(cfg.dataloader.test)
    evaluators = DatasetEvaluators([instantiate(cfg.dataloader.evaluator), *onlookers])
    return lambda: evaluate(with_tiles(cfg, model), loader, evaluators)


def do_test(cfg, model) -> dict:
    """Evaluate once; returns {task: {metric: value}}."""
    return build_test(cfg, model)()


def build_hooks(args, cfg, model, checkpointer) -> list[HookBase | None]:
    """The hooks of a training, in the order in which they run around each iteration."""
    train, val_metric = cfg.train, cfg.train.best_checkpointer.val_metric
    writers = build_writers(cfg)  # terminal, metrics.json, TensorBoard, W&B
    test_set = instantiate(cfg.dataloader.evaluator.dataset_name)
    pictures = PredictionImages(test_set, writers, **train.pictures)
    ema = EMAHook(model, **train.ema)
    evaluated = ema.model  # `model` itself unless train.ema.enabled
    test = with_validation_losses(cfg, evaluated, build_test(cfg, evaluated, pictures))
    budget = TimeBudget(cfg, args.started, checkpointer, test)  # train.hours
    step_hooks = [
        budget,
        hooks.IterationTimer(warmup_iter=1),  # early: it times the step, not the other hooks
        SeedIterations(train.seed),
        hooks.LRScheduler(scheduler=budget.paced(instantiate(cfg.lr_multiplier))),
        ema,  # before anything evaluates or saves the average
        PreciseBN.build(cfg, evaluated),  # before anything uses the statistics that it sets
        SyncStatistics([model, evaluated], train.eval_period, train.checkpointer.period),
        CleanStop(checkpointer, writers),  # on SIGTERM, SIGUSR1 or W&B's Stop button
    ]
    result_hooks = [  # a resumed run repeats these if a kill cut them off
        PeriodicCheckpointer(checkpointer, **train.checkpointer),  # before the evaluation can fail
        EvalHook(train.eval_period, test),
        pictures,  # draws what the evaluation has just predicted
        BestCheckpointer(build_checkpointer(cfg, evaluated), **train.best_checkpointer),
        EarlyStopping(checkpointer, val_metric, train.eval_period, **train.early_stopping),
        ModelArtifacts(checkpointer, val_metric, **train.artifacts),  # to W&B, once all are saved
        *(PeriodicWriter(writer, cfg) for writer in writers),  # W&B and the others, last
    ]
    return [*step_hooks, *result_hooks, Completion(result_hooks, train.output_dir)]


def do_train(args, cfg) -> None:
    """Train from the start or, with `--resume`, from the last checkpoint."""
    start = find_start(cfg, args.resume)
    model = build_model(cfg, pretrained=start.path is None)
    train_loader = instantiate(cfg.dataloader.train)
    set_max_iter(cfg, train_loader, start)
    trainer = build_trainer(cfg, model, train_loader, build_optimizer(cfg, model))
    checkpointer = build_checkpointer(cfg, model, trainer=trainer)
    trainer.register_hooks(build_hooks(args, cfg, model, checkpointer))
    checkpointer.load_or_resume(cfg.train.init_checkpoint, last=start.path)
    trainer.train(start.iteration, cfg.train.max_iter, start.is_cut_off)


def main(args) -> None:
    notes = []  # on the learning rate, for the log
    cfg = load_config(args.config_file, args.opts, notes)
    with prepared(args, cfg, notes):
        if args.eval_only:
            model = build_model(cfg, pretrained=False).eval()
            weights = "last" if args.resume else cfg.train.init_checkpoint
            load_weights(model, cfg.train.output_dir, weights, class_names(cfg))
            do_test(cfg, with_tta(cfg, model))
        else:
            do_train(args, cfg)


if __name__ == "__main__":
    run(main, args)
