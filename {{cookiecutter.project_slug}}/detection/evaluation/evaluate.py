"""Evaluates a model on a loader of validation images."""

from collections.abc import Iterable
from functools import partial

import torch
from detectron2.evaluation import DatasetEvaluator, inference_context, inference_on_dataset

from detection.data.batching import detect
from detection.utils.signals import outliving_stop


def evaluate(
    model: torch.nn.Module, loader: Iterable[list[dict]], evaluator: DatasetEvaluator
) -> dict:
    """
    Predict on all images, those of one padded size together, and evaluate.

    Args:
        model: its mode, training or evaluation, is restored.
        loader: batches of detectron2's model inputs.
        evaluator: receives inputs and outputs.

    Returns:
        {task: {metric: value}}.
    """
    with inference_context(model):
        return inference_on_dataset(partial(detect, model), outliving_stop(loader), evaluator)
