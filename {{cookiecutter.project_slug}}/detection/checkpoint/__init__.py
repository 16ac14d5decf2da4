"""Weight files and checkpoints: safe reading, atomic writing, resuming."""
