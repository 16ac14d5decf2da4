"""DINO (Zhang et al., arXiv:2203.03605), in PyTorch alone, over any backbone of the project."""
