"""The training loop: trainer, hooks, launch and setup."""
