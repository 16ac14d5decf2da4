"""Where metrics go: terminal, JSON, TensorBoard and Weights & Biases."""
