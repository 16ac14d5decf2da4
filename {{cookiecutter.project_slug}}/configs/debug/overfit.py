"""Overfits four images: if AP does not approach 100, the data, the model or the loss is broken."""

from detectron2.config import LazyCall as L

from detection.data.datasets import first_images

from .smoke import dataloader, dataset, lr_multiplier, model, optimizer, train, writers

train.output_dir = "output/overfit"
train.max_iter = 300
train.eval_period = 100
train.checkpointer.period = 300

# the same four images to train and to evaluate on, always in one batch and never changed
dataloader.train.dataset = L(first_images)(dataset=dataloader.train.dataset, count=4)
dataloader.train.total_batch_size = 4
dataloader.train.mapper.augmentations.pop(1)  # the flip
dataloader.test.dataset = dataloader.train.dataset
dataloader.evaluator.dataset_name = "${dataloader.train.dataset.dataset.names}"
dataloader.evaluator.only_seen = True
