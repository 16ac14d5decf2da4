"""Optimizer, learning rate schedule, precision and averaged weights."""
