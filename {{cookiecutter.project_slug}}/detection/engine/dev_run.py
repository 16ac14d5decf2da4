"""A few iterations of everything, for any config on its own data: `train_net.py --fast-dev-run`."""

import shutil
from pathlib import Path

from detectron2.config import LazyCall, instantiate
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig, OmegaConf

from detection.checkpoint.load import load_weights
from detection.config import accepts_argument
from detection.data.coco import read_coco, write_json
from detection.data.datasets import class_names, first_images
from detection.inference.batches import batches_file
from detection.inference.predictor import Predictor
from detection.inference.tiles import with_tiles
from detection.inference.tta import with_tta
from detection.modeling.build import build_model
from detection.utils import output_lock
from detection.utils.errors import UserError
from detection.utils.paths import DEV_RUN

ITERATIONS = 4
IMAGES = 8  # to evaluate and to predict on


def shorten(cfg: DictConfig) -> None:
    """
    Shorten the run, in place, and give it an output directory of its own.

    Model, data, batch size and loaders stay as they are, so that their errors show up.
    """
    train, dataloader = cfg.train, cfg.dataloader
    # the learning rates at the beginning of the whole training
    OmegaConf.resolve(cfg.lr_multiplier)
    part = min(1.0, ITERATIONS / train.max_iter)
    cfg.lr_multiplier = LazyCall(FirstPart)(schedule=cfg.lr_multiplier, part=part)
    train.output_dir = train.output_dir.rstrip("/") + DEV_RUN
    train.max_iter, train.epochs, train.hours = ITERATIONS, None, None
    train.eval_period = train.checkpointer.period = ITERATIONS // 2
    train.log_period = 1
    train.precise_bn.num_iter = 1
    if cfg.writers.get("wandb") is not None:
        cfg.writers.wandb.mode = "offline"
    if cfg.writers.get("mlflow") is not None:
        cfg.writers.mlflow.tracking_uri = f"{train.output_dir}/mlruns"

    evaluator, test = dataloader.evaluator, dataloader.test
    if "names" in test.dataset:  # the evaluator's name usually refers to it, and it moves below
        evaluator.dataset_name = test.dataset.names
    test.dataset = LazyCall(first_images)(dataset=test.dataset, count=IMAGES)
    if accepts_argument(evaluator._target_, "only_seen"):
        evaluator.only_seen = True


class FirstPart(ParamScheduler):
    """The first part of another schedule."""

    def __init__(self, schedule: ParamScheduler, part: float):
        """
        Args:
            schedule: of the whole training.
            part: the fraction of it to use.
        """
        self._schedule = schedule
        self._part = part

    def __call__(self, where: float) -> float:
        return self._schedule(where * self._part)


def clear(output_dir: str) -> None:
    """
    Remove the files of an earlier dev run.

    Raises:
        UserError: they cannot be removed, or the output directory is not on this machine.
    """
    if "://" in output_dir:
        raise UserError(f"{output_dir}: --fast-dev-run needs a local folder as train.output_dir")
    if comm.is_main_process():
        try:
            for path in Path(output_dir).iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != output_lock.NAME:
                    path.unlink()
        except OSError as e:
            raise UserError(f"{output_dir}: cannot be removed ({e}); remove it by hand") from e
    comm.synchronize()


def finish(cfg: DictConfig) -> None:
    """Predict with the weights that the training saved, and report success."""
    if comm.is_main_process():
        output_dir = Path(cfg.train.output_dir)
        val = MetadataCatalog.get(instantiate(cfg.dataloader.evaluator.dataset_name))
        coco = read_coco(val.json_file)
        coco["images"] = coco["images"][:IMAGES]
        model = build_model(cfg, pretrained=False).eval()
        load_weights(model, cfg.train.output_dir, "last", class_names(cfg))
        model = with_tiles(cfg, with_tta(cfg, model))
        predictor = Predictor(cfg, model, coco, val.image_root, 2, 0)
        output = output_dir / "predictions.json"
        write_json(predictor.predict(output, settings={}), str(output))
        batches_file(output).unlink()
        print(
            f"all is well: {ITERATIONS} iterations of {cfg.dataloader.train.total_batch_size} "
            f"images on {comm.get_world_size()} × {cfg.train.device}, 2 evaluations, checkpoints, "
            f"predictions on {len(coco['images'])} images; all of it in {output_dir}"
        )
    comm.synchronize()
