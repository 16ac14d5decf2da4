"""Searches for better settings without a server: Optuna's studies of a sweep.yaml."""
