"""Kaggle: a folder to upload, what its notebooks run, and the official command."""
