#!/usr/bin/env python
"""
Train or evaluate a detector that a LazyConfig describes:

    python train_net.py --config-file configs/faster_rcnn_R_50_FPN.py train.max_iter=1000
    python train_net.py --config-file … --resume
    python train_net.py --config-file … --eval-only train.init_checkpoint=output/…/model_best.pth
    python train_net.py --config-file … --fast-dev-run
    torchrun --nproc-per-node 4 train_net.py --config-file …

Any config with `model`, `dataloader.{train,test,evaluator}`, `optimizer` and `lr_multiplier` will
do, detectron2's own included; `train` and `writers` come from configs/common where it has none.
"""

import logging
import sys
from collections.abc import Callable
from functools import partial

from detectron2.config import instantiate
from detectron2.engine import HookBase, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
)
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules

from detection.checkpoint.checkpointer import WholeFileCheckpointer, last_checkpoint
from detection.checkpoint.load import load_weights
from detection.config import load_config, parse_args
from detection.data.batching import detect
from detection.data.datasets import class_names
from detection.data.loader import from_start
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
    LossNormalizer,
    PeriodicWriter,
    PreciseBN,
    SeedIterations,
    SharedStatistics,
)
from detection.engine.launch import launch
from detection.engine.prediction_images import PictureHook
from detection.engine.setup import check, check_output, quiet_setup, set_max_iter
from detection.engine.trainer import Trainer
from detection.evaluation.validation_loss import with_validation_losses
from detection.inference.tta import with_tta
from detection.modeling.build import on_device, without_pretrained
from detection.modeling.freezing import freeze
from detection.solver.ema import EMAHook
from detection.solver.precision import amp_dtype
from detection.utils.errors import UserError
from detection.utils.failures import explained
from detection.utils.logging import quiet_console
from detection.utils.output_lock import locked_output

logger = logging.getLogger("detectron2")


def build_test(cfg, model, *onlookers: DatasetEvaluator) -> Callable[[], dict]:
    """
    The evaluation on `dataloader.test`, built ahead so that bad data is told before training.

    `onlookers` see all predictions too.
    """
    test_loader, evaluator = instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    evaluators = DatasetEvaluators([evaluator, *onlookers])

    def test() -> dict:
        with inference_context(model):
            return inference_on_dataset(partial(detect, model), test_loader, evaluators)

    return test


def do_test(cfg, model) -> dict:
    """Evaluate once; returns {task: {metric: value}}."""
    return build_test(cfg, model)()


def build_hooks(cfg, model, checkpointer, is_cut_off=False) -> list[HookBase | None]:
    """
    What happens around each iteration, in this order; `model` is what is trained.

    `is_cut_off`: the resumed run was killed between a checkpoint and the end of its iteration.
    """
    is_main = comm.is_main_process()
    writers = [instantiate(w) for w in cfg.writers.values() if w is not None and is_main]
    test_set = instantiate(cfg.dataloader.evaluator.dataset_name)
    pictures = PictureHook(test_set, writers, **cfg.train.pictures)
    ema = None
    if cfg.train.ema.enabled:
        ema = EMAHook(model, cfg.train.ema.decay, cfg.train.ema.warmup)
    evaluated = ema.model if ema else model
    test = build_test(cfg, evaluated, pictures)
    val_metric = cfg.train.best_checkpointer.val_metric
    train_hooks = [
        # first, so that it times the step and not the other hooks; every step, so that a resumed
        # run has a time for each row, as one that was never interrupted
        hooks.IterationTimer(warmup_iter=1),
        SeedIterations(cfg.train.seed),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        LossNormalizer(model),
        # before all that evaluates or saves its average
        ema,
        # before checkpoint and evaluation, which use the statistics that it sets
        PreciseBN(
            cfg.train.eval_period,
            evaluated,
            instantiate(from_start(cfg.dataloader.train)),
            cfg.train.precise_bn.num_iter,
        )
        if cfg.train.precise_bn.enabled and get_bn_modules(evaluated)
        else None,
        # after what sets statistics, before what saves or evaluates them
        SharedStatistics(
            [model, evaluated] if ema else [model],
            *(cfg.train.eval_period, cfg.train.checkpointer.period),
        ),
    ]
    # what a resumed run can make up for, from the checkpoint that it begins with
    result_hooks = [
        # before the evaluation, so that a crash there loses no training
        PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if is_main else None,
        EvalHook(cfg.train.eval_period, with_validation_losses(cfg, evaluated, test)),
        # after the evaluation, whose predictions it draws
        pictures,
        # after the evaluation, whose result it reads
        BestCheckpointer(
            WholeFileCheckpointer(evaluated, cfg.train.output_dir, classes=checkpointer.classes),
            **cfg.train.best_checkpointer,
        ),
        # after that one, whose record it reads
        EarlyStopping(
            checkpointer,
            val_metric,
            cfg.train.eval_period,
            **cfg.train.early_stopping,
            is_cut_off=is_cut_off,
        ),
        # after all that saves checkpoints
        ModelArtifacts(checkpointer, val_metric)
        if cfg.train.artifacts.enabled and is_main
        else None,
        # after all hooks that store what they write
        *(PeriodicWriter(writer, cfg, is_cut_off) for writer in writers),
    ]
    # last, as it notes that all others have run
    return [*train_hooks, *result_hooks, Completion(result_hooks, cfg.train.output_dir, is_cut_off)]


def do_train(args, cfg) -> None:
    """Train from the start, or from the last checkpoint with `--resume`."""
    saved = last_checkpoint(cfg.train.output_dir) if args.resume else None
    model = instantiate(without_pretrained(cfg.model) if saved else cfg.model)
    with quiet_console():
        logger.info(f"Model:\n{model}")
    on_device(model, cfg.train.device, cfg.train.channels_last)
    freeze(model, cfg.train.freeze)

    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    cfg.optimizer.params.pop("model")

    checkpointer = WholeFileCheckpointer(model, cfg.train.output_dir, classes=class_names(cfg))
    start_iter = saved.iteration + 1 if saved else 0
    is_cut_off = comm.all_gather(saved is not None and saved.is_cut_off)[0]
    starts = comm.all_gather(start_iter)
    if len(set(starts)) > 1:
        raise UserError(
            f"{cfg.train.output_dir}: the processes see different last checkpoints ({starts} "
            "iterations); it has to be on a disk that all machines share"
        )
    if "start_iter" in cfg.dataloader.train:
        cfg.dataloader.train.start_iter = start_iter
    train_loader = instantiate(cfg.dataloader.train)
    set_max_iter(cfg, train_loader)
    if start_iter >= cfg.train.max_iter + is_cut_off:
        longer = "train.max_iter" if cfg.train.epochs is None else "train.epochs"
        raise UserError(
            f"{cfg.train.output_dir}: already trained for {start_iter} iterations; "
            f"set a higher {longer} to go on"
        )
    # a device of its own for each process, unless they share the CPU
    devices = {"device_ids": None} if cfg.train.device == "cpu" else {}
    trainer = Trainer(
        create_ddp_model(model, **cfg.train.ddp, **devices),
        train_loader,
        optimizer,
        amp_dtype(**cfg.train.amp, device=cfg.train.device),
        **cfg.train.clip_grad,
        output_dir=cfg.train.output_dir,
    )
    checkpointer.add_checkpointable("trainer", trainer)
    trainer.register_hooks(build_hooks(cfg, model, checkpointer, is_cut_off))
    if saved:
        checkpointer.resume(saved.path)
    else:
        checkpointer.load(cfg.train.init_checkpoint, checkpointables=[])
    trainer.train(start_iter, cfg.train.max_iter)


def main(args) -> None:
    cfg = load_config(args.config_file, args.opts)
    if args.fast_dev_run:
        dev_run.shorten(cfg)
    check(args, cfg)
    if args.eval_only:
        with explained(cfg.train.output_dir, remedy="the same command evaluates again"):
            quiet_setup(cfg, args)
            model = instantiate(without_pretrained(cfg.model))
            on_device(model, cfg.train.device, cfg.train.channels_last)
            weights = "last" if args.resume else cfg.train.init_checkpoint
            load_weights(model, cfg.train.output_dir, weights, class_names(cfg))
            do_test(cfg, with_tta(cfg, model.eval()))
        return
    with locked_output(cfg.train.output_dir), explained(cfg.train.output_dir):
        if args.fast_dev_run:
            dev_run.clear(cfg.train.output_dir)
        check_output(args, cfg)
        quiet_setup(cfg, args)
        do_train(args, cfg)
        if args.fast_dev_run:
            dev_run.finish(cfg)


if __name__ == "__main__":
    args = parse_args(sys.argv[1:], epilog=__doc__)
    try:
        launch(main, args)
    except UserError as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit("interrupted; --resume goes on from the last checkpoint")
