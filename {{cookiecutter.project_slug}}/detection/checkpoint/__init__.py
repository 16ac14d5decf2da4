"""Weight files and checkpoints: reading them safely, writing them whole, resuming."""
