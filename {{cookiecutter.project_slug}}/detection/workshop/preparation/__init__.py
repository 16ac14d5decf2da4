"""Converts, splits and pseudo-labels data sets."""
