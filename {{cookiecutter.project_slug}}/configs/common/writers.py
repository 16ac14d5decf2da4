"""Where metrics go. Switch a writer off with e.g. `writers.tensorboard=null`."""

from detectron2.config import LazyCall as L

from detection.writers.files import JSONWriter, TensorboardWriter
from detection.writers.metric_names import MetricNames
from detection.writers.mlflow_writer import MLflowWriter
from detection.writers.terminal import TqdmMetricPrinter
from detection.writers.wandb_writer import WandbWriter

names = L(MetricNames)(
    preset="{{ cookiecutter.metric_names }}",  # mmdet2, mmdet3 or detectron2
    dataset_name="${dataloader.evaluator.dataset_name}",
)
writers = dict(
    tqdm=L(TqdmMetricPrinter)(
        max_iter="${train.max_iter}",
        period="${train.log_period}",
        best_metric="${train.best_checkpointer.val_metric}",
        mode="${train.best_checkpointer.mode}",
        bar=None,  # True, False; None: a bar on a terminal, plain lines elsewhere
    ),
    json=L(JSONWriter)(json_file="${train.output_dir}/metrics.json", period="${train.log_period}"),
    tensorboard=L(TensorboardWriter)(log_dir="${train.output_dir}", period="${train.log_period}"),
    wandb=L(WandbWriter)(
        project="{{ cookiecutter.wandb_project }}",
        entity="{{ cookiecutter.wandb_entity }}",  # empty: your default one
        name=None,  # None: the output directory's name
        group=None,  # of runs; None: the folds of an experiment are one
        tags=[],
        notes=None,
        output_dir="${train.output_dir}",
        period="${train.log_period}",
        metric_names=names,
        mode=None,  # online, offline, disabled; None: online if a key is configured
        init_timeout=15,  # seconds until a silent server means offline
        finish_timeout=60,  # seconds at the end for what is still to be sent
        dataset="hashes",  # as an artifact: hashes and counts; files: the json files too; None
        alerts=False,  # True: when it ends or gets no better; or e.g. {no_better_for: 5}
        best="${train.best_checkpointer}",  # what alerts go by
        capture=[],  # what else to record: code, console, git, machine, requirements, stats
    ),
    mlflow=L(MLflowWriter)(
        enabled=False,  # True: MLflow too, which `uv pip install --group mlflow` installs
        tracking_uri=None,  # a server or a folder; None: MLFLOW_TRACKING_URI, else output/mlruns
        experiment="{{ cookiecutter.project_slug }}",
        name=None,  # None: the output directory's name
        tags={},
        output_dir="${train.output_dir}",
        period="${train.log_period}",
        metric_names=names,
        timeout=30,  # seconds that a silent server may hold up a training, once
    ),
)
