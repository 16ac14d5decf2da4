"""The project's library: data, evaluation, metric names, writers and hooks for detectron2."""
